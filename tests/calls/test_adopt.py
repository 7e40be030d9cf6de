"""A call taken up by another process, from what was written down and from what Asterisk shows."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest

from kallglot_ari.calls import adopt
from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.dialling import SCREENING
from kallglot_ari.calls.ending import READY_TIMER, RING_TIMER
from kallglot_ari.calls.features import OFF
from kallglot_ari.calls.legs import MEDIA_STABLE, MEDIA_TRIES, Candidate, Thing
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import CallState, DialplanStatus, EndReason, SessionRequest
from kallglot_ari.calls.translating import READY_SECONDS
from tests.calls.script import CALLER, EPOCH, Script, plan


def through_the_store(machine: CallMachine) -> adopt.Written:
    read = adopt.read(orjson.loads(orjson.dumps(adopt.write(machine))))
    assert read is not None
    return read


def seen(channels: dict[str, bool], bridges: dict[str, set[str]], dialplan: Set[str] = frozenset()) -> adopt.Seen:
    """`channels`: whether each is answered."""
    return adopt.Seen(
        {ch: f"PJSIP/{ch}" for ch in channels},
        frozenset(channels) - dialplan,
        frozenset(ch for ch, up in channels.items() if up),
        {bridge: frozenset(members) for bridge, members in bridges.items()},
    )


class Taken(Script):
    """A script that goes on with a machine taken up."""

    def __init__(self, resumed: adopt.Resumed) -> None:
        self.now = 200.0
        self.machine = resumed.machine
        self.all: list[c.Command] = []
        self.open: list[c.Command] = []
        self._take(self.machine.go_on(resumed.commands))
        for event in resumed.missed:
            self.feed(event)


def talking() -> tuple[Script, str, adopt.Seen]:
    script = Script()
    agent = script.talking()
    customer, other = script.machine.legs["customer"], script.machine.legs["agent"]
    there = seen(
        {CALLER: True, agent: True, customer.media_id: True, other.media_id: True},
        {customer.bridge_id: {CALLER, customer.media_id}, other.bridge_id: {agent, other.media_id}},
    )
    return script, agent, there


def test_a_call_that_is_as_it_was_needs_nothing_but_its_stream() -> None:
    script, _, there = talking()
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH + timedelta(seconds=60)))
    assert [type(command) for command in taken.open] == [c.OpenStream]
    assert taken.one(c.OpenStream).session == script.one(c.OpenStream).session
    assert taken.asked(c.Route)[-1].hears == script.asked(c.Route)[-1].hears
    taken.stream_up()
    assert taken.machine.state == "active"
    assert taken.machine.view().answered_at == script.machine.view().answered_at


def test_the_whole_machine_was_started_anew() -> None:
    script, _, there = talking()
    taken = Taken(adopt.resume(through_the_store(script.machine), seen({}, {}), 200.0, EPOCH))
    assert (taken.machine.reason, taken.machine.status) == (EndReason.ERROR, DialplanStatus.FAILED)
    left = replace(there, channels={}, ours=frozenset(), up=frozenset())
    taken = Taken(adopt.resume(through_the_store(script.machine), left, 200.0, EPOCH))
    assert taken.machine.reason is EndReason.CUSTOMER_HANGUP, "its bridges are there"


def test_sessions_that_died_with_the_process_are_replaced() -> None:
    script, _, there = talking()
    written = through_the_store(script.machine)
    taken = Taken(adopt.resume(written, there, 200.0, EPOCH, sessions_lost=True))
    assert [command.key for command in taken.asked(c.CreateSession)] == ["kg-t-1.s2"], "a key of its own"
    assert taken.asked(c.EndSession) == []


def test_an_unanswered_creation_is_asked_again_under_its_key() -> None:
    script = Script()
    written = through_the_store(script.machine)
    assert written.keys == {"kg-t-1.s1"}
    taken = Taken(adopt.resume(written, seen({CALLER: True}, {}), 200.0, EPOCH))
    assert taken.one(c.CreateSession).key == "kg-t-1.s1"


def test_a_party_that_left_meanwhile_ends_the_call() -> None:
    script, agent, there = talking()
    gone = adopt.Seen(
        {k: v for k, v in there.channels.items() if k != agent}, there.ours - {agent}, there.up - {agent}, there.bridges
    )
    taken = Taken(adopt.resume(through_the_store(script.machine), gone, 200.0, EPOCH))
    assert taken.machine.state == "ending"
    assert [end.session_id for end in taken.asked(c.EndSession)] == ["sess_1"]
    assert taken.caller_hung_up


def test_what_is_gone_of_our_own_is_made_again_with_new_names() -> None:
    script, agent, there = talking()
    customer = script.machine.legs["customer"]
    bare = adopt.Seen(
        {k: v for k, v in there.channels.items() if k != customer.media_id},
        there.ours - {customer.media_id},
        there.up,
        {b: m for b, m in there.bridges.items() if b == script.machine.legs["agent"].bridge_id},
    )
    old_media = customer.media_id
    taken = Taken(adopt.resume(through_the_store(script.machine), bare, 200.0, EPOCH))
    assert taken.one(c.CreateBridge).bridge_id == customer.bridge_id
    assert taken.one(c.CreateMedia).channel_id != old_media
    taken.done()
    taken.stream_up()
    assert all(leg.connected for leg in taken.machine.legs.values())
    assert agent not in [command.channel_id for command in taken.asked(c.Hangup)]


def test_a_media_channel_made_after_the_last_writing_is_found_by_its_name() -> None:
    script, agent, there = talking()
    written = through_the_store(script.machine)
    for leg in written.legs:
        leg.media, leg.media_tries, leg.media_id = Thing.NONE, 0, ""
    taken = Taken(adopt.resume(written, there, 200.0, EPOCH))
    assert not taken.asked(c.CreateMedia)
    assert not taken.asked(c.Hangup)
    assert taken.machine.legs["agent"].media_bridged
    assert agent


def test_media_that_held_is_no_failure_of_the_next_process() -> None:
    script, _, there = talking()
    for leg in script.machine.legs.values():
        leg.media_failures = MEDIA_TRIES
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    lost = taken.machine.legs["agent"].media_id
    taken.feed(e.ChannelLeft(lost), after=MEDIA_STABLE)
    assert taken.one(c.CreateMedia).leg == "agent"
    assert not taken.machine.direct


def test_a_caller_alone_with_kallglot_can_still_interrupt_it() -> None:
    script = Script(plan(agents=(), request=SessionRequest(mode="ai_agent")))
    script.done()
    script.kallglot_up()
    script.done()
    leg = script.machine.legs["customer"]
    there = seen({CALLER: True, leg.media_id: True}, {leg.bridge_id: {CALLER, leg.media_id}})
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    assert taken.asked(c.Interruptible) == [c.Interruptible("customer", True)]


def test_agents_still_ring_those_that_vanished_are_dialled_again() -> None:
    script = Script(plan(agents=("PJSIP/a", "PJSIP/b"), timeout=30.0))
    script.done()
    first, second = (dial.channel_id for dial in script.asked(c.Dial))
    wall = EPOCH + timedelta(seconds=12)
    ringing = Taken(
        adopt.resume(through_the_store(script.machine), seen({CALLER: True, first: False}, {}), 200.0, wall)
    )
    assert ringing.asked(c.Dial) == []
    assert ringing.one(c.SetTimer, lambda t: t.name == RING_TIMER).delay == 18
    ringing.feed(e.ChannelEntered(first, "PJSIP/a-1"))
    assert ringing.machine.legs["agent"].up

    alone = Taken(adopt.resume(through_the_store(script.machine), seen({CALLER: True}, {}), 200.0, wall))
    assert [dial.endpoint for dial in alone.asked(c.Dial)] == ["PJSIP/a", "PJSIP/b"]
    assert not {dial.channel_id for dial in alone.asked(c.Dial)} & {first, second}, "ids are never used twice"

    answered = Taken(
        adopt.resume(through_the_store(script.machine), seen({CALLER: True, second: True}, {}), 200.0, wall)
    )
    assert answered.machine.legs["agent"].channel_id == second


def test_strangers_with_the_calls_name_are_removed() -> None:
    script, _, there = talking()
    extra = adopt.Seen(
        {**there.channels, "kg-t-1.d9": "PJSIP/x", "kg-t-11.d1": "PJSIP/y"},
        there.ours,
        there.up,
        {**there.bridges, "kg-t-1.agent.b7": frozenset()},
    )
    taken = Taken(adopt.resume(through_the_store(script.machine), extra, 200.0, EPOCH))
    assert [command.channel_id for command in taken.asked(c.Hangup)] == ["kg-t-1.d9"]
    assert [command.bridge_id for command in taken.asked(c.DestroyBridge)] == ["kg-t-1.agent.b7"]
    dial = taken.feed(e.TransferAsked("agent", "PJSIP/9"))
    assert next(x for x in dial if isinstance(x, c.Dial)).channel_id == "kg-t-1.d10"


@pytest.mark.parametrize("in_time", [True, False])
def test_who_is_on_his_way_to_us_from_the_dialplan_at_a_kill_is_waited_for(in_time: bool) -> None:
    """Gone on without, he would come to nobody."""
    script, agent, there = talking()
    script.feed(e.FetchAsked(agent, "17.9", "PJSIP/x"))
    there = replace(there, channels={**there.channels, "17.9": "PJSIP/x"})
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    if not in_time:
        taken.feed(e.TimerFired(taken.one(c.SetTimer, lambda timer: "17.9" in timer.name).name))
    taken.feed(e.ChannelEntered("17.9", "PJSIP/x"))
    assert (taken.machine.legs["agent"].channel_id == "17.9") is in_time
    assert (c.Hangup("17.9") in taken.all) is not in_time


def test_who_came_too_late_while_nobody_listened_is_let_go_after_a_kill() -> None:
    script, _, there = talking()
    script.machine.unwanted = {"17.9", "17.8", "17.7"}
    script.feed(e.ChannelLeft("17.7"))  # he came by himself, and is a caller
    channels = {**there.channels, "17.9": "x", "17.8": "y", "17.7": "z"}
    there = replace(there, channels=channels, ours=there.ours | {"17.9", "17.7"})
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    assert taken.asked(c.Hangup) == [c.Hangup("17.9")]
    assert taken.machine.unwanted == {"17.8"}


def test_media_that_were_given_up_and_are_in_their_bridge_translate_again_after_a_kill() -> None:
    """They came back just before it: nobody would ask for them any more, nor take them for good."""
    script, agent, there = talking()
    script.machine.legs["agent"].media_given_up = True
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    assert not taken.machine.direct
    lost = replace(there, ours=there.ours - {taken.machine.legs["agent"].media_id})
    taken = Taken(adopt.resume(through_the_store(script.machine), lost, 200.0, EPOCH))
    assert taken.machine.legs["agent"].lacks_media, "until another one is in the bridge"
    assert agent == taken.machine.legs["agent"].channel_id


def test_the_other_half_of_a_local_channel_is_no_stranger() -> None:
    """Asterisk counts it among our application's channels: hung up, it took the agent with it."""
    script, agent, there = talking()
    halves = {f"{agent};2": "Local/1001@phones-00000001;2", "kg-t-1.d9": "Local/x;1", "kg-t-1.d9;2": "Local/x;2"}
    with_it = adopt.Seen({**there.channels, **halves}, there.ours | set(halves), there.up | set(halves), there.bridges)
    taken = Taken(adopt.resume(through_the_store(script.machine), with_it, 200.0, EPOCH))
    assert [command.channel_id for command in taken.asked(c.Hangup)] == ["kg-t-1.d9", "kg-t-1.d9;2"]


def test_a_customer_who_is_dialled_again_is_screened_as_before() -> None:
    script = Script(plan(customer_channel="", dial_customer="PJSIP/0", only_humans=True))
    first = script.one(c.Dial).channel_id
    written = through_the_store(script.machine)
    ringing = Taken(adopt.resume(written, seen({first: False}, {}), 200.0, EPOCH))
    assert c.SetTimer(f"candidate.{first}", 30.0) in ringing.all, "it is not waited for without end"
    taken = Taken(adopt.resume(through_the_store(script.machine), seen({}, {}), 200.0, EPOCH))
    again = taken.one(c.Dial).channel_id
    assert c.SetTimer(f"candidate.{again}", 30.0) in taken.all
    taken.feed(e.ChannelEntered(again, "PJSIP/0-0001"))
    assert taken.one(c.ContinueInDialplan).context == SCREENING[0]


@pytest.mark.parametrize("carried_out", [True, False])
def test_music_that_may_not_have_been_stopped_is_stopped_after_a_kill(carried_out: bool) -> None:
    """An operator starts the service again because Asterisk does not answer: it was asked, and has done nothing yet."""
    script, agent, there = talking()
    script.feed(e.HoldChanged(agent, True))
    script.done()
    script.feed(e.HoldChanged(agent, False))
    stop = script.asked(c.MusicOnHold)[-1]
    assert stop == c.MusicOnHold(CALLER, False)
    if carried_out:
        script.done(c.MusicOnHold)
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    assert taken.asked(c.MusicOnHold) == ([] if carried_out else [stop])


def test_a_party_that_was_given_to_the_dialplan_stays_there() -> None:
    script, agent, _ = talking()
    script.feed(e.PartyAsked("PJSIP/third"))
    third = script.agent_answers(1)
    script.done()
    script.feed(e.DialplanAsked("agent", "voicemail", "1"))
    script.feed(e.ChannelLeft(agent))
    script.done()
    written = through_the_store(script.machine)
    away = seen({CALLER: True, third: True, agent: True}, {}, {agent})
    assert Taken(adopt.resume(written, away, 200.0, EPOCH)).asked(c.Hangup) == []


def test_another_form_is_not_read() -> None:
    value = adopt.write(Script().machine)
    assert adopt.read({**value, "form": adopt.FORM + 1}) is None
    assert adopt.read({**value, "legs": 7}) is None
    assert adopt.read({}) is None


def test_everything_a_machine_knows_is_written_or_found_again() -> None:
    """Whoever adds something to the machine decides here what becomes of it when the process is killed."""
    script, agent, there = talking()
    machine = script.machine
    machine.failures, machine.problem = [(17, True)], "no session: 503"
    machine.dtmf = [{"speaker": "agent", "digit": "1", "at": "2026-01-01T00:00:00Z"}]
    machine.consulting, machine.human, machine.unwanted = ("agent", "customer"), "agent", {"1700000000.9"}
    machine.direct = machine.direct_told = True
    target = script.machine.next_id("d")
    machine.candidates[target] = Candidate(target, "PJSIP/9", "agent", True, True, True, "fr", agent, False)
    there = replace(there, channels={**there.channels, target: "PJSIP/9-1"})
    customer = machine.legs["customer"]
    customer.held, customer.digits, customer.last_digit, customer.original_db = True, "*", ("*", 5.0), OFF
    machine.legs["agent"].original_db = -15.0
    begun_anew = {"now", "wall", "_outstanding", "route", "_handlers", "ended_wall", "_finished", "answered_at"}
    begun_anew |= {"links", "legs", "unready"}
    fresh = vars(CallMachine(plan(), 0.0, EPOCH)) | {"state": CallState.SETUP, "plan": None, "start_wall": None}
    fresh |= {"reason": ..., "status": ...}  # of a call that ends, which is not taken up
    for name, value in vars(machine).items():
        if name not in begun_anew:
            assert value != fresh[name], f"{name}: nothing is said of it by what every call begins with"
    taken = adopt.resume(through_the_store(machine), there, 200.0, EPOCH).machine
    for name, value in vars(machine).items():
        if name not in begun_anew:
            assert vars(taken)[name] == value, name
    for leg_id, leg in machine.legs.items():
        assert taken.legs[leg_id] == replace(leg, media_since=taken.now)


def test_who_is_connected_and_waits_for_kallglot_is_not_left_in_silence_by_a_kill() -> None:
    script = Script()
    script.done()
    agent = script.agent_answers()
    script.done()
    customer, other = script.machine.legs["customer"], script.machine.legs["agent"]
    there = seen(
        {CALLER: True, agent: True, customer.media_id: True, other.media_id: True},
        {customer.bridge_id: {CALLER, customer.media_id}, other.bridge_id: {agent, other.media_id}},
    )
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    assert c.SetTimer(READY_TIMER, READY_SECONDS) in taken.all
    taken.feed(e.TimerFired(READY_TIMER), after=READY_SECONDS)
    assert taken.machine.direct


def as_it_is(machine: CallMachine, **more: bool) -> adopt.Seen:
    """Asterisk with all that the call has there; and `more` channels, answered or not."""
    channels, bridges = dict(more), {}
    for leg in machine.legs.values():
        channels |= {leg.channel_id: True, leg.media_id: True}
        bridges[leg.bridge_id] = {leg.channel_id, leg.media_id}
    return seen(channels, bridges)


def test_who_heard_another_ones_own_voice_hears_it_again_after_a_kill() -> None:
    """Asterisk has the channels, but what each is played was known to the process that is gone."""
    script = Script()
    script.talking()
    script.feed(e.PartyJoined("1700000000.9", "PJSIP/x-1", language="en"))
    script.done()
    third = script.machine.leg_of("1700000000.9")
    assert third is not None
    assert third.originals
    taken = Taken(adopt.resume(through_the_store(script.machine), as_it_is(script.machine), 200.0, EPOCH))
    assert {(x.leg, x.other) for x in taken.asked(c.Hear)} == {("agent", third.id), (third.id, "agent")}


def test_a_transfer_that_rings_goes_on_ringing_after_a_kill_and_not_for_ever() -> None:
    script = Script()
    script.talking()
    script.feed(e.TransferAsked("agent", "PJSIP/9"))
    target = script.asked(c.Dial)[-1].channel_id
    there = as_it_is(script.machine, **{target: False})
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    assert not taken.asked(c.Hangup)
    taken.feed(e.TimerFired(taken.one(c.SetTimer, lambda x: x.name == f"candidate.{target}").name), after=30)
    assert c.Hangup(target) in taken.all
    assert not taken.machine.candidates


def test_a_third_party_that_was_dialled_and_is_gone_after_a_kill_is_no_longer_of_the_call() -> None:
    script = Script()
    script.talking()
    there = as_it_is(script.machine)
    script.feed(e.PartyAsked("PJSIP/3", "third"))
    taken = Taken(adopt.resume(through_the_store(script.machine), there, 200.0, EPOCH))
    assert set(taken.machine.legs) == {"customer", "agent"}
    assert not taken.asked(c.Dial)


def test_the_person_who_was_asked_for_is_not_dialled_again_after_a_kill() -> None:
    script = Script(plan(features=(("*9", "human"),), human="PJSIP/7"))
    agent = script.talking()
    for digit in "*9":
        script.feed(e.DtmfReceived(CALLER, digit))
    script.comes()
    taken = Taken(adopt.resume(through_the_store(script.machine), as_it_is(script.machine), 200.0, EPOCH))
    for digit in "*9":
        taken.feed(e.DtmfReceived(agent, digit))
    assert not taken.asked(c.Dial)
