"""SQLite's writer: writes that wait share a commit, and only it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.errors import StoreError
from kallglot_ari.store import Store, writer
from tests.store.conftest import Open
from tests.store.test_contract import call


@pytest.fixture
async def store(tmp_path: Path, opened: Open) -> Store:
    store: Store = await opened(f"sqlite:///{tmp_path}/calls.db")
    await store._background.close()  # which writes by itself
    return store


def commits(store: Store) -> list[Any]:
    """Grows with every commit from now on."""
    assert store._engine is not None
    seen: list[Any] = []
    event.listen(store._engine.sync_engine, "commit", seen.append)
    return seen


async def test_what_waits_goes_to_disk_together(store: Store) -> None:
    seen = commits(store)
    await asyncio.gather(*(store.save_call(call(f"c{n}", minutes=n)) for n in range(100)))
    assert len(seen) <= 1 + -(-100 // writer.TOGETHER)
    assert len(await store.list_calls(limit=200)) == 100


async def test_one_write_alone_is_one_commit(store: Store) -> None:
    seen = commits(store)
    await store.save_call(call())
    assert len(seen) == 1


async def test_they_are_carried_out_in_their_order(store: Store) -> None:
    await asyncio.gather(
        store.session_intended(PendingSession("k", "c1")),
        store.session_created("k", "sess_1", "https://api"),
        store.session_to_end("k", "completed"),
        store.session_attempted("k"),
    )
    (row,) = await store.pending_sessions()
    assert (row.session_id, row.reason, row.attempts) == ("sess_1", "completed", 1)


async def test_one_that_fails_takes_no_other_with_it(store: Store) -> None:
    async def fails(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("INSERT INTO kallglot_mappings (kind) VALUES ('half')")

    outcomes = await asyncio.gather(
        *(store.save_call(call(f"a{n}")) for n in range(5)),
        store._write("what fails", fails),
        *(store.session_attempted("nobody") for _ in range(5)),
        *(store.save_call(call(f"b{n}")) for n in range(5)),
        return_exceptions=True,
    )
    failed = [outcome for outcome in outcomes if outcome is not None]
    assert len(failed) == 1
    assert isinstance(failed[0], StoreError)
    assert "what fails" in str(failed[0])
    assert len(await store.list_calls()) == 10


async def test_a_batch_that_is_done_again_counts_once(store: Store) -> None:
    async def fails(_: AsyncConnection) -> None:
        raise StoreError("not this one")

    await store.session_intended(PendingSession("k", "c1"))
    await asyncio.gather(
        *(store.session_attempted("k") for _ in range(7)), store._write("it", fails), return_exceptions=True
    )
    assert (await store.pending_sessions())[0].attempts == 7


async def test_a_lock_is_waited_for_once_by_all_and_each_is_told(tmp_path: Path, opened: Open) -> None:
    store = await opened(f"sqlite:///{tmp_path}/calls.db", busy_timeout=0.2)
    other = await opened(f"sqlite:///{tmp_path}/calls.db")
    held, begun = asyncio.Event(), asyncio.Event()

    async def hold(_: AsyncConnection) -> None:
        begun.set()
        await held.wait()

    holding = asyncio.get_running_loop().create_task(other._write("hold", hold))
    await begun.wait()
    started = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(*(store.save_call(call(f"c{n}")) for n in range(20)), return_exceptions=True)
    assert asyncio.get_running_loop().time() - started < 2.0, "20 time-outs one after the other are 4 s"
    assert all(isinstance(outcome, StoreError) for outcome in outcomes)
    held.set()
    await holding
    await store.save_call(call("after"))
    assert [c.id for c in await store.list_calls()] == ["after"]


async def test_more_than_can_wait_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "WAITING_MAX", 10)
    outcomes = await asyncio.gather(*(store.save_call(call(f"c{n}")) for n in range(30)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, StoreError)]
    assert refused
    assert "wait for the database already" in str(refused[0])
    assert len(await store.list_calls()) == 30 - len(refused)


async def test_who_still_waits_when_the_store_is_closed_is_told(store: Store) -> None:
    never = asyncio.Event()

    async def hangs(_: AsyncConnection) -> None:
        await never.wait()

    store._busy_timeout = 0.1
    waiting = [asyncio.get_running_loop().create_task(store._write("it hangs", hangs))]
    await asyncio.sleep(0.05)
    waiting += [asyncio.get_running_loop().create_task(store.save_call(call(f"c{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(outcome).rpartition(": ")[2] for outcome in outcomes] == ["the store was closed"] * 4


async def test_a_connection_keeps_little_of_the_file(store: Store) -> None:
    assert store._engine is not None
    async with store._engine.connect() as connection:
        assert (await connection.exec_driver_sql("PRAGMA cache_size")).scalar() == -128
