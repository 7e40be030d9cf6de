"""Transfers as scripts: who hears what on the way, and what is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Role
from kallglot_ari.calls.link import HEAL_TIMER
from kallglot_ari.calls.model import DialplanStatus, EndReason
from tests.calls.script import CALLER, Script, plan


def music(s: Script, channel: str) -> list[bool]:
    return [x.on for x in s.asked(c.MusicOnHold, lambda x: x.channel_id == channel)]


def test_who_is_consulted_on_hold_and_given_to_another_call_hears_no_music_there() -> None:
    """RFC 5589 §7.1: the phone holds its second call, then sends REFER."""
    s = Script()
    consulted = s.talking()
    s.feed(e.HoldChanged(CALLER, True))
    s.feed(e.PartyGiven(consulted))
    assert music(s, consulted) == [True, False]


def test_who_waits_with_music_and_goes_to_the_dialplan_hears_no_music_there() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.HoldChanged(agent, True))
    commands = s.feed(e.DialplanAsked("customer", "voicemail", "1"))
    asked = [x for x in commands if isinstance(x, c.MusicOnHold | c.ContinueInDialplan)]
    assert asked == [c.MusicOnHold(CALLER, False), c.ContinueInDialplan(CALLER, "voicemail", "1", "1")]


def test_who_waits_with_music_and_goes_back_to_the_dialplan_hears_no_music_there() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2"))
    s.leaves(agent)
    assert music(s, CALLER) == [True]
    s.feed(e.ChannelGone(s.asked(c.Dial)[-1].channel_id, 19))
    assert s.back_in_dialplan
    assert music(s, CALLER) == [True, False]


def test_a_transfer_is_called_off_when_who_is_dialled_is_the_only_one_to_come() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2", referrer=agent))
    s.leaves(agent)
    s.feed(e.PartyDropped("agent"))
    s.open = [x for x in s.open if not isinstance(x, c.Dial)]
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)


@pytest.mark.parametrize("others", [0, 1])
def test_a_third_partys_transfer_is_called_off(others: int) -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    third = s.comes()
    if not others:
        s.leaves(agent)
    s.feed(e.TransferAsked("third", "PJSIP/9", referrer=third))
    s.leaves(third)
    assert s.machine.state == "active"
    s.feed(e.PartyDropped("third"))
    assert c.Hangup(s.asked(c.Dial)[-1].channel_id) in s.all, "nobody is dialled any more"
    assert s.machine.active is bool(others), "one alone is no call"


def to_a_language_that_is_refused(s: Script) -> None:
    s.feed(e.TransferAsked("agent", "PJSIP/9", language="xx"))
    s.refused("422 invalid_language_code")
    s.comes()
    assert s.machine.direct


def test_a_session_of_no_use_is_ended_though_the_one_needed_cannot_be_had() -> None:
    s = Script()
    agent = s.talking()
    to_a_language_that_is_refused(s)
    s.leaves(agent)
    assert [x.session_id for x in s.asked(c.EndSession)] == ["sess_1"]
    assert s.feed(e.StreamDown("sess_1", "idle", final=True)) == []
    assert len(s.asked(c.CreateSession)) == 2, "none is bought in its place"
    assert s.machine.state == "active"


def test_a_session_in_use_stays_while_the_next_ones_cannot_be_had() -> None:
    s = Script()
    s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/9", language="xx"))
    s.refused("422 invalid_language_code")
    assert not s.asked(c.EndSession), "the new one is not there yet"
    s.feed(e.ChannelGone(s.asked(c.Dial)[-1].channel_id, 17))
    s.done()
    assert [x.session_id for x in s.asked(c.EndSession)] == []
    assert not s.machine.direct


def test_what_cannot_be_had_at_first_translates_later() -> None:
    s = Script()
    s.talking()
    to_a_language_that_is_refused(s)
    s.feed(e.TimerFired(s.asked(c.SetTimer, lambda x: x.name.startswith(HEAL_TIMER))[-1].name))
    s.kallglot_up(2)
    s.done()
    assert not s.machine.direct
    assert [leg.language for leg in s.machine.parties] == ["de", "xx"]


@pytest.mark.parametrize("consult", [False, True])
def test_a_transfer_that_nobody_takes_is_told(consult: bool) -> None:
    s = Script()
    s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/9", consult=consult))
    dialled = s.asked(c.Dial)[-1].channel_id
    s.feed(e.ChannelRinging(dialled))
    commands = s.feed(e.ChannelGone(dialled, 17))
    assert c.Publish("transfer.failed", {"speaker": "agent", "target": "PJSIP/9"}) in commands
    assert [leg.speaker for leg in s.machine.parties] == ["customer", "agent"]


def test_a_transfer_whose_party_left_meanwhile_and_that_nobody_takes_is_told() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/9"))
    s.leaves(agent)
    commands = s.feed(e.ChannelGone(s.asked(c.Dial)[-1].channel_id, 19))
    assert c.Publish("transfer.failed", {"speaker": "agent", "target": "PJSIP/9"}) in commands


def test_an_invited_party_that_does_not_come_is_no_failed_transfer() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    s.feed(e.ChannelGone(s.asked(c.Dial)[-1].channel_id, 19))
    assert not s.asked(c.Publish, lambda x: x.event == "transfer.failed")


def test_who_comes_after_a_hold_is_streamed_though_the_media_were_lost_meanwhile() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.HoldChanged(agent, True))
    s.feed(e.TransferAsked("agent", "PJSIP/2"))
    s.leaves(agent)
    muted = {x.leg: x.on for x in s.asked(c.Uplink)}
    assert muted == {"customer": False, "agent": False}
    s.feed(e.ChannelGone(s.machine.legs["agent"].media_id))
    s.done()
    s.comes()
    assert {x.leg: x.on for x in s.asked(c.Uplink)} == {"customer": True, "agent": True}


def test_who_is_brought_from_the_dialplan_too_late_is_hung_up() -> None:
    """It was on its way when the transfer was given up: in our application nobody else would ever look after it."""
    s = Script()
    agent = s.talking()
    s.feed(e.FetchAsked(agent, "1700000000.8", "PJSIP/8-1"))
    assert c.SetTimer("candidate.1700000000.8", 5.0) in s.all
    assert c.Hangup("1700000000.8") not in s.feed(e.TimerFired("candidate.1700000000.8"), after=5)
    assert s.feed(e.ChannelEntered("1700000000.8")) == [c.Hangup("1700000000.8")]
    assert s.feed(e.ChannelEntered("1700000000.8")) == [], "once"
    assert s.machine.state == "active"


ORDERS = (
    e.TransferAsked("agent", "PJSIP/9"),
    e.TransferAsked("agent", "PJSIP/9", consult=True),
    e.DialplanAsked("agent", "voicemail", "1"),
    e.DtmfAsked("agent", "1"),
    e.SuperviseChanged("agent", Role.LISTEN),
)


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_asked_of_one_who_is_not_there_does_nothing(order: e.Event) -> None:
    """Of one who has left and whose place is being filled, of nobody, and of a call that is over."""
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2"))
    s.leaves(agent)
    assert s.feed(order) == []
    assert s.feed(replace(order, speaker="nobody")) == []  # type: ignore[call-arg]
    s.feed(e.HangupAsked())
    assert s.feed(order) == []
    assert s.feed(replace(order, speaker="customer")) == []  # type: ignore[call-arg]


def test_what_a_phone_asks_that_is_no_partys_any_more_does_nothing() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2"))
    s.comes()
    for event in (
        e.FetchAsked(agent, "1.8", "PJSIP/8-1"),
        e.PartyGiven(agent),
        e.TransferAsked("agent", "PJSIP/3", referrer=agent),
    ):
        assert s.feed(event) == []
    assert s.machine.state == "active"


@pytest.mark.parametrize("referrer", [True, False])
def test_who_was_put_in_the_place_of_a_party_is_the_party_and_the_phone_that_asked_is_told(referrer: bool) -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/2"))
    rings = s.asked(c.Dial)[-1].channel_id
    commands = s.feed(e.PartyReplaced(agent, "1700000000.7", "PJSIP/7-1", "fr", referrer))
    assert [(x.channel_id, x.state) for x in commands if isinstance(x, c.TransferProgress)] == [
        (agent, "channel_answered")
    ] * referrer
    assert {x.channel_id for x in commands if isinstance(x, c.Hangup)} == {agent, rings}
    assert c.Publish("leg.replaced", {"speaker": "agent", "channel": "PJSIP/7-1"}) in commands
    leg = s.machine.legs["agent"]
    assert (leg.channel_id, leg.language, leg.ours) == ("1700000000.7", "fr", True)


def test_a_channel_in_the_place_of_nobody_is_hung_up() -> None:
    """It is in our application, and no call has it."""
    s = Script()
    s.talking()
    for old in ("1700000000.6", ""):
        assert s.feed(e.PartyReplaced(old, "1700000000.7")) == [c.Hangup("1700000000.7")]


@pytest.mark.parametrize("full", [False, True])
def test_a_second_consultation_and_one_in_a_full_call_are_told_to_have_failed(full: bool) -> None:
    s = Script(plan(max_parties=2 if full else 5))
    s.talking()
    if not full:
        told = s.feed(e.TransferAsked("agent", "PJSIP/8", consult=True))
        assert c.Publish("transfer.started", {"speaker": "agent", "target": "PJSIP/8", "consult": True}) in told
    failed = c.Publish("transfer.failed", {"speaker": "customer", "target": "PJSIP/9"})
    assert s.feed(e.TransferAsked("customer", "PJSIP/9", consult=True)) == [failed]


# --- with consultation --------------------------------------------------------------------------------------------------


def consulting(s: Script, *, comes: bool = True, language: str = "") -> str:
    """The agent asks PJSIP/9 in; the channel that is dialled."""
    s.feed(e.TransferAsked("agent", "PJSIP/9", consult=True, language=language))
    return s.comes() if comes else s.asked(c.Dial)[-1].channel_id


def test_who_asked_somebody_in_and_leaves_before_that_one_answers_is_replaced_by_it() -> None:
    """A phone that hands a call over and hangs up at once, as many do: the customer must not be left alone."""
    s = Script()
    agent = s.talking()
    consulting(s, comes=False, language="fr")
    s.leaves(agent)
    assert s.machine.state == "active"
    assert set(s.machine.legs) == {"customer", "agent"}
    s.comes()
    assert [leg.language for leg in s.machine.parties] == ["de", "fr"]
    assert music(s, CALLER) == [True, False]
    assert not s.machine.candidates


def test_who_is_dialled_for_another_leg_meanwhile_stays_with_that_leg() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    third = s.asked(c.Dial)[-1].channel_id
    consulting(s, comes=False)
    s.leaves(agent)
    assert s.machine.leg_named("third") is not None
    s.feed(e.ChannelEntered(third, "PJSIP/3-1"))
    s.done()
    leg = s.machine.leg_of(third)
    assert leg is not None
    assert leg.speaker == "third"


def test_the_customer_gives_up_while_two_consult_about_the_call() -> None:
    """There is nothing left to talk about, and a session that goes on would be paid for."""
    s = Script()
    s.talking()
    consulting(s)
    s.leaves(CALLER)
    s.over(EndReason.CUSTOMER_HANGUP, DialplanStatus.COMPLETED)


def test_one_of_two_who_wait_leaves_and_the_other_still_waits() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    third = s.comes()
    consulting(s)
    s.leaves(third)
    assert s.machine.active
    assert s.machine.parked(s.machine.legs["customer"])


def test_who_waits_does_not_hear_what_two_say_of_it_in_its_own_language() -> None:
    """An agent, a colleague and a third of one language: the third waits and hears music, not their voices."""
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    s.comes()
    third = s.machine.leg_named("third")
    assert third is not None
    assert set(third.originals) == {"agent"}
    consulting(s)
    assert third.originals == {}
    assert c.Hear(third.id, "agent", None) in s.all
    colleague = s.machine.parties[-1]
    assert set(s.machine.legs["agent"].originals) == {colleague.id}
    assert set(colleague.originals) == {"agent"}
    assert not s.asked(c.Hear, lambda x: x.leg == x.other), "nobody hears itself"


def test_who_is_asked_in_and_does_not_come_leaves_nobody_waiting() -> None:
    s = Script()
    s.talking()
    channel = consulting(s, comes=False)
    s.feed(e.ChannelGone(channel, 17))
    s.done()
    assert s.machine.consulting is None
    assert s.machine.state == "active"
    assert set(s.machine.legs) == {"customer", "agent"}
    s.feed(e.TransferAsked("agent", "PJSIP/10", consult=True))
    assert s.asked(c.Dial)[-1].endpoint == "PJSIP/10", "another one may be asked in"


def test_a_phone_that_is_gone_is_told_nothing_of_its_transfer_and_the_others_are_of_theirs() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    third = s.comes()
    s.feed(e.TransferAsked("agent", "PJSIP/8", referrer=agent))
    s.feed(e.TransferAsked("third", "PJSIP/9", referrer=third))
    s.leaves(agent)
    for dial in s.asked(c.Dial, lambda x: x.endpoint in ("PJSIP/8", "PJSIP/9")):
        s.feed(e.ChannelGone(dial.channel_id, 17))
    assert [x.channel_id for x in s.asked(c.TransferProgress)] == [third]


def test_the_customer_waits_for_who_was_promised_though_a_third_leaves() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    third = s.comes()
    s.feed(e.TransferAsked("agent", "PJSIP/9"))
    s.leaves(agent)
    s.leaves(third)
    assert s.machine.active
    assert music(s, CALLER)[-1]
    s.comes()
    assert s.machine.state == "active"
    assert not music(s, CALLER)[-1]
    assert len(s.machine.parties) == 2
