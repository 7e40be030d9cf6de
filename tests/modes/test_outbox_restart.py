"""The outbox after a restart: rows that an earlier run or another part left are ended, those of live calls are not."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

import pytest

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.calls.model import Session
from kallglot_ari.clock import ManualClock
from kallglot_ari.errors import ApiInvalid, ApiNotFound
from kallglot_ari.modes.outbox import KEY_LIFE, MAX_PAUSE, Outbox
from tests.modes.outbox_bench import KEY, REQUEST, Bench

pytestmark = pytest.mark.real_time


def left(key: str, **changes: Any) -> PendingSession:
    row = PendingSession(
        key, "call", "sess_" + key, "https://a", asdict(REQUEST), created_at=ManualClock().wall().timestamp()
    )
    return replace(row, **changes)


async def test_a_restart_takes_over_the_rows_of_its_own_prefix_only(bench: Bench) -> None:
    rows = [
        left("kg-a-1.k1"),
        left("kg-a-2.k1", reason="agent_hangup"),
        left("kg-ab-1.k1", reason="error"),
        left("kg-b-1.k1"),
        left("a-t-1"),
    ]
    bench.store.pending = {row.key: row for row in rows}
    await bench.outbox.start()
    await bench.until(lambda: not bench.outbox.pending)
    assert sorted(bench.kallglot.ended) == [("sess_kg-a-1.k1", "error"), ("sess_kg-a-2.k1", "agent_hangup")]
    assert set(bench.store.pending) == {"kg-ab-1.k1", "kg-b-1.k1", "a-t-1"}
    assert bench.kallglot.create_keys == []


async def test_sessions_of_calls_that_may_go_on_wait_for_the_decision(bench: Bench) -> None:
    rows = [
        left("kg-a-1.s1", call_id="kg-a-1"),
        left("kg-a-1.s2", call_id="kg-a-1"),
        left("kg-a-2.s1", call_id="kg-a-2"),
        left("kg-a-3.s1", call_id="kg-a-3", reason="agent_hangup"),
        left("kg-a-4.s1", call_id="kg-a-4"),
    ]
    bench.store.pending = {row.key: row for row in rows}
    await bench.outbox.start(waiting=["kg-a-1", "kg-a-2", "kg-a-3"])
    await bench.until(lambda: not bench.outbox.pending)
    assert {session for session, _ in bench.kallglot.ended} == {"sess_kg-a-3.s1", "sess_kg-a-4.s1"}
    bench.outbox.decide("kg-a-1", ["kg-a-1.s2"])
    bench.outbox.decide("kg-a-2")
    await bench.until(lambda: not bench.outbox.pending)
    assert set(bench.store.pending) == {"kg-a-1.s2"}
    await bench.outbox.end("kg-a-1.s2", "sess_kg-a-1.s2", "completed")
    assert bench.kallglot.ended[-1] == ("sess_kg-a-1.s2", "completed")
    assert len(bench.kallglot.ended) == 5


async def test_a_call_that_goes_on_keeps_its_session_though_the_store_is_read_late(bench: Bench) -> None:
    bench.store.pending = {row.key: row for row in [left("kg-a-1.s1", call_id="kg-a-1")]}
    bench.store.unreadable = True
    await bench.outbox.start(waiting=["kg-a-1"])
    bench.outbox.decide("kg-a-1", ["kg-a-1.s1"])
    bench.store.unreadable = False
    for _ in range(5):
        bench.clock.advance(MAX_PAUSE)
        await asyncio.sleep(0.005)
    assert bench.kallglot.ended == []


async def test_a_creation_repeated_after_a_restart_does_not_lose_the_session_when_it_is_refused(bench: Bench) -> None:
    bench.store.pending = {row.key: row for row in [left("kg-a-1.s1", call_id="kg-a-1")]}
    await bench.outbox.start(waiting=["kg-a-1"])
    bench.outbox.decide("kg-a-1", ["kg-a-1.s1"])
    bench.kallglot.create_error = ApiInvalid("another body", status=400)
    with pytest.raises(ApiInvalid):
        await bench.outbox.create("kg-a-1.s1", "kg-a-1", REQUEST)
    await bench.until(lambda: not bench.outbox.pending)
    assert [session for session, _ in bench.kallglot.ended] == ["sess_kg-a-1.s1"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_session_that_was_ended_as_left_is_not_gone_on_with(bench: Bench, when: str) -> None:
    """A killed run had asked under the key, and not yet written that into its call: the call asks anew, under the same one."""
    if when == "before":
        bench.store.pending = {KEY: left(KEY, session_id="", base_url="")}
        await bench.outbox.start()
        await bench.until(lambda: not bench.outbox.pending)
        with pytest.raises(ApiNotFound):
            await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    else:
        gate, creating = await bench.creates("creation")
        bench.outbox._ended[KEY] = None  # the sweep had asked first
        gate.set()
        with pytest.raises(ApiNotFound):
            await creating
        await bench.kallglot.end_session("sess_1", "error", base_url="https://a")
    await bench.outbox.end(KEY, "sess_1", "completed")
    assert bench.kallglot.ended == [("sess_1", "error")]
    assert bench.settled()


async def test_sessions_of_an_embedded_kallglot_died_with_it(bench: Bench) -> None:
    rows = [
        left("kg-a-1.s1", base_url="http://127.0.0.1:4/v1"),
        left("kg-a-2.s1", base_url="https://a"),
        left("kg-a-3.s1", session_id="", base_url=""),
    ]
    bench.store.pending = {row.key: row for row in rows}
    bench.outbox = Outbox(
        bench.kallglot, bench.store, bench.metrics, bench.clock, prefix="kg-a", embedded="http://127.0.0.1:5/v1"
    )
    await bench.outbox.start()
    assert "kg-a-1.s1" not in bench.store.pending
    await bench.until(lambda: not bench.outbox.pending)
    assert "sess_kg-a-1.s1" not in dict(bench.kallglot.ended)


async def test_a_crash_between_the_intention_and_the_answer(bench: Bench) -> None:
    """The process ends while the request is under way; the next one asks again with the same key, and ends."""
    bench.kallglot.gate.clear()
    creating = asyncio.get_running_loop().create_task(bench.outbox.create(KEY, "kg-a-1", REQUEST))
    await bench.kallglot.asked.wait()
    on_disk = dict(bench.store.pending)
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    bench.store.pending = on_disk
    bench.kallglot.gate.set()
    bench.outbox = bench.another()
    await bench.outbox.start()
    await bench.until(bench.settled)
    assert bench.kallglot.requests == [REQUEST]
    assert bench.kallglot.ended == [("sess_1", "error")]


@pytest.mark.parametrize("stage", ["creation", "note"])
@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_creation_that_a_hand_over_cuts_off_is_the_next_runs(bench: Bench, stage: str, goes_on: bool) -> None:
    gate, creating = await bench.creates(stage)
    bench.outbox.leave()
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    gate.set()
    await bench.outbox.stop()
    assert bench.kallglot.ended == []
    assert bench.store.pending[KEY].reason == ""
    bench.outbox = bench.another()
    await bench.outbox.start(waiting=["kg-a-1"])
    bench.outbox.decide("kg-a-1", [KEY] if goes_on else [])
    if goes_on:
        assert (await bench.outbox.create(KEY, "kg-a-1", REQUEST)).id == "sess_1"
        bench.clock.advance(MAX_PAUSE)
        await asyncio.sleep(0.02)
        assert bench.kallglot.open == {"sess_1"}
        await bench.outbox.end(KEY, "sess_1", "completed")
    await bench.until(bench.settled)
    assert bench.kallglot.requests == [REQUEST]
    assert bench.kallglot.ended == [("sess_1", "completed" if goes_on else "error")]


async def test_a_creation_that_a_stop_cuts_off_is_ended_by_it(bench: Bench) -> None:
    await bench.outbox.start()
    bench.kallglot.gate.clear()
    creating = asyncio.get_running_loop().create_task(bench.outbox.create(KEY, "kg-a-1", REQUEST))
    await bench.kallglot.asked.wait()
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    bench.kallglot.gate.set()
    await bench.outbox.stop()
    assert bench.kallglot.ended == [("sess_1", "error")]
    assert bench.settled()


async def test_a_key_that_kallglot_has_forgotten_buys_no_second_session(bench: Bench) -> None:
    bench.store.pending = {KEY: left(KEY, session_id="")}
    bench.clock.advance(KEY_LIFE + 1)
    await bench.outbox.start()
    await bench.until(bench.settled)
    assert bench.kallglot.create_keys == []


@pytest.mark.parametrize(
    "request_row",
    [{**asdict(REQUEST), "of_a_later_version": 1}, None, {}, asdict(REQUEST)],
    ids=["later", "none", "empty", "same"],
)
async def test_rows_of_other_versions_are_understood(bench: Bench, request_row: dict[str, Any] | None) -> None:
    bench.store.pending = {KEY: left(KEY, session_id="", request=request_row)}
    await bench.outbox.start()
    await bench.until(bench.settled)
    assert len(bench.kallglot.ended) == 1


async def test_one_row_that_cannot_be_handled_does_not_stop_the_others(bench: Bench) -> None:
    async def crashes(*_: object, **__: object) -> Session:
        raise TypeError("a bug")

    bench.kallglot.create_session = crashes  # type: ignore[method-assign]
    bench.store.pending = {"kg-a-0.k1": left("kg-a-0.k1", session_id=""), "kg-a-1.k1": left("kg-a-1.k1")}
    await bench.outbox.start()
    await bench.until(lambda: bench.kallglot.ended)
    assert bench.kallglot.ended == [("sess_kg-a-1.k1", "error")]
    await bench.until(lambda: bench.store.pending["kg-a-0.k1"].attempts > 2)
    bench.outbox._rows.clear()


async def test_a_store_that_cannot_be_read_at_the_start_is_read_later(bench: Bench) -> None:
    bench.store.pending, bench.store.unreadable = {KEY: left(KEY)}, True
    await bench.outbox.start()
    await asyncio.sleep(0.02)
    assert bench.kallglot.ended == []
    bench.store.unreadable = False
    await bench.until(bench.settled)
    assert bench.kallglot.ended == [(f"sess_{KEY}", "error")]


async def test_a_late_look_at_the_store_leaves_live_calls_alone(bench: Bench) -> None:
    bench.store.unreadable = True
    await bench.outbox.start()
    await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.store.unreadable = False
    await bench.until(lambda: bench.outbox._taken_over)
    assert bench.outbox.pending == 0


async def test_more_rows_than_a_sweep_takes(bench: Bench) -> None:
    bench.store.pending = {f"kg-a-{n}.k1": left(f"kg-a-{n}.k1") for n in range(65)}
    await bench.outbox.start()
    await bench.until(bench.settled)
    assert len(bench.kallglot.ended) == 65


async def test_what_another_part_left_is_ended_and_its_live_calls_are_not(bench: Bench) -> None:
    await bench.outbox.start()
    bench.clock.advance(10)
    now = bench.clock.wall().timestamp()
    bench.outbox.watch("a-t-", lambda: {"a-t-live"})
    rows = [
        left("a-t-left"),
        left("a-t-live"),
        left("a-t-new", created_at=now),
        left("a-t-due", created_at=now, reason="timeout"),
    ]
    bench.store.pending = {row.key: row for row in [*rows, left("ab-t-other"), left("kg-b-1", reason="error")]}
    await bench.until(lambda: len(bench.kallglot.ended) == 2)
    assert sorted(bench.kallglot.ended) == [("sess_a-t-due", "timeout"), ("sess_a-t-left", "error")]
    bench.store.pending["a-t-new"] = replace(bench.store.pending["a-t-new"], reason="completed")
    bench.store.unreadable = True
    await asyncio.sleep(0.01)
    bench.store.unreadable = False
    await bench.until(lambda: set(bench.store.pending) == {"a-t-live", "ab-t-other", "kg-b-1"})
    assert len(bench.kallglot.ended) == 3


async def test_of_the_earlier_name_only_what_is_known_to_be_ours(bench: Bench) -> None:
    rows = [left("kg-old-1.s1", call_id="kg-old-1"), left("kg-old-2.s1"), left("kg-old-3.s1", reason="completed")]
    bench.store.pending = {row.key: row for row in rows}
    bench.outbox = Outbox(
        bench.kallglot, bench.store, bench.metrics, bench.clock, prefix="kg-a", earlier="kg-old"
    )  # fmt: skip
    await bench.outbox.start(["kg-old-1"])
    bench.outbox.decide("kg-old-1")
    await bench.until(lambda: not bench.outbox.pending)
    assert set(bench.store.pending) == {"kg-old-2.s1"}
