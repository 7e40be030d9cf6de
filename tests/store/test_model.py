"""Any order of operations: the store does what a handful of dictionaries would do."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.clock import SystemClock
from kallglot_ari.settings import StoreSettings
from kallglot_ari.store import Store, open_store
from kallglot_ari.store.store import SEEN_SECONDS
from tests.store.conftest import Postgres
from tests.store.test_contract import NOW, call

keys = st.sampled_from(["a", "b", "ü "])
words = st.text(max_size=8).filter(lambda t: "\x00" not in t and t.isprintable())
values = st.dictionaries(words, st.none() | st.booleans() | st.integers(-5, 5) | words, max_size=3)
operations = st.one_of(
    st.tuples(st.just("save"), keys, st.sampled_from(["setup", "active", "ended"]), st.integers(0, 3)),
    st.tuples(st.just("intend"), keys, words, st.integers(0, 3)),
    st.tuples(st.just("created"), keys, words.filter(bool)),
    st.tuples(st.just("to_end"), keys, st.sampled_from(["completed", "error"])),
    st.tuples(st.just("attempted"), keys),
    st.tuples(st.just("ended"), keys),
    st.tuples(st.just("put"), keys, values, st.none() | st.integers(0, 9)),
    st.tuples(st.just("update"), keys, values),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("seen"), keys, st.integers(0, 4)),
    st.tuples(st.just("reopen")),
)


class Model:
    """What the store should know."""

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}
        self.pending: dict[str, PendingSession] = {}
        self.mappings: dict[str, tuple[dict[str, Any], float | None]] = {}
        self.seen: dict[str, float] = {}

    async def both(self, store: Store, operation: tuple[Any, ...]) -> None:
        """Do `operation` here and there."""
        kind, *rest = operation
        await getattr(self, kind)(store, *rest)

    async def save(self, store: Store, key: str, state: str, minutes: int) -> None:
        if key not in self.calls or self.calls[key].state != "ended" or state == "ended":  # what has ended stays so
            self.calls[key] = call(key, state=state, minutes=minutes)
        await store.save_call(self.calls[key])

    async def intend(self, store: Store, key: str, call_id: str, at: int) -> None:
        new = PendingSession(key, call_id, created_at=at)
        old = self.pending.get(key)
        if old is not None:
            new = dataclasses.replace(old, call_id=call_id, request=None, attempts=0)
        self.pending[key] = new
        await store.session_intended(PendingSession(key, call_id, created_at=at))

    async def created(self, store: Store, key: str, session: str) -> None:
        if key in self.pending:
            self.pending[key] = dataclasses.replace(self.pending[key], session_id=session, base_url="u")
            await store.session_created(key, session, "u")

    async def to_end(self, store: Store, key: str, reason: str) -> None:
        if key in self.pending:
            self.pending[key] = dataclasses.replace(self.pending[key], reason=reason)
        await store.session_to_end(key, reason)

    async def attempted(self, store: Store, key: str) -> None:
        if key in self.pending:
            self.pending[key] = dataclasses.replace(self.pending[key], attempts=self.pending[key].attempts + 1)
        await store.session_attempted(key)

    async def ended(self, store: Store, key: str) -> None:
        self.pending.pop(key, None)
        await store.session_ended(key)

    async def put(self, store: Store, key: str, value: dict[str, Any], expires: int | None) -> None:
        new = key not in self.mappings
        if new:
            self.mappings[key] = (value, expires)
        assert await store.put_mapping("k", key, value, expires_at=expires) is new

    async def update(self, store: Store, key: str, value: dict[str, Any]) -> None:
        if key in self.mappings:
            self.mappings[key] = (value, self.mappings[key][1])
        await store.update_mapping("k", key, value)

    async def delete(self, store: Store, key: str) -> None:
        assert await store.delete_mapping("k", key) is (self.mappings.pop(key, None) is not None)

    async def compare(self, store: Store) -> None:
        order = sorted(self.calls.values(), key=lambda c: (c.started_at, c.id), reverse=True)
        assert sorted(await store.list_calls(), key=lambda c: c.id) == sorted(order, key=lambda c: c.id)
        assert [c.started_at for c in await store.list_calls()] == [c.started_at for c in order]
        assert {c.id for c in await store.list_calls(active=True)} == {c.id for c in order if c.state != "ended"}
        assert {p.key: p for p in await store.pending_sessions()} == self.pending
        assert await store.mappings("k") == {key: value for key, (value, _) in self.mappings.items()}
        due = {key: value for key, (value, at) in self.mappings.items() if at is not None and at <= 4}
        assert await store.expired_mappings("k", 4) == due


async def run(url: str, steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    store = open_store(StoreSettings(url=url), SystemClock(), retention_days=0)
    await store.start()
    try:
        for step in steps:
            if step[0] == "reopen":
                await store.close()
                await store.start()
            elif step[0] == "seen":
                at = NOW + 10**9 + step[2] * 86400.0  # in the future, so that the clean-up at the start leaves it
                new = step[1] not in model.seen or model.seen[step[1]] <= at - SEEN_SECONDS
                assert await store.seen_once(step[1], at) is new
                if new:
                    model.seen[step[1]] = at
            else:
                await model.both(store, step)
        await model.compare(store)
    finally:
        await store.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(operations, max_size=25))
def test_sqlite_is_its_model(tmp_path: Path, steps: list[tuple[Any, ...]]) -> None:
    asyncio.run(run(f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db", steps))


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(operations, max_size=25))
def test_postgresql_is_its_model(postgres: Postgres, steps: list[tuple[Any, ...]]) -> None:
    asyncio.run(run(postgres.database(), steps))


@pytest.mark.parametrize("order", [("put", "delete"), ("delete", "put")])
async def test_a_race_of_put_and_delete_is_one_after_the_other(url: str, order: tuple[str, str]) -> None:
    store = open_store(StoreSettings(url=url), SystemClock())
    await store.start()
    try:
        await store.put_mapping("k", "x", {"n": 0})
        work = {"put": store.put_mapping("k", "x", {"n": 1}), "delete": store.delete_mapping("k", "x")}
        results = dict(zip(order, await asyncio.gather(*(work[name] for name in order)), strict=True))
        assert results["delete"]
        assert await store.mappings("k") == ({"x": {"n": 1}} if results["put"] else {})
    finally:
        await store.close()
