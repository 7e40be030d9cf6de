"""What inserts or replaces is made once: a row leaves nothing behind that waits for the garbage collector."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Column
from sqlalchemy.sql.selectable import Alias

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.store import Store, upserts
from tests.store.test_contract import call, turn


async def every_write(store: Store, number: int) -> None:
    await store.save_call(call(f"c{number}"))
    await store.add_turn(f"c{number}", turn(number), 1.0)
    await store.session_intended(PendingSession(f"k{number}", f"c{number}"))
    await store.session_created(f"k{number}", f"sess_{number}", "https://api")
    await store.put_mapping("kind", f"m{number}", {})
    await store.write_mappings("live", {f"m{number}": {}, f"m{number - 1}": None})
    await store.seen_once(f"e{number}", 1.0)


async def test_nothing_of_a_statement_is_left(store: Store) -> None:
    await every_write(store, 1)
    gc.collect()
    garbage: list[Any] = []
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await every_write(store, 2)
        gc.collect()
        garbage += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert [thing for thing in garbage if isinstance(thing, Alias | Column)] == []


async def test_what_was_not_replaced_stays_and_what_is_gone_is_gone(store: Store) -> None:
    await store.write_mappings("live", {"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}})
    await store.write_mappings("other", {"a": {"n": 4}})
    await store.write_mappings("live", {"a": None, "c": None, "b": {"n": 5}, "never": None})
    assert await store.mappings("live") == {"b": {"n": 5}}
    assert await store.mappings("other") == {"a": {"n": 4}}


@pytest.mark.parametrize("known", ["session_id", "base_url", "reason"])
async def test_intending_again_replaces_only_by_what_is_known(store: Store, known: str) -> None:
    await store.session_intended(PendingSession("k", "c1", "s1", "https://a", {"x": 1}, "over", created_at=5.0))
    again: dict[str, Any] = {known: "new"}
    await store.session_intended(replace(PendingSession("k", "c2", created_at=9.0, attempts=2), **again))
    (row,) = await store.pending_sessions()
    before = {"session_id": "s1", "base_url": "https://a", "reason": "over"}
    assert {name: getattr(row, name) for name in before} == {**before, known: "new"}
    assert (row.call_id, row.request, row.attempts, row.created_at) == ("c2", None, 2, 5.0)


def test_they_are_made_once() -> None:
    assert upserts.of("sqlite") is upserts.of("sqlite")
    assert upserts.of("sqlite") is not upserts.of("postgresql")
