"""The runner: events one at a time and in order, each lane in order, lanes side by side, and an end to everything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import cast

import pytest
from structlog.contextvars import get_contextvars

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import DialplanStatus, EndReason, Session
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import AriConflict, AriNotFound, AriUnavailable, StreamClosed, StreamRefused
from tests.calls.script import plan

pytestmark = pytest.mark.real_time

SESSION = Session("sess_1", "bidirectional_translation", "ws://x", "kst_x", None)
FINISH = c.Finish(EndReason.COMPLETED, DialplanStatus.COMPLETED)


class Machine:
    """Answers each event with what the test laid down for it, and keeps the events."""

    def __init__(self) -> None:
        self.plan = plan(call_id="kg-t-1")
        self.first: list[c.Command] = []
        self.events: list[e.Event] = []
        self.answers: list[tuple[Callable[[e.Event], bool], list[c.Command] | Exception]] = []
        self.depth = 0

    def start(self) -> list[c.Command]:
        return self.first

    def handle(self, event: e.Event, now: float, wall: datetime) -> list[c.Command]:
        assert self.depth == 0, "one event at a time"
        assert now > 0
        assert wall.tzinfo is not None
        self.depth += 1
        try:
            self.events.append(event)
            for where, commands in self.answers:
                if where(event):
                    if isinstance(commands, Exception):
                        raise commands
                    return commands
            return []
        finally:
            self.depth -= 1

    def on(self, where: e.Event | type[e.Event], *commands: c.Command) -> None:
        match = (lambda event: isinstance(event, where)) if isinstance(where, type) else (lambda event: event == where)
        self.answers.append((match, list(commands)))


class Actions:
    """Carries commands out when the test opens their gate; keeps what was begun and ended."""

    def __init__(self) -> None:
        self.begun: list[c.Command] = []
        self.ended: list[c.Command] = []
        self.applied: list[c.Command] = []
        self.gates: dict[c.Command, asyncio.Event] = {}
        self.outcomes: dict[c.Command, e.Event | Exception] = {}
        self.on_apply: Callable[[c.Command], None] = lambda _: None

    def hold(self, *commands: c.Command) -> None:
        for command in commands:
            self.gates[command] = asyncio.Event()

    def apply(self, command: c.Command) -> None:
        self.applied.append(command)
        self.on_apply(command)

    async def execute(self, command: c.Command) -> e.Event | None:
        self.begun.append(command)
        if command in self.gates:
            await self.gates[command].wait()
        self.ended.append(command)
        outcome = self.outcomes.get(command)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Bench:
    def __init__(self) -> None:
        self.machine, self.actions = Machine(), Actions()
        self.finished: list[CallRunner] = []
        self.runner = CallRunner(cast(CallMachine, self.machine), SystemClock(), self.finished.append)

    def start(self, *commands: c.Command) -> None:
        self.machine.first = list(commands)
        self.runner.start(self.actions)

    async def quiet(self) -> None:
        """Until nothing more can happen without the test's or the clock's doing."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.runner.close()
    assert len(bench.runner.tasks) == 0


def bridge(name: str) -> c.CreateBridge:
    return c.CreateBridge(name)


async def test_a_lane_goes_in_order_and_lanes_side_by_side(bench: Bench) -> None:
    a1, a2, b1 = c.CreateBridge("a"), c.DestroyBridge("a"), bridge("b")
    bench.actions.hold(a1, b1)
    bench.start(a1, a2, b1)
    await bench.quiet()
    assert bench.actions.begun == [a1, b1], "side by side; the second of a lane waits"
    bench.actions.gates[b1].set()
    await bench.quiet()
    assert bench.machine.events == [e.Done(b1)]
    bench.actions.gates[a1].set()
    await bench.quiet()
    assert bench.machine.events == [e.Done(b1), e.Done(a1), e.Done(a2)]


async def test_what_a_lanes_command_leads_to_queues_up_behind_the_lane(bench: Bench) -> None:
    a1, a2, a3 = c.Answer("ch"), c.SetVariable("ch", "A", "1"), c.Hangup("ch")
    bench.machine.on(e.Done(a1), a3)
    bench.start(a1, a2)
    await bench.quiet()
    assert bench.actions.ended == [a1, a2, a3]
    again = c.Ring("ch")
    bench.machine.on(e.ChannelRinging("ch"), again)
    bench.runner.post(e.ChannelRinging("ch"))
    await bench.quiet()
    assert bench.actions.ended[-1] == again, "a lane that ran empty starts again"


async def test_an_event_of_a_commands_own_takes_the_place_of_done(bench: Bench) -> None:
    create = c.CreateSession("k1")
    bench.actions.outcomes[create] = e.SessionCreated(create, SESSION)
    bench.start(create)
    await bench.quiet()
    assert bench.machine.events == [e.SessionCreated(create, SESSION)]


async def test_events_posted_while_one_is_handled_come_after_it(bench: Bench) -> None:
    ringing, held = e.ChannelRinging("ch"), e.HoldChanged("ch", True)
    publish, unhold = c.Publish("call.ringing", {}), c.Uplink("agent", False)
    bench.machine.on(ringing, publish, unhold)
    order: list[object] = []

    def applied(command: c.Command) -> None:
        order.append(command)
        if command is publish:
            bench.runner.post(held)
            order.append(len(bench.machine.events))

    bench.actions.on_apply = applied
    bench.start()
    bench.runner.post(ringing)
    assert order == [publish, 1, unhold]
    assert bench.machine.events == [ringing, held]


async def test_events_posted_during_the_start_come_after_it(bench: Bench) -> None:
    publish = c.Publish("call.created", {})
    bench.actions.on_apply = lambda _: bench.runner.post(e.HangupAsked())
    bench.start(publish)
    assert bench.machine.events == [e.HangupAsked()]


@pytest.mark.parametrize(
    ("error", "gone", "words"),
    [
        (AriNotFound("no such channel"), True, "no such channel"),
        (AriConflict("leaving"), True, "leaving"),
        (AriUnavailable("no answer"), False, "no answer"),
        (ZeroDivisionError("a bug"), False, "ZeroDivisionError: a bug"),
    ],
)
async def test_a_command_that_fails_or_crashes_becomes_failed_and_its_lane_goes_on(
    bench: Bench, error: Exception, gone: bool, words: str
) -> None:
    first, second = c.Answer("ch"), c.Hangup("ch")
    bench.actions.outcomes[first] = error
    bench.start(first, second)
    await bench.quiet()
    assert bench.machine.events == [e.Failed(first, words, gone=gone), e.Done(second)]


async def test_a_crash_is_logged_with_its_traceback(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    command = c.Answer("ch")
    bench.actions.outcomes[command] = ZeroDivisionError("a bug")
    with caplog.at_level(logging.ERROR, "kallglot_ari"):
        bench.start(command)
        await bench.quiet()
    assert bench.machine.events == [e.Failed(command, "ZeroDivisionError: a bug")]


async def test_a_switch_that_crashes_takes_nothing_with_it(bench: Bench) -> None:
    def crash(_: c.Command) -> None:
        raise ZeroDivisionError

    bench.actions.on_apply = crash
    publish, hangup = c.Publish("call.ended", {}), c.Hangup("ch")
    bench.start(publish, hangup, FINISH)
    await bench.until(lambda: bench.finished)
    assert bench.actions.ended == [hangup]


async def test_an_event_that_crashes_the_machine_takes_nothing_with_it(bench: Bench) -> None:
    first, second = c.Answer("ch"), c.Hangup("ch")
    bench.machine.answers.append((lambda event: event == e.Done(first), ZeroDivisionError("a bug")))
    bench.machine.on(e.Done(second), FINISH)
    bench.start(first, second)
    await bench.until(lambda: bench.finished)
    assert bench.machine.events == [e.Done(first), e.Done(second)]


# --- streams ---------------------------------------------------------------------------------------------------------

OPEN, CLOSE = c.OpenStream(SESSION), c.CloseStream("sess_1")


async def test_a_stream_opens(bench: Bench) -> None:
    bench.actions.outcomes[OPEN] = e.StreamUp("sess_1")
    bench.start(OPEN)
    await bench.quiet()
    assert bench.machine.events == [e.StreamUp("sess_1")]


@pytest.mark.parametrize(("error", "final"), [(StreamRefused("token"), True), (StreamClosed("no network"), False)])
async def test_a_stream_that_does_not_open_says_whether_to_try_again(
    bench: Bench, error: Exception, final: bool
) -> None:
    bench.actions.outcomes[OPEN] = error
    bench.start(OPEN)
    await bench.quiet()
    assert bench.machine.events == [e.StreamDown("sess_1", str(error), final=final)]


async def test_opening_is_given_up_by_closing(bench: Bench) -> None:
    bench.actions.hold(OPEN)
    bench.machine.on(e.HangupAsked(), CLOSE)
    bench.start(OPEN)
    await bench.quiet()
    bench.runner.post(e.HangupAsked())
    await bench.quiet()
    assert bench.actions.begun == [OPEN, CLOSE]
    assert bench.actions.ended == [CLOSE]
    assert bench.machine.events[1:] == [e.StreamDown("sess_1", "given up", final=True), e.Done(CLOSE)]


async def test_opening_is_given_up_even_before_it_began(bench: Bench) -> None:
    bench.actions.hold(OPEN)
    bench.machine.on(e.HangupAsked(), CLOSE)
    bench.start(OPEN)
    bench.runner.post(e.HangupAsked())
    await bench.until(lambda: CLOSE in bench.actions.ended or OPEN in bench.actions.begun)
    bench.actions.gates[OPEN].set()
    await bench.until(lambda: e.Done(CLOSE) in bench.machine.events)
    assert bench.actions.begun[-1] == CLOSE, "closed after whatever was opened"


async def test_closing_another_sessions_stream_gives_nothing_up(bench: Bench) -> None:
    bench.actions.hold(OPEN)
    bench.actions.outcomes[OPEN] = e.StreamUp("sess_1")
    other = c.CloseStream("sess_0")
    bench.machine.on(e.HangupAsked(), other)
    bench.start(OPEN)
    await bench.quiet()
    bench.runner.post(e.HangupAsked())
    bench.actions.gates[OPEN].set()
    await bench.quiet()
    assert bench.machine.events == [e.HangupAsked(), e.Done(other), e.StreamUp("sess_1")]


async def test_a_crash_while_opening_ends_the_attempt(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.actions.outcomes[OPEN] = ZeroDivisionError("a bug")
    bench.start(OPEN)
    await bench.quiet()
    assert bench.machine.events == [e.StreamDown("sess_1", "given up", final=True)]
    assert "task_failed" in caplog.text


async def test_opening_without_an_event_of_its_own_is_done(bench: Bench) -> None:
    bench.start(OPEN)
    await bench.quiet()
    assert bench.machine.events == [e.Done(OPEN)]


# --- timers ----------------------------------------------------------------------------------------------------------


async def test_a_timer_fires_once(bench: Bench) -> None:
    bench.start(c.SetTimer("answer", 0.01))
    await bench.until(lambda: bench.machine.events)
    await asyncio.sleep(0.02)
    assert bench.machine.events == [e.TimerFired("answer")]


async def test_a_timer_set_again_is_replaced(bench: Bench) -> None:
    bench.start(c.SetTimer("a", 0.001), c.SetTimer("a", 0.03), c.SetTimer("b", 0.01))
    await bench.until(lambda: len(bench.machine.events) == 2)
    assert bench.machine.events == [e.TimerFired("b"), e.TimerFired("a")]


async def test_a_cancelled_timer_does_not_fire_and_an_unknown_one_is_harmless(bench: Bench) -> None:
    bench.start(c.SetTimer("a", 0.001), c.CancelTimer("a"), c.CancelTimer("none"))
    await asyncio.sleep(0.01)
    assert bench.machine.events == []


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_finish_waits_until_every_lane_is_empty(bench: Bench) -> None:
    a, b = c.Hangup("a"), c.Hangup("b")
    bench.actions.hold(a, b)
    bench.start(a, b, c.SetTimer("t", 0.001), FINISH)
    await bench.quiet()
    bench.actions.gates[a].set()
    await bench.quiet()
    assert not bench.finished
    bench.actions.gates[b].set()
    await bench.quiet()
    assert bench.finished == [bench.runner]
    await asyncio.sleep(0.005)
    assert not any(isinstance(event, e.TimerFired) for event in bench.machine.events), "its timers ended with it"


async def test_finish_with_nothing_open_is_at_once(bench: Bench) -> None:
    bench.start(FINISH)
    assert bench.finished == [bench.runner]


async def test_finish_led_to_by_the_last_command(bench: Bench) -> None:
    last = c.Hangup("ch")
    bench.machine.on(e.Done(last), FINISH)
    bench.start(last)
    await bench.quiet()
    assert bench.finished == [bench.runner], "once"


async def test_close_stops_commands_streams_and_timers(bench: Bench) -> None:
    held = c.Answer("ch")
    bench.actions.hold(held, OPEN)
    bench.start(held, OPEN, c.SetTimer("t", 0.5))
    await bench.quiet()
    await bench.runner.close()
    assert len(bench.runner.tasks) == 0
    await asyncio.sleep(0.6)
    assert bench.machine.events == []
    assert bench.actions.ended == []


async def test_nothing_begins_after_close(bench: Bench) -> None:
    bench.machine.on(e.HangupAsked(), c.Hangup("ch"))
    bench.start()
    await bench.runner.close()
    await bench.runner.close()
    bench.runner.post(e.HangupAsked())
    await bench.quiet()
    assert bench.actions.begun == []


async def test_an_ordinary_call_goes_through_it_from_start_to_finish() -> None:
    """The real machine: every command is carried out, the parties hang up, and nothing is left."""
    finished = asyncio.Event()
    machine = CallMachine(plan(call_id="kg-t-2"), 0.0, SystemClock().wall())
    runner = CallRunner(machine, SystemClock(), lambda _: finished.set())

    class Asterisk(Actions):
        async def execute(self, command: c.Command) -> e.Event | None:
            self.begun.append(command)
            await asyncio.sleep(0)
            if isinstance(command, c.CreateSession):
                return e.SessionCreated(command, SESSION)
            if isinstance(command, c.OpenStream):
                return e.StreamUp(command.session.id)
            if isinstance(command, c.CreateMedia | c.Dial):
                asyncio.get_running_loop().call_soon(runner.post, e.ChannelEntered(command.channel_id))
            if isinstance(command, c.Hangup | c.RemoveMedia):
                asyncio.get_running_loop().call_soon(runner.post, e.ChannelGone(command.channel_id))
            return None

    actions = Asterisk()
    runner.start(actions)
    async with asyncio.timeout(5):
        while machine.state != "active":
            await asyncio.sleep(0)
        runner.post(e.HangupRequested(machine.plan.customer_channel))
        runner.post(e.ChannelGone(machine.plan.customer_channel))
        await finished.wait()
    kinds: dict[type, int] = {}
    for command in actions.begun:
        kinds[type(command)] = kinds.get(type(command), 0) + 1
    assert kinds[c.CreateSession] == kinds[c.EndSession] == 1
    assert kinds[c.CreateMedia] == kinds[c.RemoveMedia] == 2
    assert kinds[c.CreateBridge] == kinds[c.DestroyBridge] == 2
    assert len(runner.tasks) == 0 or await runner.tasks.join(1)
    await runner.close()


async def test_what_is_logged_while_a_command_is_carried_out_bears_the_call_s_id(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    async def look(_: c.Command) -> None:
        await asyncio.sleep(0)
        seen.append(get_contextvars().get("call"))

    monkeypatch.setattr(bench.actions, "execute", look)
    bench.start(c.Answer("ch"))
    await bench.quiet()
    assert seen == ["kg-t-1"]
    assert "call" not in get_contextvars()
