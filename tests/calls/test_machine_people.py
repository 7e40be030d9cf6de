"""What people do in a call that is up, as scripts: hold, digits, joining, transfers."""

from __future__ import annotations

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Role
from kallglot_ari.calls.model import DialplanStatus, EndReason, SessionRequest
from tests.calls.script import CALLER, Script, plan


def test_assistive_translation_lets_the_agent_hear_the_original() -> None:
    s = Script(plan(request=SessionRequest(mode="assistive_translation")))
    s.talking()
    assert s.asked(c.Route)[-1].hears == (("customer", "", ("customer",)),)
    assert c.Hear("agent", "customer", 0.0) in s.all
    assert not s.asked(c.Hear, lambda x: x.leg == "customer")


def test_original_voice_under_the_translation() -> None:
    s = Script(plan(original_gain_db=-20.0, original_duck_db=6.0))
    s.talking()
    assert c.Hear("agent", "customer", -20.0, 6.0) in s.all
    assert c.Hear("customer", "agent", -20.0, 6.0) in s.all
    assert s.feed(e.OriginalAsked("agent", -9.0)) == [c.Hear("agent", "customer", -9.0, 6.0)]
    assert s.feed(e.OriginalAsked("agent", None)) == [c.Hear("agent", "customer", None)]
    assert s.feed(e.OriginalAsked("nobody", -9.0)) == []


def test_hold_pauses_both_uplinks_and_plays_music_to_who_waits() -> None:
    s = Script()
    agent = s.talking()
    commands = s.feed(e.HoldChanged(agent, True))
    assert {x for x in commands if isinstance(x, c.Uplink)} == {c.Uplink("customer", False), c.Uplink("agent", False)}
    assert c.MusicOnHold(CALLER, True) in commands
    assert s.feed(e.HoldChanged(agent, True)) == []
    commands = s.feed(e.HoldChanged(agent, False))
    assert {x for x in commands if isinstance(x, c.Uplink)} == {c.Uplink("customer", True), c.Uplink("agent", True)}
    assert c.MusicOnHold(CALLER, False) in commands


def test_dtmf_is_kept_told_and_passed_on() -> None:
    s = Script()
    agent = s.talking()
    commands = s.feed(e.DtmfReceived(CALLER, "5"))
    assert c.SendDtmf(agent, "5") in commands
    assert s.machine.view().dtmf[0]["digit"] == "5"
    assert s.feed(e.DtmfAsked("customer", "12#"))[0] == c.SendDtmf(CALLER, "12#")
    assert s.feed(e.DtmfAsked("nobody", "1")) == []


FEATURES = (("*1", "repeat"), ("*2", "original"), ("*9", "human"))


def test_feature_codes() -> None:
    s = Script(plan(features=FEATURES, human="PJSIP/7"))
    agent = s.talking()

    def press(*digits: str, channel: str = CALLER) -> list[c.Command]:
        return [x for digit in digits for x in s.feed(e.DtmfReceived(channel, digit))]

    assert c.Repeat("customer") in press("*", "1")
    assert c.Hear("customer", "agent", -15.0) in press("*", "2")
    assert c.Hear("customer", "agent", None) in press("*", "2")
    press("*", "9")
    press("*", "9")
    assert [x.endpoint for x in s.asked(c.Dial)] == ["PJSIP/agent", "PJSIP/7"], "asked twice, dialled once"
    assert not s.asked(c.SendDtmf), "a code is nobody else's"
    # what is none is passed on whole, at the latest when nothing follows
    assert c.SendDtmf(agent, "*5") in press("*", "5")
    press("*")
    assert c.SendDtmf(agent, "*") in s.feed(e.TimerFired("digits.customer"))
    assert s.feed(e.TimerFired("digits.customer")) == []
    assert c.SendDtmf(CALLER, "1") in press("1", channel=agent)
    assert s.feed(e.TimerFired("digits.nobody")) == []


@pytest.mark.parametrize(
    ("set_up", "seen"), [(None, [-15.0, None, -15.0]), (-20.0, [None, -20.0, None]), (0.0, [None, 0.0, None])]
)
def test_the_original_voice_comes_back_as_loud_as_the_call_was_set_up(
    set_up: float | None, seen: list[float | None]
) -> None:
    s = Script(plan(features=FEATURES, original_gain_db=set_up))
    s.talking()
    for wanted in seen:
        pressed = [x for digit in "*2" for x in s.feed(e.DtmfReceived(CALLER, digit))]
        assert [x.gain_db for x in pressed if isinstance(x, c.Hear)] == [wanted]


def test_in_a_full_call_a_person_is_asked_for_and_not_dialled() -> None:
    s = Script(plan(features=FEATURES, human="PJSIP/7", max_parties=2))
    s.talking()
    told = [x for digit in "*9" for x in s.feed(e.DtmfReceived(CALLER, digit))]
    assert c.Publish("human.asked", {"speaker": "customer"}) in told
    assert [x.endpoint for x in s.asked(c.Dial)] == ["PJSIP/agent"]


def test_digits_of_who_listens_are_nobody_s() -> None:
    """A supervisor who presses a key must not answer the menu that the caller is in."""
    s = Script(plan(features=FEATURES))
    s.talking()
    s.feed(e.SuperviseAsked("PJSIP/supervisor", Role.WHISPER))
    supervisor = s.comes()
    assert [s.feed(e.DtmfReceived(supervisor, digit)) for digit in "*15"] == [[], [], []]
    assert s.machine.view().dtmf == []


def test_two_digits_that_are_dialled_faster_than_they_are_long_are_two() -> None:
    s = Script()
    agent = s.talking()
    for digit, ended_at in (("1", 50.0), ("2", 50.04)):
        told = s.feed(e.DtmfReceived(CALLER, digit, 100, ended_at))
        assert c.Publish("dtmf", {"speaker": "customer", "digit": digit}) in told
        assert c.SendDtmf(agent, digit) in told


def test_a_digit_that_is_told_twice_counts_once() -> None:
    s = Script()
    s.talking()
    for ended_at in (100.0, 100.02, 100.5, 100.7):
        s.feed(e.DtmfReceived(CALLER, "1", 200, ended_at))
    assert [x.digits for x in s.asked(c.SendDtmf)] == ["1", "1", "1"]


def test_a_third_party_joins_and_the_opener_leaves() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.PartyJoined("1700000000.9", "PJSIP/x-1"))
    s.done()
    third = s.machine.leg_named("party-3")
    assert third is not None
    assert third.connected
    # the third speaks the agent's language: they hear each other as they are
    assert ("agent", "", ("agent", "party-3")) in s.asked(c.Route)[-1].hears
    assert c.Hear("agent", third.id, 0.0) in s.all
    s.feed(e.ChannelGone(CALLER))
    s.done()
    assert s.machine.state == "active"
    assert set(s.machine.legs) == {"agent", third.id}
    s.feed(e.ChannelGone(agent))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)


def test_a_sixth_party_is_refused() -> None:
    s = Script()
    s.talking()
    for n in range(4):
        s.feed(e.PartyJoined(f"1700000001.{n}"))
        s.done()
    refused = s.feed(e.PartyJoined("1700000002.1"))
    assert len(s.machine.legs) == 5
    assert c.SetVariable("1700000001.3", "KALLGLOT_STATUS", "BUSY") in s.all
    assert c.SetVariable("1700000002.1", "KALLGLOT_STATUS", "BUSY") in refused


def test_cold_transfer_replaces_the_agent() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2"))
    new = s.agent_answers(1)
    assert c.Hangup(agent) in s.all
    s.feed(e.ChannelLeft(agent))
    s.feed(e.ChannelGone(agent))
    s.done()
    assert s.machine.state == "active"
    assert s.machine.legs["agent"].channel_id == new
    assert s.machine.legs["agent"].connected
    s.feed(e.ChannelGone(new))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)


@pytest.mark.parametrize("how", ["busy", "timer", "refused"])
def test_a_transfer_that_fails_changes_nothing(how: str) -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2"))
    dial = s.asked(c.Dial)[-1]
    if how == "busy":
        s.feed(e.ChannelGone(dial.channel_id, 17))
    elif how == "timer":
        s.feed(e.TimerFired(f"candidate.{dial.channel_id}"))
        assert c.Hangup(dial.channel_id) in s.all
    else:
        s.feed(e.Failed(dial, "400"))
    assert s.machine.state == "active"
    assert s.machine.legs["agent"].channel_id == agent
    s.feed(e.ChannelGone(agent))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)


def test_a_party_is_dialled_in_and_one_that_does_not_come_leaves_nothing() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "expert", "fr"))
    assert s.machine.leg_named("expert") is not None
    s.agent_answers(1)
    s.done()
    leg = s.machine.leg_named("expert")
    assert leg is not None
    assert leg.connected
    s.feed(e.PartyAsked("PJSIP/4"))
    s.feed(e.ChannelGone(s.asked(c.Dial)[-1].channel_id, 17))
    s.done()
    assert len(s.machine.legs) == 3


def test_a_call_is_up_though_a_third_is_still_being_dialled() -> None:
    s = Script()
    s.done()
    s.feed(e.PartyAsked("PJSIP/3", "expert"))
    s.agent_answers()
    s.done()
    s.one(c.Publish, lambda x: x.event == "call.answered")
    s.feed(e.TimerFired("ready"), after=5)
    s.done()
    assert s.machine.direct, "Kallglot is slow: nobody waits in silence for a third"
    assert s.machine.state == "active"


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("fails", [c.CreateBridge, c.AddToBridge])
def test_a_third_party_that_cannot_be_placed_leaves_the_others_talking(fails: type[c.Command], joins: bool) -> None:
    s = Script()
    s.talking()
    if joins:
        s.feed(e.PartyJoined("17.1", "PJSIP/x", "expert"))
    else:
        s.feed(e.PartyAsked("PJSIP/3", "expert"))
        s.agent_answers(1)
    leg = s.machine.leg_named("expert")
    assert leg is not None
    if fails is c.AddToBridge:
        s.done(c.CreateBridge)
    command = next(x for x in s.open if isinstance(x, fails))
    s.open.remove(command)
    s.feed(e.Failed(command, "500"))
    assert s.machine.leg_named("expert") is None
    assert s.machine.state == "active"
    assert s.machine.view().degraded == ""
    away = s.asked(c.ContinueInDialplan if joins else c.Hangup)
    assert [x.channel_id for x in away] == [leg.channel_id]


def test_a_person_who_cannot_be_placed_leaves_the_caller_with_kallglot() -> None:
    s = Script(plan(agents=(), answer_now=True, request=SessionRequest("ai_agent", "de", "en")))
    s.done()
    s.kallglot_up()
    s.done()
    assert s.machine.state == "active"
    s.feed(e.PartyAsked("PJSIP/3"))
    create = next(x for x in s.open if isinstance(x, c.CreateBridge))
    s.open.remove(create)
    s.feed(e.Failed(create, "500"))
    assert s.machine.state == "active"
    assert list(s.machine.legs) == ["customer"]


@pytest.mark.parametrize("outbound", [False, True])
def test_a_third_who_comes_and_goes_while_the_agent_rings_ends_nothing(outbound: bool) -> None:
    s = Script(plan(customer_channel="", dial_customer="PJSIP/c") if outbound else plan())
    s.done()
    s.kallglot_up()
    s.feed(e.PartyJoined("17.1", "PJSIP/x", "expert"))
    s.done()
    s.leaves("17.1")
    assert s.machine.active
    s.agent_answers()
    if outbound:
        s.agent_answers(1)
    s.done()
    assert s.machine.state == "active"
    assert list(s.machine.legs) == ["customer", "agent"]


def test_a_bridge_of_one_who_is_gone_already_ends_nothing() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3"))
    create = next(x for x in s.open if isinstance(x, c.CreateBridge))
    s.open.remove(create)
    s.feed(e.ChannelGone(s.asked(c.Dial)[-1].channel_id, 17))
    s.feed(e.Failed(create, "500"))
    assert s.machine.state == "active"


def test_a_dial_without_an_answer_does_not_ring_on() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/x"))
    dial = s.asked(c.Dial)[-1]
    assert c.Hangup(dial.channel_id) in s.feed(e.Failed(dial, "no answer within 5 s"))
    assert s.feed(e.ChannelEntered(dial.channel_id, "PJSIP/x-1")) == [], "it is being hung up"
    s.feed(e.Failed(c.Hangup(dial.channel_id), "no answer within 5 s"))
    assert s.feed(e.ChannelEntered(dial.channel_id, "PJSIP/x-1")) == [c.Hangup(dial.channel_id)]
    assert s.machine.state == "active"


def test_a_party_that_enters_once_more_stays() -> None:
    s = Script()
    agent = s.talking()
    assert s.feed(e.ChannelEntered(agent, "PJSIP/agent-1")) == []


def test_a_party_that_is_not_fetched_is_not_ours_to_hang_up() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.FetchAsked(agent, "17.9", "PJSIP/x"))
    commands = s.feed(e.Failed(s.one(c.Fetch), "no such context"))
    assert not [x for x in commands if isinstance(x, c.Hangup)]
