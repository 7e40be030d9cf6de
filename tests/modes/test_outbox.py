"""The outbox: whatever fails, and whenever it stops, every session that may cost money is ended, once."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import pytest

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.errors import (
    ApiConflict,
    ApiCreditsExhausted,
    ApiError,
    ApiInvalid,
    ApiNotFound,
    ApiRateLimited,
    ApiUnauthorized,
    ApiUnavailable,
    ConfigError,
)
from kallglot_ari.kallglot.http import NotSent
from kallglot_ari.modes import outbox as module
from kallglot_ari.modes.outbox import MAX_PAUSE
from tests.modes.outbox_bench import KEY, REQUEST, Bench

pytestmark = pytest.mark.real_time


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


@pytest.mark.parametrize("error", [NotSent("refused"), ApiRateLimited("later")])
async def test_what_was_never_asked_for_is_not_bought_when_kallglot_is_back(bench: Bench, error: ApiError) -> None:
    await bench.outbox.start()
    bench.kallglot.create_error = error
    for number in range(30):
        with pytest.raises(type(error)):
            await bench.outbox.create(f"kg-a-{number}.k1", f"kg-a-{number}", REQUEST)
    assert bench.settled()
    bench.kallglot.create_error = None
    bench.clock.advance(MAX_PAUSE)
    await asyncio.sleep(0.02)
    assert bench.kallglot.requests == []


async def test_what_was_asked_for_before_is_settled_though_it_cannot_be_asked_for_now(bench: Bench) -> None:
    await bench.outbox.start()
    bench.kallglot.lose_answer = ApiUnavailable("no answer")
    with pytest.raises(ApiUnavailable):
        await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    created, bench.kallglot.created = bench.kallglot.created, {}
    bench.kallglot.create_error = NotSent("refused")
    with pytest.raises(ApiUnavailable):
        await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.create_error, bench.kallglot.created = None, created
    await bench.until(bench.settled)
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
    gate, creating = await bench.creates(stage)
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


async def test_what_the_store_did_not_take_is_written_when_it_is_back(bench: Bench) -> None:
    bench.store.fail = True
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    assert bench.store.pending == {}
    bench.store.fail = False
    await bench.outbox.start()
    await bench.until(lambda: bench.store.pending)
    row = bench.store.pending[KEY]
    assert (row.session_id, row.call_id, row.reason) == (session.id, "kg-a-1", "")
    await bench.outbox.end(KEY, session.id, "completed")
    assert bench.settled()


async def test_an_end_that_the_store_did_not_take_is_not_made_again(bench: Bench) -> None:
    await bench.outbox.start()
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.store.fail = True
    await bench.outbox.end(KEY, session.id, "completed")
    await asyncio.sleep(0.02)
    bench.store.fail = False
    await bench.until(bench.settled)
    assert bench.kallglot.ended == [("sess_1", "completed")]


async def test_after_an_outage_many_sessions_are_ended_at_once(bench: Bench) -> None:
    await bench.outbox.start()
    bench.kallglot.end_error = ApiUnavailable("down")
    for number in range(40):
        session = await bench.outbox.create(f"kg-a-{number}.k1", f"kg-a-{number}", REQUEST)
        await bench.outbox.end(f"kg-a-{number}.k1", session.id, "completed")
    assert bench.outbox.pending == 40
    bench.kallglot.end_error = None
    bench.clock.advance(module.MAX_PAUSE * 2)
    async with asyncio.timeout(1):
        while bench.outbox.pending:
            await asyncio.sleep(0.002)
    await bench.until(bench.settled)
    assert len(bench.kallglot.ended) == 40


async def test_a_sweep_that_fails_is_not_the_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    ask = bench.store.pending_sessions

    async def pending_sessions() -> list[PendingSession]:
        if not refused:
            refused.append("password")
            raise ConfigError("store.url: PostgreSQL: wrong user or password")
        return await ask()

    await bench.outbox.start()
    monkeypatch.setattr(bench.store, "pending_sessions", pending_sessions)
    bench.outbox.watch("other-t-", set)
    session = await bench.outbox.create(KEY, "kg-a-1", REQUEST)
    bench.kallglot.end_errors = [ApiUnavailable("down")]
    await bench.until(lambda: refused)
    await bench.outbox.end(KEY, session.id, "completed")
    await bench.until(bench.settled)
