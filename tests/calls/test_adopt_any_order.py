"""Killed at any moment and taken up again, whatever happens: nothing is left, and no session open."""

from __future__ import annotations

import copy
import os
from datetime import timedelta
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kallglot_ari.calls import adopt
from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import CallState, Session
from tests.calls.script import CALLER, EPOCH, plan
from tests.calls.test_adopt import seen
from tests.calls.test_machine_any_order import World


class Killable(World):
    """A world in which the process may be killed between any two steps, with its last writing some steps old."""

    def __init__(self, draw: st.DataObject, machine: CallMachine) -> None:
        self.members: dict[str, str] = {}
        self.by_key: dict[str, str] = {}
        self.entered: set[str] = set()
        self.given_back: set[str] = set()
        """Channels that were no longer a party's, and not yet hung up, when the process was killed: nobody owns them, and the sweep finds them."""
        self.writings: list[dict[str, Any]] = []
        super().__init__(draw, machine)
        self.write()

    def write(self) -> None:
        self.writings = [*self.writings[-3:], copy.deepcopy(adopt.write(self.machine))]

    def feed(self, event: e.Event) -> None:
        if isinstance(event, e.ChannelEntered):
            self.entered.add(event.channel_id)
        super().feed(event)
        self.write()

    def check(self, command: c.Command) -> None:
        if isinstance(command, c.OpenStream):
            return  # a stale writing may name a session that is over: it is refused
        super().check(command)

    def carry_out(self, command: c.Command, luck: int) -> None:
        if isinstance(command, c.CreateSession) and command.key in self.by_key:
            known = self.by_key[command.key]
            if not luck:  # the outbox ends what it knows
                self.ended += [known] if known not in self.ended else []
                self.feed(e.Failed(command, "503"))
                return
            self.feed(e.SessionCreated(command, Session(known, "m", "ws://", "t", None)))
            return
        if isinstance(command, c.EndSession) and command.session_id in self.ended:
            self.feed(e.Done(command))
            return
        if isinstance(command, c.AddToBridge) and luck and command.channel_id in self.channels:
            self.members[command.channel_id] = command.bridge_id
        super().carry_out(command, luck)
        if isinstance(command, c.CreateSession) and luck:
            self.by_key[command.key] = self.created[-1]

    def kill(self) -> bool:
        """False when the call was over by what was written: then only the sweep and the outbox remain."""
        written = adopt.read(orjson.loads(orjson.dumps(self.draw.draw(st.sampled_from(self.writings)))))
        assert written is not None
        leaving = {x.channel_id for lane in self.lanes.values() for x in lane if isinstance(x, c.Hangup)}
        self.given_back |= leaving - {leg.channel_id for leg in written.legs}
        self.lanes, self.timers, self.streams = {}, set(), set()
        self.at_once.clear()
        live = written.state not in (CallState.ENDING, CallState.ENDED)
        keep = written.keys if live else set()
        self.ended += [s for key, s in self.by_key.items() if key not in keep and s not in self.ended]
        if not live:
            return False
        members = {ch: b for ch, b in self.members.items() if ch in self.channels and b in self.bridges}
        there = seen(
            {ch: ch in self.entered or ".d" not in ch or self.draw.draw(st.booleans()) for ch in sorted(self.channels)},
            {b: {ch for ch, where in members.items() if where == b} for b in self.bridges},
            self.dialplan,
        )
        wall = EPOCH + timedelta(seconds=self.now)
        resumed = adopt.resume(written, there, self.now, wall)
        self.machine = resumed.machine
        self.told_gone, self.bridges_gone = set(), set()
        self.take(self.machine.go_on(resumed.commands))
        for event in resumed.missed:
            self.feed(event)
        return True


@settings(
    max_examples=int(os.environ.get("KALLGLOT_CALL_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_killed_at_any_moment_nothing_is_left_and_no_session_open(data: st.DataObject) -> None:
    agents = data.draw(st.sampled_from([(), ("PJSIP/1",), ("PJSIP/1", "PJSIP/2")]))
    outbound = data.draw(st.booleans())
    call = plan(agents=agents, customer_channel="" if outbound else CALLER, dial_customer="PJSIP/0" if outbound else "")
    world = Killable(data, CallMachine(call, 0.0, EPOCH))
    alive = True
    for _ in range(data.draw(st.integers(1, 3))):
        for _ in range(data.draw(st.integers(0, 25))):
            if data.draw(st.integers(0, 4)) == 0:
                world.happen()
            else:
                world.next_command()
        alive = world.kill()
        if not alive:
            break
    if alive:
        world.finish()
        assert world.machine.finished
        left = {ch for ch in world.channels if ch.startswith("kg-") or ch == CALLER} - world.given_back
        assert left == set(), "every channel is let go; who came in the last moments is given back by the sweep"
        assert world.bridges == set()
    assert set(world.ended) == set(world.created), "every session is ended"
    assert len(world.ended) == len(set(world.ended)), "once"
