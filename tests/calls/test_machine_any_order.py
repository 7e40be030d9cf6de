"""The call machine under any order of events: whatever happens, nothing is left, nothing is asked twice."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Role
from kallglot_ari.calls.link import HEAL_FIRST, HEAL_TIMER, SESSION_RETRIES, STABLE, STABLE_TIMER, STREAM_RETRIES, Link
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import Session
from tests.calls.script import CALLER, plan, session

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
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
        self.take(machine.start())

    def take(self, commands: list[c.Command]) -> None:
        for command in commands:
            self.check(command)
            if isinstance(command, c.SetTimer):
                self.timers.add(command.name)
            elif isinstance(command, c.CancelTimer):
                self.timers.discard(command.name)
            elif not isinstance(
                command, c.Publish | c.Uplink | c.Interruptible | c.Repeat | c.Hear | c.Route | c.Finish
            ):
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
        lane = self.lanes[self.draw.draw(st.sampled_from(sorted(lanes)))]
        self.carry_out(lane.pop(0), self.draw.draw(st.integers(0, 9)))
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
                self.bridges.discard(command.bridge_id)
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
                    if command.channel_id not in self.machine.candidates:  # else it is screened
                        self.told_gone.add(command.channel_id)
                self.feed(e.Done(command))
            case c.ChannelCommand() | c.AddToBridge():
                there = command.channel_id in self.channels
                self.feed(e.Done(command) if there and not fails else e.Failed(command, "x", gone=not there))
            case _:
                self.feed(e.Done(command))

    def gone(self, channel: str) -> None:
        self.channels.discard(channel)
        self.feed(e.ChannelLeft(channel))
        self.told_gone.add(channel)
        self.feed(e.ChannelGone(channel, self.draw.draw(st.sampled_from([0, 16, 17, 19, 20]))))

    def happen(self) -> None:
        """Something from outside."""
        draw = self.draw.draw
        channels = sorted(self.channels)
        kinds = ["timer", "stream", "ask"] + (["channel"] * 5 if channels else [])
        match draw(st.sampled_from(kinds)):
            case "channel":
                self.channel_event(draw(st.sampled_from(channels)))
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
                self.bridges.discard(bridge)
                self.bridges_gone.add(bridge)
                self.feed(e.BridgeGone(bridge))
            case 5:
                self.feed(e.ChannelRinging(channel))
            case _:
                self.dialplan.discard(channel)
                said = self.draw.draw(st.sampled_from(["", "HUMAN", "MACHINE"]))
                self.feed(e.ChannelEntered(channel, "answered", said))

    def ask(self) -> None:
        draw = self.draw.draw
        party = st.sampled_from(["agent", "customer", "party-3", "party-4"])
        match draw(st.integers(0, 14)):
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
            case 6 if referrer := self.party():
                fetched = self.another("18")
                self.dialplan.add(fetched)
                self.feed(e.FetchAsked(referrer, fetched, "PJSIP/x"))
            case 7 if referrer := self.party():
                new = self.another("19")
                self.feed(e.PartyReplaced(referrer, new, "Local/x", draw(LANGUAGES), draw(st.booleans())))
            case 8 if given := self.party():
                self.channels.discard(given)
                self.feed(e.PartyGiven(given))
            case 9:
                self.feed(e.DialplanAsked(draw(party), "ctx", "100"))
            case 10:
                self.feed(e.PartyDropped(draw(party)))
            case 11:
                self.feed(e.SuperviseAsked("PJSIP/6", draw(ROLES), translated=draw(st.booleans())))
            case 12:
                self.feed(e.SuperviseChanged("supervisor", draw(ROLES), draw(party)))
            case 13:
                self.feed(e.OriginalAsked(draw(party), draw(st.sampled_from([None, -20.0]))))
            case _:
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

    def finish(self) -> None:
        self.feed(e.HangupAsked())
        for _ in range(500):
            if not self.next_command():
                break


@settings(
    max_examples=int(os.environ.get("KALLGLOT_CALL_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_nothing_is_left_whatever_happens(data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from(["continue", "passthrough", "hangup"]))
    agents = data.draw(st.sampled_from([(), ("PJSIP/1",), ("PJSIP/1", "PJSIP/2")]))
    outbound = data.draw(st.booleans())
    call = plan(
        on_unavailable=policy,
        agents=agents,
        original_gain_db=data.draw(st.sampled_from([None, -12.0])),
        customer_channel="" if outbound else CALLER,
        dial_customer="PJSIP/0" if outbound else "",
        features=(("*1", "repeat"), ("*2", "original"), ("*9", "human")),
        human="PJSIP/7",
        only_humans=data.draw(st.booleans()),
    )
    world = World(data, CallMachine(call, 0.0, EPOCH))
    for _ in range(data.draw(st.integers(0, 60))):
        if data.draw(st.integers(0, 3)) == 0:
            world.happen()
        else:
            world.next_command()
    world.finish()

    assert world.machine.finished
    assert sorted(world.ended) == sorted(world.created), "every session created is ended exactly once"
    assert world.bridges == set(), "every bridge we made is removed"
    dialled = {x for x in world.channels if x.startswith("kg-")}
    assert dialled == set(), "every channel we made is removed"
    assert world.channels <= world.dialplan, "the caller, and whoever joined, ends in the dialplan or hung up"


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
        commands = link.stream_down(opening[0].session.id, "lost", final=final)
        assert c.CancelTimer(STABLE_TIMER) in commands
    heals = [wait for wait in waits if wait >= HEAL_FIRST]
    assert heals == sorted(heals), "the pauses grow"
    assert sessions <= 1 + SESSION_RETRIES + len(heals), "no session without a pause, but for the first ones"
    assert len(waits) <= 1 + (2 + len(heals)) * (1 + len(STREAM_RETRIES))
    assert waits.count(0.0) <= 1 + sessions
