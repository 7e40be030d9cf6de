"""The call machine under any order of events: whatever happens, nothing is left, nothing is asked twice."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import CallPlan
from kallglot_ari.calls.legs import Leg, Role
from kallglot_ari.calls.link import (
    HEAL_FIRST,
    HEAL_TIMER,
    SESSION_RETRIES,
    STABLE,
    STABLE_TIMER,
    STREAM_RETRIES,
    Link,
    LinkState,
)
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import CallState, Session, SessionRequest, of_customer
from kallglot_ari.calls.translating import of_source
from tests.calls.script import CALLER, plan, session

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
HEARD = (
    e.ChannelEntered,
    e.ChannelLeft,
    e.ChannelGone,
    e.HangupRequested,
    e.ChannelRinging,
    e.BridgeGone,
    e.DtmfReceived,
    e.HoldChanged,
)
"""What Asterisk tells, and nobody hears while the line to it is cut."""
ROLES = st.sampled_from(list(Role))
LANGUAGES = st.sampled_from(["", "de", "en", "fr"])


class World:
    """An Asterisk and a Kallglot that do anything they are allowed to, in any order."""

    def __init__(self, draw: st.DataObject, machine: CallMachine) -> None:
        self.draw = draw
        self.machine = machine
        self.now = 0.0
        self.lanes: dict[str, list[c.Command]] = {}
        self.channels: set[str] = {machine.plan.customer_channel} - {""}
        self.told_gone: set[str] = set()
        """Channels of which nothing may be asked any more; also those in the dialplan, from where they may enter another call."""
        self.bridges: set[str] = set()
        self.bridges_gone: set[str] = set()
        self.created: list[str] = []
        self.ended: list[str] = []
        self.streams: set[str] = set()
        self.serial = 0
        self.joined: list[str] = []
        self.timers: set[str] = set()
        self.at_once: Counter[str] = Counter()
        """Link → sessions asked for since it last waited for anything."""
        self.dialplan: set[str] = set()
        """Channels that are not ours yet: they end in the dialplan by themselves."""
        self.answered: set[str] = set()
        """Those that we dialled and that answered while nobody listened."""
        self.deaf = False
        """The line to Asterisk is cut: its events are lost, and what is asked is carried out all the same."""
        self.lucky = False
        """Nothing fails any more."""
        self.bridge_of: dict[str, str] = {}
        self.music: set[str] = set()
        """Channels that hear music on hold."""
        self.muted: set[str] = set()
        self.originals: dict[tuple[str, str], float] = {}
        self.route = c.Route((), ())
        self.take(machine.start())

    def take(self, commands: list[c.Command]) -> None:
        for command in commands:
            self.check(command)
            if isinstance(command, c.SetTimer):
                self.timers.add(command.name)
            elif isinstance(command, c.CancelTimer):
                self.timers.discard(command.name)
            elif isinstance(command, c.Route):
                self.route = command
            elif isinstance(command, c.Uplink):
                (self.muted.discard if command.on else self.muted.add)(command.leg)
            elif isinstance(command, c.Hear):
                self.originals.pop((command.leg, command.other), None)
                if command.gain_db is not None:
                    self.originals[command.leg, command.other] = command.gain_db
            elif not isinstance(command, c.Publish | c.Interruptible | c.Pressed | c.Repeat | c.Tone | c.Finish):
                self.lanes.setdefault(command.lane, []).append(command)

    def check(self, command: c.Command) -> None:
        """No command refers to something the machine was told is gone."""
        channel = getattr(command, "channel_id", "")
        if isinstance(command, c.RemoveMedia):
            channel = ""  # it closes the flow as well
        assert not channel or channel not in self.told_gone, command
        bridge = getattr(command, "bridge_id", "")
        assert not bridge or bridge not in self.bridges_gone, command
        if isinstance(command, c.OpenStream):
            assert command.session.id not in self.ended
        if isinstance(command, c.CreateSession):
            self.at_once[command.link] += 1
            assert self.at_once[command.link] <= 1 + SESSION_RETRIES, "each session costs a credit"

    def feed(self, event: e.Event) -> None:
        if self.deaf and isinstance(event, HEARD):
            return
        if isinstance(event, e.ChannelGone | e.ChannelLeft):
            self.bridge_of.pop(event.channel_id, None)
        self.now += 0.01
        self.take(self.machine.handle(event, self.now, EPOCH + timedelta(seconds=self.now)))
        self.nobody_is_alone()

    def nobody_is_alone(self) -> None:
        call = self.machine
        if call.active and call.answered_at is not None and call.plan.agents:
            coming = sum(leg.vacant for leg in call.legs.values())
            assert len(call.parties) + coming >= 2, "a call of one costs, and nobody answers"

    def next_command(self) -> bool:
        lanes = [name for name, lane in self.lanes.items() if lane]
        if not lanes:
            return False
        lane = self.lanes[lanes[0] if self.lucky else self.draw.draw(st.sampled_from(sorted(lanes)))]
        self.carry_out(lane.pop(0), 5 if self.lucky else self.draw.draw(st.integers(0, 9)))
        return True

    def carry_out(self, command: c.Command, luck: int) -> None:
        fails = luck == 0
        match command:
            case c.CreateSession():
                if fails:
                    self.feed(e.Failed(command, "503"))
                    return
                self.serial += 1
                self.created.append(f"sess_{self.serial}")
                self.feed(e.SessionCreated(command, Session(f"sess_{self.serial}", "m", "ws://", "t", None)))
            case c.EndSession():
                self.ended.append(command.session_id)
                self.feed(e.Failed(command, "x") if fails else e.Done(command))
            case c.OpenStream():
                up = not fails and command.session.id not in self.ended
                if up:
                    self.streams.add(command.session.id)
                final = luck == 1
                self.feed(e.StreamUp(command.session.id) if up else e.StreamDown(command.session.id, "x", final))
            case c.CreateBridge():
                if not fails:
                    self.bridges.add(command.bridge_id)
                self.feed(e.Failed(command, "x") if fails else e.Done(command))
            case c.DestroyBridge():
                self.bridge_ends(command.bridge_id)
                self.feed(e.Done(command))
            case c.Fetch():
                self.feed(e.Failed(command, "no such context") if fails else e.Done(command))
            case c.CreateMedia() | c.Dial():
                if fails:
                    if self.draw.draw(st.booleans()):  # only the answer is lost
                        self.channels.add(command.channel_id)
                    self.feed(e.Failed(command, "x"))
                    return
                self.channels.add(command.channel_id)
                if luck % 2 and isinstance(command, c.CreateMedia):
                    self.feed(e.ChannelEntered(command.channel_id, "m"))
                    self.feed(e.Done(command))
                else:
                    self.feed(e.Done(command))
                    if isinstance(command, c.CreateMedia):
                        self.feed(e.ChannelEntered(command.channel_id, "m"))
            case c.Hangup() | c.RemoveMedia():
                was = command.channel_id in self.channels
                self.channels.discard(command.channel_id)
                if luck % 2:
                    self.feed(e.Done(command))
                if was:
                    self.gone(command.channel_id)
                if not luck % 2:
                    self.feed(e.Done(command))
            case c.ContinueInDialplan():
                if command.channel_id in self.channels:
                    self.channels.discard(command.channel_id)
                    self.feed(e.ChannelLeft(command.channel_id))
                    if not self.deaf and command.channel_id not in self.machine.candidates:  # else it is screened
                        self.told_gone.add(command.channel_id)
                self.feed(e.Done(command))
            case c.ChannelCommand() | c.AddToBridge():
                there = command.channel_id in self.channels
                fails = fails and not isinstance(command, c.MusicOnHold)
                if isinstance(command, c.AddToBridge):
                    there = there and command.bridge_id in self.bridges
                if there and not fails:
                    self.is_done(command)
                self.feed(e.Done(command) if there and not fails else e.Failed(command, "x", gone=not there))
            case _:
                self.feed(e.Done(command))

    def is_done(self, command: c.Command) -> None:
        if isinstance(command, c.AddToBridge):
            self.bridge_of[command.channel_id] = command.bridge_id
        elif isinstance(command, c.MusicOnHold):
            (self.music.add if command.on else self.music.discard)(command.channel_id)

    def bridge_ends(self, bridge: str) -> None:
        self.bridges.discard(bridge)
        self.bridge_of = {channel: where for channel, where in self.bridge_of.items() if where != bridge}

    def gone(self, channel: str) -> None:
        self.channels.discard(channel)
        self.feed(e.ChannelLeft(channel))
        if not self.deaf:
            self.told_gone.add(channel)
        self.feed(e.ChannelGone(channel, self.draw.draw(st.sampled_from([0, 16, 17, 19, 20]))))

    def happen(self) -> None:
        """Something from outside."""
        draw = self.draw.draw
        channels = sorted(self.channels)
        kinds = ["timer", "stream", "ask", "line"] + (["channel"] * 5 if channels else [])
        match draw(st.sampled_from(kinds)):
            case "channel":
                self.channel_event(draw(st.sampled_from(channels)))
            case "line":
                if self.deaf:
                    self.connected()
                else:
                    self.deaf = True
            case "timer" if self.timers:
                name = draw(st.sampled_from(sorted(self.timers)))
                self.timers.discard(name)
                if name.startswith("link."):
                    self.at_once.clear()
                self.feed(e.TimerFired(name))
            case "stream" if self.streams:
                session = draw(st.sampled_from(sorted(self.streams)))
                self.streams.discard(session)
                self.feed(e.StreamDown(session, "lost", final=draw(st.booleans())))
            case _:
                self.ask()

    def channel_event(self, channel: str) -> None:
        match self.draw.draw(st.integers(0, 7)):
            case 0:
                self.feed(e.HangupRequested(channel))
                self.gone(channel)
            case 1:
                self.gone(channel)
            case 2:
                self.feed(e.HoldChanged(channel, self.draw.draw(st.booleans())))
            case 3:
                self.feed(e.DtmfReceived(channel, self.draw.draw(st.sampled_from("*129"))))
            case 4 if self.bridges:
                bridge = self.draw.draw(st.sampled_from(sorted(self.bridges)))
                self.bridge_ends(bridge)
                if not self.deaf:
                    self.bridges_gone.add(bridge)
                self.feed(e.BridgeGone(bridge))
            case 5:
                self.feed(e.ChannelRinging(channel))
            case _ if channel not in self.dialplan or self.is_awaited(channel):
                self.dialplan.discard(channel)
                said = self.draw.draw(st.sampled_from(["", "HUMAN", "MACHINE"]))
                self.answered.add(channel)
                self.feed(e.ChannelEntered(channel, "answered", said))

    def is_awaited(self, fetched: str) -> bool:
        """Whether a channel of the dialplan comes to this call when it enters; all others go back there."""
        return not self.deaf and (fetched in self.machine.candidates or fetched in self.machine.unwanted)

    def ask(self) -> None:
        draw = self.draw.draw
        party = st.sampled_from(["agent", "customer", "party-3", "party-4"])
        match draw(st.integers(0, 9 if self.deaf else 14)):
            case 0:
                self.feed(e.HangupAsked())
            case 1 | 2 | 3:
                self.feed(
                    e.TransferAsked(
                        draw(party),
                        "PJSIP/9",
                        language=draw(LANGUAGES),
                        consult=draw(st.booleans()),
                        referrer=self.party(),
                    )
                )
            case 4:
                self.feed(e.PartyAsked("PJSIP/8", language=draw(LANGUAGES)))
            case 5:
                self.feed(e.DtmfAsked("agent", "12"))
            case 10 if referrer := self.party():
                fetched = self.another("18")
                self.dialplan.add(fetched)
                self.feed(e.FetchAsked(referrer, fetched, "PJSIP/x"))
            case 11 if referrer := self.party():
                new = self.another("19")
                self.feed(e.PartyReplaced(referrer, new, "Local/x", draw(LANGUAGES), draw(st.booleans())))
            case 12 if given := self.party():
                self.channels.discard(given)
                self.feed(e.PartyGiven(given))
            case 6:
                self.feed(e.DialplanAsked(draw(party), "ctx", "100"))
            case 7:
                self.feed(e.PartyDropped(draw(party)))
            case 8:
                self.feed(e.SuperviseAsked("PJSIP/6", draw(ROLES), translated=draw(st.booleans())))
            case 9:
                self.feed(e.SuperviseChanged("supervisor", draw(ROLES), draw(party)))
            case 13:
                self.feed(e.OriginalAsked(draw(party), draw(st.sampled_from([None, -20.0]))))
            case _ if not self.deaf:
                self.feed(e.PartyJoined(self.another("17"), language=draw(LANGUAGES)))

    def another(self, prefix: str) -> str:
        channel = f"{prefix}.{len(self.joined)}"
        self.joined.append(channel)
        self.channels.add(channel)
        return channel

    def party(self) -> str:
        """The channel of a party that is there, or none."""
        there = sorted(leg.channel_id for leg in self.machine.parties if leg.channel_id in self.channels)
        return self.draw.draw(st.sampled_from(["", *there]))

    def connected(self) -> None:
        """The line to Asterisk is there again, and `Sweep` tells what is to be seen."""
        self.deaf = False
        for leg in list(self.machine.legs.values()):
            for channel, expected in ((leg.channel_id, leg.up), (leg.media_id, leg.media_there)):
                if expected and channel not in self.channels:
                    self.told_gone.add(channel)
                    self.feed(e.ChannelGone(channel))
            if leg.media_id in self.channels and not leg.media_entered:
                self.feed(e.ChannelEntered(leg.media_id, "m"))
            if leg.bridge_id not in self.bridges:
                self.feed(e.BridgeGone(leg.bridge_id))
        for candidate in list(self.machine.candidates.values()):
            if candidate.channel_id not in self.channels and candidate.placed:
                self.told_gone.add(candidate.channel_id)
                self.feed(e.CandidateLost(candidate.channel_id))
            elif candidate.channel_id in self.answered & self.channels:
                self.feed(e.ChannelEntered(candidate.channel_id, "answered"))

    def settle(self) -> None:
        """All is well from now on: what was asked for is carried out, Kallglot is there, and nobody does anything."""
        self.lucky = True
        if self.deaf:
            self.connected()
        for _ in range(2000):
            if self.next_command():
                continue
            self.at_once.clear()
            waits = sorted(
                name for name in self.timers if name.startswith(("link.retry", "link.heal", "ready", "media."))
            )
            if not waits:
                return
            self.timers.discard(waits[0])
            self.feed(e.TimerFired(waits[0]))
        raise AssertionError("it never comes to rest")

    def everybody_is_heard(self) -> None:
        """Who talks is heard by all others who talk, who waits hears music, and nobody else does."""
        call = self.machine
        if not call.active:
            return
        first = [leg for leg in call.legs.values() if leg.id in ("customer", "agent")]
        if call.parties and all(leg.up for leg in first) and not call.waits_for_transfer:
            assert call.state is CallState.ACTIVE, "whoever talks is in a call that is up"
        up, talking = call.parties, [leg for leg in call.talking if not leg.held]
        there = [leg for leg in talking if not (leg.id == "customer" and call.waits_for_agent)]
        for one, other in ((one, other) for one in there for other in there if one is not other):
            assert self.is_heard(one, other), f"{one.id} does not hear {other.id}"
        for leg_id, link, label in self.route.speaks:
            on = next(x for x in call.links if x.name == link)
            assert of_customer(label) == of_source(on, call.legs[leg_id]), f"{leg_id} is {label} to Kallglot"
        for leg in up:
            waits = leg not in talking or (len(talking) < 2 and (len(up) > 1 or call.waits_for_transfer))
            if call.direct and len(up) > 1:
                waits = call.parked(leg)
            assert (leg.channel_id in self.music) == (waits and not leg.held), f"{leg.id} waits: {waits}"

    def is_heard(self, one: Leg, other: Leg) -> bool:
        """Whether `one` hears `other`, as they are or translated."""
        where = [self.bridge_of.get(leg.channel_id) for leg in (one, other)]
        if self.machine.direct:
            return None is not where[0] == where[1]
        if where != [self.bridge_of.get(leg.media_id) for leg in (one, other)] or None in where or where[0] == where[1]:
            return False
        if (one.id, other.id) in self.originals:
            return True
        for leg, link, label in self.route.speaks:
            if leg != other.id or leg in self.muted:
                continue
            stream = next((x for x in self.machine.links if x.name == link and x.state is LinkState.OPEN), None)
            if stream is None or stream.session is None or stream.session.id not in self.streams:
                continue
            if any(hears == one.id and on == link and label not in deaf for hears, on, deaf in self.route.hears):
                return True
        return False

    def finish(self) -> None:
        if self.deaf:
            self.connected()
        self.lucky = False
        self.feed(e.HangupAsked())
        for _ in range(500):
            if not self.next_command():
                break


def a_call(data: st.DataObject) -> CallPlan:
    """Any call that can be asked for."""
    outbound = data.draw(st.booleans())
    return plan(
        request=SessionRequest(
            mode=data.draw(st.sampled_from(["bidirectional_translation", "assistive_translation", "ai_agent"])),
            source_language=data.draw(st.sampled_from(["de", "de", "auto"])),
            target_language=data.draw(st.sampled_from(["en", "en", "de", "auto"])),
        ),
        answer_now=data.draw(st.booleans()),
        max_parties=data.draw(st.sampled_from([3, 5])),
        on_unavailable=data.draw(st.sampled_from(["continue", "passthrough", "hangup"])),
        agents=data.draw(st.sampled_from([(), ("PJSIP/1",), ("PJSIP/1", "PJSIP/2")])),
        original_gain_db=data.draw(st.sampled_from([None, -12.0])),
        customer_channel="" if outbound else CALLER,
        dial_customer="PJSIP/0" if outbound else "",
        features=(("*1", "repeat"), ("*2", "original"), ("*9", "human")),
        human="PJSIP/7",
        only_humans=data.draw(st.booleans()),
    )


def nothing_is_left(world: World) -> None:
    assert world.machine.finished
    assert sorted(world.ended) == sorted(world.created), "every session created is ended exactly once"
    assert world.bridges == set(), "every bridge we made is removed"
    dialled = {x for x in world.channels if x.startswith("kg-")}
    assert dialled == set(), "every channel we made is removed"
    assert world.channels <= world.dialplan, "the caller, and whoever joined, ends in the dialplan or hung up"


@settings(
    max_examples=int(os.environ.get("KALLGLOT_CALL_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_nothing_is_left_whatever_happens(data: st.DataObject) -> None:
    world = World(data, CallMachine(a_call(data), 0.0, EPOCH))
    for _ in range(data.draw(st.integers(0, 60))):
        if data.draw(st.integers(0, 3)) == 0:
            world.happen()
        else:
            world.next_command()
    if data.draw(st.booleans()):
        world.settle()
        world.everybody_is_heard()
    world.finish()
    nothing_is_left(world)


SHORT = st.floats(0.0, STABLE, exclude_max=True)


@given(st.lists(st.tuples(SHORT, st.booleans()), min_size=1, max_size=200))
def test_streams_that_do_not_hold_are_opened_less_and_less(drops: list[tuple[float, bool]]) -> None:
    link, waits, sessions = Link("kg-t-1"), [0.0], 0
    commands = link.start()
    for held, final in drops:
        while not (opening := [x for x in commands if isinstance(x, c.OpenStream)]):
            if create := [x for x in commands if isinstance(x, c.CreateSession)]:
                sessions += 1
                commands = link.created(create[0], session(sessions))
            else:
                (timer,) = (x for x in commands if isinstance(x, c.SetTimer))
                waits.append(timer.delay)
                commands = link.timer(timer.name)
        up = link.stream_up(opening[0].session.id)
        assert c.SetTimer(STABLE_TIMER, STABLE) in up
        assert c.CancelTimer(HEAL_TIMER) in up
        assert held < STABLE
        commands = link.stream_down(opening[0].session.id, "lost", 0.0, final=final)
        assert c.CancelTimer(STABLE_TIMER) in commands
    heals = [wait for wait in waits if wait >= HEAL_FIRST]
    assert heals == sorted(heals), "the pauses grow"
    assert sessions <= 1 + SESSION_RETRIES + len(heals), "no session without a pause, but for the first ones"
    assert len(waits) <= 1 + (2 + len(heals)) * (1 + len(STREAM_RETRIES))
    assert waits.count(0.0) <= 1 + sessions
