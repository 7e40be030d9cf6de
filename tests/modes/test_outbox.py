"""The outbox: whatever fails, and whenever it stops, every session that may cost money is ended, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.clock import ManualClock
from kallglot_ari.errors import (
    ApiConflict,
    ApiCreditsExhausted,
    ApiError,
    ApiInvalid,
    ApiNotFound,
    ApiUnauthorized,
    ApiUnavailable,
    StoreError,
)
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes import outbox as module
from kallglot_ari.modes.outbox import KEY_LIFE, MAX_PAUSE, Outbox
from tests.modes.trunk_fakes import FakeStore, FakeTranslator

REQUEST = SessionRequest(source_language="de", target_language="en", metadata={"ticket": "7"})
KEY = "kg-a-1.k1"


class Kallglot(FakeTranslator):
    """Remembers keys as the API does, and can lose answers, fail a number of times, or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.lose_answer: Exception | None = None
        self.end_errors: list[Exception] = []
        self.create_keys: list[str] = []
        self.end_keys: list[str] = []

    async def create_session(self, request: SessionRequest, *, idempotency_key: str) -> Session:
        self.create_keys.append(idempotency_key)
        session = await super().create_session(request, idempotency_key=idempotency_key)
        if self.lose_answer is not None:
            error, self.lose_answer = self.lose_answer, None
            raise error
        return session

    async def end_session(
        self, session_id: str, reason: str, *, base_url: str = "", idempotency_key: str = ""
    ) -> dict[str, Any]:
        self.end_keys.append(idempotency_key)
        assert base_url == "https://a", "a session is ended where it was created"
        if self.end_errors:
            raise self.end_errors.pop(0)
        return await super().end_session(session_id, reason, base_url=base_url, idempotency_key=idempotency_key)


class Store(FakeStore):
    """Unknown keys are harmless, as the Protocol says; attempts are counted; reads can fail too."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def session_created(self, key: str, session_id: str, base_url: str) -> None:
        self._write("created")
        await self.gate.wait()
        if key in self.pending:
            self.pending[key] = replace(self.pending[key], session_id=session_id, base_url=base_url)

    async def session_to_end(self, key: str, reason: str) -> None:
        self._write("to_end")
        if key in self.pending:
            self.pending[key] = replace(self.pending[key], reason=reason)

    async def session_attempted(self, key: str) -> None:
        self._write("attempted")
        if key in self.pending:
            self.pending[key] = replace(self.pending[key], attempts=self.pending[key].attempts + 1)

    async def pending_sessions(self) -> list[PendingSession]:
        if self.unreadable:
            raise StoreError("locked")
        return await super().pending_sessions()


class Bench:
    """An outbox with everything it needs, and a hand on the clock."""

    def __init__(self) -> None:
        self.kallglot, self.store, self.metrics, self.clock = Kallglot(), Store(), Metrics(), ManualClock()
        self.outbox = self.another()

    def another(self) -> Outbox:
        return Outbox(self.kallglot, self.store, self.metrics, self.clock, prefix="kg-a")

    async def until(self, condition: Callable[[], object], *, step: float = MAX_PAUSE) -> None:
        """Let the time go on, `step` seconds a sweep, until `condition` holds."""
        async with asyncio.timeout(5):
            while not condition():
                self.clock.advance(step)
                await asyncio.sleep(0.002)

    @property
    def gauge(self) -> float | None:
        return self.metrics.registry.get_sample_value("kallglot_sessions_pending_end")

    def settled(self) -> bool:
        """Nothing costs money, nothing is left to do."""
        return not (self.kallglot.open or self.store.pending or self.outbox.pending or self.gauge)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.002)
    bench = Bench()
    yield bench
    bench.kallglot.end_error = None
    await bench.outbox.stop(0)


async def test_a_session_is_written_down_before_it_is_created_and_struck_out_when_ended(bench: Bench) -> None:
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    assert bench.store.log == ["intended", "created"]
    row = bench.store.pending[KEY]
    assert (row.call_id, row.session_id, row.base_url, row.reason) == ("kg-a-1", session.id, "https://a", "")
    assert row.request == asdict(REQUEST)
    assert row.created_at == bench.clock.wall().timestamp()
    assert bench.outbox.pending == 0
    await bench.outbox.end(KEY, session.id, "completed")
    assert bench.store.log == ["intended", "created", "to_end", "ended"]
    assert bench.kallglot.ended == [("sess_1", "completed")]
    assert bench.kallglot.end_keys == [f"{KEY}.end"]
    assert bench.settled()


@pytest.mark.parametrize("error", [ApiCreditsExhausted("pay"), ApiInvalid("x"), ApiUnauthorized("key"), ApiError("x")])
async def test_a_refused_creation_leaves_nothing(bench: Bench, error: ApiError) -> None:
    bench.kallglot.create_error = error
    with pytest.raises(type(error)):
        await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    assert bench.settled()


@pytest.mark.parametrize("error", [ApiUnavailable("no answer"), ApiConflict("running"), RuntimeError("a bug")])
async def test_created_but_the_answer_lost_is_settled_with_the_same_key(bench: Bench, error: Exception) -> None:
    await bench.outbox.start()
    bench.kallglot.lose_answer = error
    with pytest.raises(type(error)):
        await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    assert bench.outbox.pending == 1
    assert bench.gauge == 1
    assert bench.store.pending[KEY].reason == "error"
    await bench.until(bench.settled)
    assert set(bench.kallglot.create_keys) == {KEY}
    assert bench.kallglot.requests == [REQUEST], "one session, of the first request"
    assert bench.kallglot.ended == [("sess_1", "error")]


async def test_it_is_not_asked_again_before_a_moment_has_passed(bench: Bench) -> None:
    await bench.outbox.start()
    bench.kallglot.lose_answer = ApiUnavailable("no answer")
    with pytest.raises(ApiUnavailable):
        await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    await asyncio.sleep(0.02)
    assert bench.kallglot.create_keys == [KEY]
    await bench.until(bench.settled)


async def test_what_turns_out_never_to_have_been_created_is_struck_out(bench: Bench) -> None:
    await bench.outbox.start()
    bench.kallglot.create_error = ApiUnavailable("down")
    with pytest.raises(ApiUnavailable):
        await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.create_error = ApiCreditsExhausted("pay")
    await bench.until(bench.settled)
    assert bench.kallglot.ended == []


async def test_with_a_key_that_is_refused_at_the_moment_it_goes_on_asking(bench: Bench) -> None:
    await bench.outbox.start()
    bench.kallglot.lose_answer = ApiUnavailable("no answer")
    with pytest.raises(ApiUnavailable):
        await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.create_error, bench.kallglot.created = ApiUnauthorized("expired"), {}
    await bench.until(lambda: len(bench.kallglot.create_keys) > 3)
    assert bench.outbox.pending == 1
    bench.kallglot.create_error = None
    await bench.until(bench.settled)


async def test_an_id_that_is_known_by_now_is_not_lost_when_its_end_fails(bench: Bench) -> None:
    """Asked again and answered, then the end is refused: the row must not be struck out as never created."""
    await bench.outbox.start()
    bench.kallglot.lose_answer = ApiUnavailable("no answer")
    bench.kallglot.end_errors = [ApiInvalid("busy"), ApiUnavailable("down")]
    with pytest.raises(ApiUnavailable):
        await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    await bench.until(lambda: len(bench.kallglot.end_keys) == 1)
    assert bench.store.pending[KEY].session_id == "sess_1"
    await bench.until(bench.settled)
    assert bench.kallglot.create_keys == [KEY, KEY]
    assert bench.kallglot.ended == [("sess_1", "error")]


@pytest.mark.parametrize("stage", ["creation", "note"])
async def test_a_creation_that_nobody_waits_for_any_more_is_ended(bench: Bench, stage: str) -> None:
    await bench.outbox.start()
    gate = bench.kallglot.gate if stage == "creation" else bench.store.gate
    gate.clear()
    creating = asyncio.get_running_loop().create_task(bench.outbox.create(KEY, "kg-a-1", REQUEST))
    await bench.kallglot.asked.wait()
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert bench.outbox.pending == 1
    gate.set()
    await bench.until(bench.settled)
    assert len(bench.kallglot.requests) == 1


async def test_an_end_that_fails_is_tried_again_at_growing_intervals(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 5.0)
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.end_error = ApiUnavailable("down")
    await bench.outbox.end(KEY, session.id, "customer_hangup")
    pauses = []
    for _ in range(12):
        pauses.append(bench.outbox._not_before[KEY] - bench.clock.now())
        await bench.outbox._try(KEY)
    assert all(0.8 * 5 <= pause <= 1.2 * MAX_PAUSE for pause in pauses)
    assert pauses[0] < 7 < pauses[2] < pauses[5]
    assert pauses[-1] >= 0.8 * MAX_PAUSE
    assert bench.store.pending[KEY].attempts == 13
    assert bench.gauge == 1
    bench.kallglot.end_error = None
    await bench.outbox.stop()
    assert bench.settled()
    assert bench.kallglot.ended == [("sess_1", "customer_hangup")]


async def test_the_sweep_ends_it_when_kallglot_is_back(bench: Bench) -> None:
    await bench.outbox.start()
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.end_errors = [ApiUnavailable("down"), ApiUnauthorized("key"), RuntimeError("a bug")]
    await bench.outbox.end(KEY, session.id, "completed")
    await bench.until(bench.settled)
    assert bench.kallglot.ended == [("sess_1", "completed")]
    assert set(bench.kallglot.end_keys) == {f"{KEY}.end"}


async def test_gone_already_is_ended(bench: Bench) -> None:
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.end_errors = [ApiNotFound("gone")]
    await bench.outbox.end(KEY, session.id, "completed")
    assert not bench.store.pending
    assert bench.outbox.pending == 0


async def test_once_however_often_it_is_asked_for(bench: Bench) -> None:
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    await asyncio.gather(*(bench.outbox.end(KEY, session.id, reason) for reason in ("completed", "error", "timeout")))
    await bench.outbox.end(KEY, session.id, "error")
    assert bench.kallglot.ended == [("sess_1", "completed")]
    assert bench.settled()


async def test_the_first_reason_stays_for_its_key_was_used_with_it(bench: Bench) -> None:
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.end_errors = [ApiUnavailable("no answer")]
    await bench.outbox.end(KEY, session.id, "agent_hangup")
    await bench.outbox.end(KEY, session.id, "error")
    assert bench.kallglot.ended == [("sess_1", "agent_hangup")]


async def test_a_session_it_never_heard_of_is_ended_too_but_nothing_is_made_to_be_ended(bench: Bench) -> None:
    bench.kallglot.end_errors = [ApiNotFound("gone")]
    module_row = PendingSession("kg-a-9.k1", "", session_id="sess_9", base_url="https://a")
    bench.outbox._rows[module_row.key] = module_row
    await bench.outbox.end(module_row.key, "sess_9", "completed")
    assert bench.kallglot.end_keys == ["kg-a-9.k1.end"]
    await bench.outbox.end("kg-a-8.k1", "", "completed")
    assert bench.kallglot.create_keys == []


async def test_a_store_that_fails_does_not_stop_a_call_nor_its_end(bench: Bench) -> None:
    bench.store.fail = True
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    await bench.outbox.end(KEY, session.id, "completed")
    assert bench.kallglot.ended == [("sess_1", "completed")]
    assert bench.settled()


async def test_with_a_failing_store_a_failing_end_is_kept_in_memory(bench: Bench) -> None:
    await bench.outbox.start()
    bench.store.fail = True
    bench.kallglot.end_errors = [ApiUnavailable("down")] * 3
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    await bench.outbox.end(KEY, session.id, "completed")
    await bench.until(bench.settled)


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
    await bench.until(lambda: len(bench.kallglot.ended) == 3)
    assert set(bench.store.pending) == {"a-t-live", "ab-t-other", "kg-b-1"}


async def test_stop_tries_once_more_and_leaves_the_rest_in_the_store(bench: Bench) -> None:
    await bench.outbox.start()
    for n in (1, 2):
        session = await bench.outbox.create(f"kg-a-{n}.k1", f"kg-a-{n}", REQUEST)
        bench.kallglot.end_errors = [ApiUnavailable("down")]
        await bench.outbox.end(f"kg-a-{n}.k1", session.id, "completed")
    bench.kallglot.end_errors = [ApiUnavailable("still down")]
    await bench.outbox.stop(1)
    assert [reason for _, reason in bench.kallglot.ended] == ["completed"]
    assert len(bench.store.pending) == 1
    assert bench.outbox.pending == 1


async def test_stop_does_not_wait_for_ever(bench: Bench) -> None:
    async def hangs(*_: object, **__: object) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.end_errors = [ApiUnavailable("down")]
    await bench.outbox.end(KEY, session.id, "completed")
    bench.kallglot.end_session = hangs  # type: ignore[method-assign]
    async with asyncio.timeout(2):
        await bench.outbox.stop(0.05)
    assert bench.store.pending[KEY].reason == "completed"
