"""Channels that come back to us from the dialplan: they are callers again, whatever their last call is about."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kallglot_ari.ari import models as m
from kallglot_ari.ari.decode import read_one
from kallglot_ari.ari.snapshot import Connected, Snapshot
from kallglot_ari.calls import adopt
from kallglot_ari.calls import events as e
from kallglot_ari.calls.interfaces import StreamEnd
from kallglot_ari.calls.model import DialplanStatus
from kallglot_ari.calls.orders import Outbound
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.errors import AriUnavailable
from kallglot_ari.modes import actions
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.stasis import StasisMode
from kallglot_ari.settings import Settings
from tests.ari.fake import channel, event
from tests.calls.script import EPOCH, Script
from tests.modes.test_registry import Bench

CALLER = "1700000000.1"
NOBODY = ("source=de", "target=en", "agent=PJSIP/nobody")
AGENT = ("source=de", "target=en", "agent=PJSIP/agent")
ALONE = ("source=de", "target=en", "mode=ai_agent")


class Asterisk:
    """Channels are where they were sent; `dialplan` says what comes after each `Stasis()`."""

    def __init__(self) -> None:
        self.mode: StasisMode
        self.channels = self.bridges = self.applications = self
        self.there: set[str] = set()
        self.asked: dict[str, list[str]] = defaultdict(list)
        self.dialplan: dict[str, list[tuple[str, ...]]] = {}
        self.unanswered: set[str] = set()
        """Requests whose answers are lost with the connection."""
        self.back = asyncio.Event()
        self.refused: set[str] = set()
        """Endpoints that are not registered."""
        self.silent: set[str] = set()
        """Endpoints that do not answer."""
        self.dialled: list[str] = []

    def supports(self, feature: str) -> bool:
        return False

    async def wait_connected(self, timeout: float) -> None:
        await self.back.wait()

    def enters(self, channel_id: str, *args: str, state: str = "Up") -> None:
        self.there.add(channel_id)
        self._tell("StasisStart", channel_id, args=args, state=state)

    def leaves(self, channel_id: str) -> None:
        """The channel goes to the dialplan, and comes back where that says so."""
        if channel_id not in self.there:
            return
        self.there.discard(channel_id)
        self._tell("StasisEnd", channel_id)
        if steps := self.dialplan.get(channel_id):
            self.enters(channel_id, *steps.pop(0))

    def hangs_up(self, channel_id: str) -> None:
        if channel_id in self.there:
            self.there.discard(channel_id)
            self._tell("StasisEnd", channel_id)
            self._tell("ChannelDestroyed", channel_id, cause=16, cause_txt="Normal Clearing")

    def _tell(self, kind: str, channel_id: str, *, state: str = "Up", **more: object) -> None:
        told = event(kind, channel=channel(channel_id, state=state), **more)
        self.mode.on_event(read_one(getattr(m, kind), orjson.dumps(told)))

    def __getattr__(self, name: str) -> Any:
        async def asked(thing: str, **options: Any) -> SimpleNamespace:
            await asyncio.sleep(0)
            about = options.get("channel", thing)
            self.asked[about].append(name)
            match name:
                case "originate_with_id" if options["endpoint"] in self.refused:
                    raise AriUnavailable("not registered", status=500)
                case "originate_with_id" if options["endpoint"] in self.silent:
                    self.dialled.append(thing)
                    self.there.add(thing)
                case "originate_with_id":
                    asyncio.get_running_loop().call_soon(self.enters, thing, "dialled")
                case "create_external_media":
                    asyncio.get_running_loop().call_soon(self.enters, thing)
                case "continue_in_dialplan":
                    self.leaves(thing)
                case "hangup":
                    self.hangs_up(thing)
            if name in self.unanswered:
                self.unanswered.discard(name)
                raise AriUnavailable("the connection is lost")
            return SimpleNamespace(channelvars={}, value="1", state="Ringing")

        return asked


class Calls:
    """Media mode on such an Asterisk."""

    def __init__(self, max_calls: int = 0) -> None:
        self.bench, s, self.asterisk = Bench(), Settings(), Asterisk()
        object.__setattr__(self.bench.plant, "ari", self.asterisk)
        self.bench.media.late = 0.0  # type: ignore[attr-defined]
        load = Load(self.bench.plant.metrics, max_calls)
        self.mode = self.asterisk.mode = StasisMode(
            self.bench.plant, s.service, s.kallglot, s.media, s.conference, s.features, "kg-t", self.bench.journal, load
        )
        self.kallglot = self.bench.kallglot.gate
        """Kallglot answers; without it no call ends."""

    @property
    def runners(self) -> list[CallRunner]:
        return self.mode.calls.runners()

    async def until(self, true: Any, what: str) -> None:
        try:
            async with asyncio.timeout(5):
                while not true():
                    await asyncio.sleep(0)
        except TimeoutError:
            raise AssertionError(f"{what}; calls: {[r.machine.state.value for r in self.runners]}") from None

    async def state(self, number: int, state: str) -> CallRunner:
        await self.until(
            lambda: len(self.runners) > number and self.runners[number].machine.state == state,
            f"call {number} is {state}",
        )
        return self.runners[number]

    async def close(self) -> None:
        self.kallglot.set()
        self.asterisk.back.set()
        await self.mode.drain(0)
        assert len(self.mode.calls) == 0
        await self.mode.close()
        await self.bench.outbox.stop(1)


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    calls = Calls()
    yield calls
    await calls.close()


async def test_a_caller_who_is_back_before_the_call_has_ended_begins_another(calls: Calls) -> None:
    calls.kallglot.clear()
    calls.asterisk.refused = {"PJSIP/nobody"}
    calls.asterisk.dialplan[CALLER] = [AGENT]
    calls.asterisk.enters(CALLER, *NOBODY)
    second = await calls.state(1, "ringing")
    first = calls.runners[0]
    assert first.machine.state == "ending", "its session is still to be ended"
    assert calls.mode.calls.owner(CALLER) is second
    calls.kallglot.set()
    await calls.until(lambda: calls.runners == [second], "the first call is over")
    assert calls.mode.calls.owner(CALLER) is second
    await calls.state(0, "active")
    assert calls.asterisk.asked[CALLER].count("continue_in_dialplan") == 1
    calls.asterisk.hangs_up(CALLER)
    await calls.until(lambda: not calls.runners, "the hang-up reached the second call")


async def test_the_slot_of_the_last_call_is_the_next_one_s() -> None:
    calls = Calls(max_calls=1)
    calls.kallglot.clear()
    calls.asterisk.refused = {"PJSIP/nobody"}
    calls.asterisk.dialplan[CALLER] = [AGENT]
    calls.asterisk.enters(CALLER, *NOBODY)
    await calls.state(1, "ringing")
    await calls.close()


@pytest.mark.parametrize("party", ["customer", "agent"])
async def test_a_party_transferred_to_the_dialplan_comes_back_as_a_caller(calls: Calls, party: str) -> None:
    """Also while the others go on, and also one whom we had dialled and whose channel has the call's name."""
    calls.asterisk.enters(CALLER, *AGENT)
    first = await calls.state(0, "active")
    first.post(e.PartyAsked("PJSIP/third"))
    await calls.until(lambda: len(first.machine.parties) == 3, "three talk")
    leg = first.machine.legs[party]
    channel_id = leg.channel_id
    calls.asterisk.dialplan[channel_id] = [ALONE]
    first.post(e.DialplanAsked(party, "ctx", "100"))
    second = await calls.state(1, "active")
    assert first.machine.state == "active"
    assert calls.mode.calls.owner(channel_id) is second
    assert "hangup" not in calls.asterisk.asked[channel_id]
    first.post(e.HangupAsked())
    await calls.until(lambda: calls.runners == [second], "the first call is over")
    assert second.machine.state == "active"
    assert "hangup" not in calls.asterisk.asked[channel_id]


async def test_who_is_back_from_screening_is_not_sent_there_again(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that sent him there was carried out; only its answer was lost."""
    monkeypatch.setattr(actions, "AGAIN", 0.01)
    monkeypatch.setattr(calls.mode, "new_id", lambda: "kg-t-9")
    calls.asterisk.back.set()
    calls.asterisk.unanswered.add("continue_in_dialplan")
    calls.asterisk.dialplan["kg-t-9.d1"] = [("screened=HUMAN",)]
    await calls.mode.originate(Outbound(customer="PJSIP/customer", agent="PJSIP/agent", only_humans=True))
    call = await calls.state(0, "active")
    await asyncio.sleep(0.1)
    assert call.machine.state == "active"
    assert calls.asterisk.asked["kg-t-9.d1"].count("continue_in_dialplan") == 1


async def test_one_whom_we_dialled_comes_back_after_the_call(calls: Calls) -> None:
    calls.asterisk.enters("kg-t-old.d1", *ALONE)
    runner = await calls.state(0, "active")
    calls.asterisk.hangs_up("kg-t-old.d1")
    await calls.until(lambda: not calls.runners, "the call is over")
    assert not runner.machine.active


@pytest.mark.parametrize(
    ("channel_id", "args"),
    [("kg-t-old.d1", ("dialled",)), ("kg-t-old.d2", ("screened=HUMAN",)), ("kg-t-old.customer.m1", ())],
)
async def test_what_a_dead_call_made_is_hung_up(calls: Calls, channel_id: str, args: tuple[str, ...]) -> None:
    calls.asterisk.enters(channel_id, *args)
    await calls.until(lambda: calls.asterisk.asked[channel_id] == ["hangup"], "it is hung up")
    assert calls.runners == []


async def test_a_way_back_whose_answer_was_lost_is_not_gone_twice(calls: Calls) -> None:
    """The caller went on in the dialplan and is back; the request to go on would be made again once Asterisk answers."""
    calls.asterisk.refused = {"PJSIP/nobody"}
    calls.asterisk.unanswered = {"continue_in_dialplan"}
    calls.asterisk.dialplan[CALLER] = [AGENT]
    calls.asterisk.enters(CALLER, *NOBODY)
    await calls.until(lambda: calls.runners[0].machine.plan.agents == ("PJSIP/agent",), "the first call is over")
    second = await calls.state(0, "active")
    calls.asterisk.back.set()
    await asyncio.sleep(0.3)  # longer than until the next attempt
    assert calls.asterisk.asked[CALLER].count("continue_in_dialplan") == 1
    assert second.machine.state == "active"


async def test_a_party_whose_leaving_was_not_heard_of(calls: Calls) -> None:
    calls.asterisk.enters(CALLER, *AGENT)
    await calls.state(0, "active")
    calls.asterisk.enters(CALLER, *ALONE)
    await calls.until(lambda: [r.machine.plan.agents for r in calls.runners] == [()], "the first call is over")
    await calls.state(0, "active")


async def test_a_party_that_leaves_and_joins_again(calls: Calls) -> None:
    calls.asterisk.enters(CALLER, *AGENT)
    first = await calls.state(0, "active")
    session = first.machine.link.session
    assert session is not None
    joined = "1700000000.2"
    calls.asterisk.enters(joined, f"join={session.id}")
    await calls.until(lambda: len(first.machine.parties) == 3, "three talk")
    calls.asterisk.dialplan[joined] = [(f"join={session.id}",)]
    calls.asterisk.leaves(joined)
    await calls.until(
        lambda: len(first.machine.parties) == 3 and all(leg.connected for leg in first.machine.parties), "it is back"
    )
    assert calls.mode.calls.owner(joined) is first


async def test_a_session_id_that_was_passed_on_leads_to_the_call_after_the_ladder_too(calls: Calls) -> None:
    calls.asterisk.enters(CALLER, *AGENT)
    first = await calls.state(0, "active")
    streams = calls.bench.kallglot.streams
    streams[0].ends(StreamEnd(ended=True, reason="error"))
    await calls.until(lambda: len(streams) == 2 and first.machine.link.rung == "up", "a new session")
    streams[1].ends(StreamEnd(ended=True, reason="error"))
    await calls.until(lambda: first.machine.direct, "connected directly")
    assert calls.mode.calls.of_session("sess_1") is None, "Kallglot's webhook means the session, not the call"
    calls.asterisk.enters("1700000000.2", "join=sess_1")
    await calls.until(lambda: len(first.machine.parties) == 3, "three talk")
    taken = Calls()
    written = adopt.read(orjson.loads(orjson.dumps(adopt.write(first.machine))))
    assert written is not None
    runner, _ = taken.mode.calls.take_up(
        adopt.resume(written, adopt.Seen({}, frozenset(), frozenset(), {}), 0.0, EPOCH).machine
    )
    assert taken.mode.calls.to_join("sess_1") is runner
    first.post(e.HangupAsked())
    await calls.until(lambda: not calls.runners, "the call is over")
    assert calls.mode.calls.to_join("sess_1") is None


async def test_a_channel_that_was_fetched_too_late_may_come_by_itself(calls: Calls) -> None:
    calls.asterisk.enters(CALLER, *AGENT)
    first = await calls.state(0, "active")
    other = "1700000000.3"
    for args, hung_up in ((ALONE, False), (("join=fetched",), True)):
        calls.mode.calls.adopt(other, first)
        first.machine.unwanted.add(other)
        calls.asterisk.enters(other, *args)
        if not hung_up:
            await calls.state(1, "active")
            calls.asterisk.hangs_up(other)
            await calls.until(lambda: len(calls.runners) == 1, "it was a call of its own")
    await calls.until(lambda: other not in calls.asterisk.there, "nobody waits for it any more")
    assert "hangup" in calls.asterisk.asked[other]


async def test_the_end_of_a_call_that_was_killed_leaves_the_next_one_alone(calls: Calls) -> None:
    """Its caller is in a call that is taken up."""
    script = Script()
    script.feed(e.HangupAsked())
    ended = adopt.read(orjson.loads(orjson.dumps(adopt.write(script.machine))))
    assert ended is not None
    for leg in ended.legs:
        leg.channel_id = CALLER
    calls.asterisk.enters(CALLER, *ALONE)
    await calls.state(0, "active")
    before = len(calls.asterisk.asked[CALLER])
    seen = adopt.Seen({CALLER: "x"}, frozenset({CALLER}), frozenset({CALLER}), {})
    await calls.mode.resume._finish(ended, seen, calls.mode._give_back)
    assert calls.asterisk.asked[CALLER][before:] == []
    assert ended.started == EPOCH


@pytest.mark.parametrize(
    ("end", "asked"),
    [
        (e.TimerFired("ring"), ["stop_moh", "set_channel_var", "continue_in_dialplan"]),
        (e.HangupAsked(), ["hangup"]),
    ],
)
async def test_who_was_let_go_at_a_kill_is_let_go_once_and_takes_no_music_along(
    calls: Calls, end: e.Event, asked: list[str]
) -> None:
    """Of a call that had ended nobody else stops the music, and who was served does not go on in the dialplan as one of a fault."""
    script = Script()
    script.feed(end)
    ended = adopt.read(orjson.loads(orjson.dumps(adopt.write(script.machine))))
    assert ended is not None
    calls.asterisk.there.add(CALLER)
    calls.mode.resume._left["kg-t-1"] = ended
    there = (read_one(m.Channel, orjson.dumps(channel(CALLER))),)
    app = m.Application(name="kallglot", channel_ids=(CALLER,))
    calls.mode.on_event(Connected(Snapshot((22, 0, 0), m.AsteriskInfo(), app, there, ()), again=False))
    await calls.until(lambda: not calls.mode.resume.finishing, "it is let go")
    await asyncio.sleep(0.01)
    assert calls.asterisk.asked[CALLER] == asked


WAYS = st.sampled_from([AGENT, ALONE, NOBODY])
MOVES = st.sampled_from(
    ["leaves", "kallglot away", "kallglot back", "answer lost", "bridging lost", "sent on", "waits"]
)


async def test_a_channel_that_is_fetched_for_a_call_taken_up_is_the_call_s(calls: Calls) -> None:
    script = Script()
    agent, other = script.talking(), "1700000000.3"
    script.feed(e.FetchAsked(agent, other, "PJSIP/x"))
    runner, _ = calls.mode.calls.take_up(script.machine)
    assert calls.mode.calls.owner(other) is runner
    calls.mode.calls.go_on(runner, [])
    calls.asterisk.enters(other, "join=fetched")
    await calls.until(lambda: "add_channel" in calls.asterisk.asked[other], "it is bridged")


async def test_a_restart_leaves_a_channel_in_the_call_that_it_came_back_into(calls: Calls) -> None:
    """Its name is that of a call that goes on without it."""
    calls.asterisk.enters(CALLER, *AGENT)
    first = await calls.state(0, "active")
    first.post(e.PartyAsked("PJSIP/third"))
    await calls.until(lambda: len(first.machine.parties) == 3, "three talk")
    agent = first.machine.legs["agent"].channel_id
    calls.asterisk.dialplan[agent] = [ALONE]
    first.post(e.DialplanAsked("agent", "ctx", "100"))
    second = await calls.state(1, "active")
    again = Calls()
    again.asterisk.there = set(calls.asterisk.there)
    left = {r.id: adopt.read(orjson.loads(orjson.dumps(adopt.write(r.machine)))) for r in (first, second)}
    again.mode.resume._left = {call_id: written for call_id, written in left.items() if written is not None}
    there = tuple(read_one(m.Channel, orjson.dumps(channel(i))) for i in sorted(again.asterisk.there))
    again.mode.resume.connected(Snapshot((22, 0, 0), cast(m.AsteriskInfo, None), _listed(there), there, ()), _nothing)
    await again.until(lambda: [r.machine.state for r in again.runners] == ["active", "active"], "both are taken up")
    await asyncio.sleep(0.05)
    assert "hangup" not in again.asterisk.asked[agent]
    owner = again.mode.calls.owner(agent)
    assert owner is not None
    assert owner.id == second.id
    await again.close()


@pytest.mark.parametrize("first_is_last", [False, True])
async def test_a_restart_leaves_a_caller_in_the_call_that_he_is_in_now(calls: Calls, first_is_last: bool) -> None:
    """He began one that goes on without him; which of the two is taken up last decides nothing."""
    calls.asterisk.enters(CALLER, *AGENT)
    first = await calls.state(0, "active")
    first.post(e.PartyAsked("PJSIP/third"))
    await calls.until(lambda: len(first.machine.parties) == 3, "three talk")
    calls.asterisk.dialplan[CALLER] = [ALONE]
    first.post(e.DialplanAsked("customer", "ctx", "100"))
    second = await calls.state(1, "active")
    again = Calls()
    again.asterisk.there = set(calls.asterisk.there)
    for runner in (second, first) if first_is_last else (first, second):
        written = adopt.read(orjson.loads(orjson.dumps(adopt.write(runner.machine))))
        assert written is not None
        again.mode.resume._left[runner.id] = written
    there = tuple(read_one(m.Channel, orjson.dumps(channel(i))) for i in sorted(again.asterisk.there))
    again.mode.resume.connected(Snapshot((22, 0, 0), cast(m.AsteriskInfo, None), _listed(there), there, ()), _nothing)
    await again.until(lambda: [r.machine.state for r in again.runners] == ["active", "active"], "both are taken up")
    again.asterisk.hangs_up(CALLER)
    await again.until(lambda: [r.id for r in again.runners] == [first.id], "it is the second that is over")
    await again.close()


def _listed(channels: tuple[m.Channel, ...]) -> m.Application:
    ids = tuple(channel.id for channel in channels)
    return m.Application(
        name="kallglot",
        channel_ids=ids,
        bridge_ids=(),
        endpoint_ids=(),
        device_names=(),
        events_allowed=(),
        events_disallowed=(),
    )


async def _nothing(channel_id: str, status: DialplanStatus) -> None: ...


@settings(max_examples=150, deadline=None)
@given(st.lists(WAYS, min_size=2, max_size=5), st.lists(st.tuples(st.integers(0, 30), MOVES), max_size=12))
def test_every_way_through_the_dialplan_ends(steps: list[tuple[str, ...]], moves: list[tuple[int, str]]) -> None:
    """A caller goes from one `Stasis()` to the next, or is taken out of it, at any moment: each is a call of its own."""

    async def play() -> None:
        calls = Calls()
        asterisk = calls.asterisk
        asterisk.refused = {"PJSIP/nobody"}
        asterisk.dialplan[CALLER] = steps[1:]
        asterisk.enters(CALLER, *steps[0])
        for wait, move in moves:
            for _ in range(wait):
                await asyncio.sleep(0)
            match move:
                case "leaves":
                    asterisk.leaves(CALLER)
                case "kallglot away":
                    calls.kallglot.clear()
                case "kallglot back":
                    calls.kallglot.set()
                case "answer lost":
                    asterisk.unanswered.add("continue_in_dialplan")
                case "bridging lost":
                    asterisk.unanswered.add("add_channel")
                case "sent on" if (runner := calls.mode.calls.owner(CALLER)) is not None:
                    runner.post(e.DialplanAsked("customer", "ctx", "100"))
        asterisk.back.set()
        calls.kallglot.set()

        def well() -> bool:
            """The caller is up in the one call that has it, or gone from all."""
            up = [
                r for r in calls.runners if any(leg.up and leg.channel_id == CALLER for leg in r.machine.legs.values())
            ]
            return up == ([calls.mode.calls.owner(CALLER)] if CALLER in asterisk.there else [])

        await calls.until(well, "nobody waits in a call that is over")
        await calls.close()
        assert {ch for ch in asterisk.there if ch.startswith("kg-")} == set()
        assert calls.bench.kallglot.open == set()
        assert calls.mode.calls._callers == {}

    asyncio.run(play())
