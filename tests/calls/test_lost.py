"""What is gone after a time in which nothing was heard of Asterisk: candidates, or all of a call."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.dialling import SCREENING
from kallglot_ari.calls.model import DialplanStatus, EndReason
from tests.calls.script import CALLER, Script, plan


def test_an_agent_that_may_have_answered_is_dialled_again_and_gets_the_call() -> None:
    script = Script()
    script.done()
    script.kallglot_up()
    first = script.one(c.Dial)
    script.feed(e.Done(first))
    assert script.machine.candidates[first.channel_id].placed
    script.feed(e.CandidateLost(first.channel_id))
    again = script.asked(c.Dial)[1]
    assert (again.endpoint, again.channel_id == first.channel_id) == (first.endpoint, False)
    script.done()
    assert script.agent_answers(1) == again.channel_id
    script.done()
    assert script.machine.state == "active"


def test_it_is_not_dialled_for_ever() -> None:
    script = Script()
    script.done()
    script.kallglot_up()
    script.feed(e.CandidateLost(script.one(c.Dial).channel_id))
    script.feed(e.TimerFired("ring"))
    script.open = [x for x in script.open if not isinstance(x, c.Dial)]
    script.over(EndReason.TIMEOUT, DialplanStatus.NOANSWER)


def test_a_transfer_whose_target_is_lost_leaves_the_call_as_it_is() -> None:
    script = Script()
    agent = script.talking()
    script.feed(e.TransferAsked("agent", "PJSIP/9"))
    target = script.asked(c.Dial)[-1]
    script.feed(e.CandidateLost(target.channel_id))
    assert script.asked(c.Dial)[-1] == target
    assert script.machine.legs["agent"].channel_id == agent
    script.feed(e.CandidateLost(target.channel_id))
    script.feed(e.CandidateLost("nobody"))
    assert script.machine.state == "active"


def test_a_customer_who_is_lost_and_dialled_again_is_screened_as_before() -> None:
    script = Script(plan(customer_channel="", dial_customer="PJSIP/0", only_humans=True))
    first = script.one(c.Dial)
    script.feed(e.CandidateLost(first.channel_id))
    again = script.asked(c.Dial)[1]
    assert c.SetTimer(f"candidate.{again.channel_id}", script.machine.plan.timeout) in script.all
    script.feed(e.ChannelEntered(again.channel_id, "PJSIP/0-0001"))
    assert script.one(c.ContinueInDialplan).context == SCREENING[0]
    script.feed(e.ChannelEntered(again.channel_id, "PJSIP/0-0001", "MACHINE"))
    assert len(script.asked(c.Dial)) == 2, "an answering machine gets no agent"


def test_a_call_that_was_lost_with_asterisk_is_nobodys_hangup() -> None:
    for script in (Script(), Script(plan(on_unavailable="hangup"))):
        agent = script.talking()
        script.feed(e.AsteriskLost())
        left = [x.data["speaker"] for x in script.asked(c.Publish, lambda x: x.event == "leg.left")]
        assert left == ["customer", "agent"]
        assert not script.asked(c.Hangup) + script.asked(c.ContinueInDialplan)
        script.feed(e.ChannelGone(agent))
        script.over(EndReason.ERROR, DialplanStatus.FAILED)
        assert script.machine.problem == "Asterisk was started anew"


def test_a_call_that_rang_when_asterisk_was_lost() -> None:
    script = Script()
    script.done()
    script.kallglot_up()
    script.feed(e.AsteriskLost())
    script.feed(e.AsteriskLost())
    script.open = [x for x in script.open if not isinstance(x, c.Dial)]
    script.over(EndReason.ERROR, DialplanStatus.FAILED)


def test_who_is_fetched_into_a_call_that_ends_is_not_left_with_nobody() -> None:
    script = Script()
    agent = script.talking()
    script.feed(e.FetchAsked(agent, "17.9", "PJSIP/x"))
    script.feed(e.HangupAsked())
    script.machine.unwanted.clear()  # as after a kill in that moment
    assert script.feed(e.ChannelEntered("17.9", "PJSIP/x")) == [c.Hangup("17.9")]


def test_media_that_nobody_knows_of_are_removed() -> None:
    """A run that was killed before it wrote of them had asked for them, and Asterisk made them after the next one had looked."""
    script = Script()
    script.talking()
    late = "kg-t-1.p1.m1"
    assert c.Hangup(late) in script.feed(e.ChannelEntered(late))
    assert script.feed(e.ChannelEntered(late)) == [], "it is under way"
    assert script.feed(e.ChannelEntered(script.machine.legs["agent"].media_id)) == []


def test_a_call_knows_whom_it_has_and_whom_it_lets_go() -> None:
    script = Script()
    agent = script.talking()
    script.feed(e.TransferAsked("agent", "PJSIP/9"))
    target, media = script.asked(c.Dial)[-1].channel_id, script.machine.legs["agent"].media_id
    assert all(map(script.machine.knows, (agent, CALLER, target, media)))
    script.feed(e.PartyReplaced(agent, "1.9"))
    assert script.machine.knows(agent), "it is being hung up"
    script.done()
    assert not script.machine.knows(agent)
    assert script.machine.knows("1.9")
