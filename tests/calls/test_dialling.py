"""Dialling as scripts: how phones are dialled, what the caller hears meanwhile, and what phones that asked for a transfer are told."""

from __future__ import annotations

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Role
from kallglot_ari.calls.model import DialplanStatus, EndReason
from tests.calls.script import CALLER, Script, plan


def test_a_phone_is_dialled_on_behalf_of_the_caller_and_rings_at_least_as_long_as_was_asked() -> None:
    """Asterisk's own time-out would else end it before ours, which alone knows what then becomes of the call."""
    s = Script(plan(timeout=20.0))
    dial = s.one(c.Dial)
    assert dial.originator == CALLER
    assert dial.timeout > 20.0
    assert c.SetTimer("ring", 20.0) in s.all


def test_who_was_dialled_by_us_gives_its_channel_to_no_other_dial() -> None:
    """An outbound call has no channel of the dialplan to take variables and languages from."""
    s = Script(plan(customer_channel="", dial_customer="PJSIP/customer"))
    s.done()
    s.agent_answers(0)
    assert [dial.originator for dial in s.asked(c.Dial)] == ["", ""]


def test_a_supervisor_of_an_outbound_call_who_answers_first_is_not_taken_for_the_customer() -> None:
    """The agents are dialled when there is somebody to talk to."""
    s = Script(plan(customer_channel="", dial_customer="PJSIP/customer"))
    s.done()
    s.feed(e.SuperviseAsked("PJSIP/supervisor", Role.LISTEN))
    s.agent_answers(-1)
    assert [dial.endpoint for dial in s.asked(c.Dial)] == ["PJSIP/customer", "PJSIP/supervisor"]


def test_two_parties_never_have_the_same_name() -> None:
    """`Stasis(kallglot,speaker=agent,agent=…)`: an order to let `agent` go must not reach the caller."""
    s = Script(plan(speaker="agent"))
    assert [leg.speaker for leg in s.machine.legs.values()] == ["agent", "agent-2"]


def test_who_is_being_screened_is_waited_for_and_not_for_ever() -> None:
    s = Script(plan(customer_channel="", dial_customer="PJSIP/customer", only_humans=True))
    s.done()
    customer = s.agent_answers(0)
    timer = c.SetTimer(f"candidate.{customer}", 15.0)
    assert s.asked(c.SetTimer)[-1] == timer
    s.feed(e.TimerFired(timer.name), after=15)
    assert c.Hangup(customer) in s.all


def test_an_agent_whose_phone_sends_the_call_on_is_who_answers_there() -> None:
    s = Script()
    s.done()
    s.kallglot_up()
    first = s.one(c.Dial).channel_id
    s.feed(e.CandidateForwarded(first, "9.1"))
    s.feed(e.ChannelGone(first, 23))
    s.feed(e.ChannelRinging("9.1"))
    s.feed(e.ChannelEntered("9.1", "Local/777@phones-00000001;1"))
    s.done()
    assert s.machine.state == "active"
    assert s.machine.legs["agent"].channel_id == "9.1"
    s.leaves(CALLER)
    assert c.Hangup("9.1") in s.all, "it is ours, and goes with the call"
    s.over(EndReason.CUSTOMER_HANGUP, DialplanStatus.COMPLETED)


def test_where_a_call_was_sent_on_nobody_is_and_the_caller_goes_on() -> None:
    s = Script()
    s.feed(e.CandidateForwarded(s.one(c.Dial).channel_id, "9.1"))
    s.feed(e.ChannelGone("9.1", 17))
    s.done()
    assert s.variable("KALLGLOT_STATUS") == "AGENTBUSY"


def test_what_is_sent_on_after_it_was_given_up_rings_nobody() -> None:
    s = Script()
    first = s.one(c.Dial).channel_id
    s.feed(e.TimerFired("ring"))
    s.feed(e.CandidateForwarded(first, "9.1"))
    assert c.Hangup("9.1") in s.all


def test_a_third_party_that_sends_the_call_on_is_not_waited_for_for_ever() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/third"))
    third = s.asked(c.Dial)[-1].channel_id
    s.feed(e.CandidateForwarded(third, "9.1"))
    assert c.CancelTimer(f"candidate.{third}") in s.all
    s.feed(e.TimerFired("candidate.9.1"))
    assert c.Hangup("9.1") in s.all
    assert len(s.machine.legs) == 2


def ringing(s: Script) -> list[bool]:
    return [x.on for x in s.asked(c.Ring)]


def test_the_caller_hears_it_ring_until_a_party_answers_and_not_until_a_supervisor_does() -> None:
    s = Script()
    s.done()
    assert ringing(s) == [True]
    s.feed(e.SuperviseAsked("PJSIP/supervisor", Role.LISTEN))
    s.agent_answers(-1)
    assert ringing(s) == [True]
    s.agent_answers(0)
    assert ringing(s) == [True, False]


@pytest.mark.parametrize(
    ("cause", "state"), [(17, "channel_declined"), (21, "channel_declined"), (19, "channel_unavailable")]
)
def test_a_phone_that_asked_for_a_transfer_is_told_why_nobody_comes(cause: int, state: str) -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/9", referrer=agent))
    target = s.asked(c.Dial)[-1].channel_id
    s.feed(e.ChannelRinging(target))
    s.feed(e.ChannelGone(target, cause))
    assert [(x.channel_id, x.state) for x in s.asked(c.TransferProgress)] == [
        (agent, "channel_progress"),
        (agent, state),
    ]
    assert s.machine.state == "active"


def test_a_phone_that_asked_for_a_transfer_is_told_that_it_is_done() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/9", referrer=agent))
    channel = s.comes()
    assert (s.asked(c.TransferProgress)[-1].channel_id, s.asked(c.TransferProgress)[-1].state) == (
        agent,
        "channel_answered",
    )
    assert c.Publish("leg.joined", {"speaker": "agent", "channel": "PJSIP/9-0001"}) in s.all
    assert s.machine.legs["agent"].channel_id == channel


def test_a_third_party_that_may_have_answered_unheard_is_not_dialled_again() -> None:
    """Only the first two are: without them there is no call."""
    s = Script()
    s.talking()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    dials = len(s.asked(c.Dial))
    s.feed(e.CandidateLost(s.asked(c.Dial)[-1].channel_id))
    assert len(s.asked(c.Dial)) == dials
    assert s.machine.leg_named("third") is None
    assert s.machine.state == "active"
