"""Every way a call can go, as scripts."""

from __future__ import annotations

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.link import RETRY_TIMER
from kallglot_ari.calls.model import DialplanStatus, EndReason, SessionRequest
from tests.calls.script import CALLER, Script, plan


def test_session_media_and_dialling_begin_at_once() -> None:
    s = Script()
    kinds = [type(x) for x in s.all]
    for kind in (c.CreateSession, c.Dial, c.CreateMedia, c.CreateBridge, c.Ring):
        assert kind in kinds
    assert len(s.asked(c.CreateMedia)) == 2
    assert s.asked(c.Answer) == []
    assert s.one(c.Dial).originator == CALLER


def test_a_call_from_answer_to_hangup_by_the_customer() -> None:
    s = Script()
    agent = s.talking()
    assert s.variable("KALLGLOT_SESSION_ID") == "sess_1"
    assert s.one(c.Answer).channel_id == CALLER
    placed = {(x.bridge_id, x.channel_id) for x in s.asked(c.AddToBridge)}
    assert ("kg-t-1.customer.b", CALLER) in placed
    assert ("kg-t-1.agent.b", agent) in placed
    assert len(placed) == 4
    route = s.asked(c.Route)[-1]
    assert route.hears == (("customer", "", ("customer",)), ("agent", "", ("agent",)))
    assert route.speaks == (("customer", "", "customer"), ("agent", "", "agent"))
    s.feed(e.HangupRequested(CALLER))
    s.feed(e.ChannelLeft(CALLER))
    s.feed(e.ChannelGone(CALLER))
    s.over(EndReason.CUSTOMER_HANGUP, DialplanStatus.COMPLETED)
    assert s.one(c.EndSession).reason is EndReason.CUSTOMER_HANGUP
    assert s.asked(c.Hangup, lambda x: x.channel_id == agent)


def test_what_is_told_of_an_ordinary_call() -> None:
    """Dashboards, metrics and server-sent events live by these names and fields, in this order."""
    s = Script()
    agent = s.talking()
    s.leaves(agent)
    told = {x.event: x.data for x in s.asked(c.Publish)}
    assert list(told) == [
        "call.created", "call.ringing", "session.created", "stream.up", "leg.joined", "call.answered", "call.active", "leg.left",
        "call.ending",
    ]  # fmt: skip
    assert told["call.ringing"] == {"agents": ["PJSIP/agent"]}
    assert told["session.created"] == told["stream.up"] == {"session_id": "sess_1"}
    assert told["leg.joined"] == {"speaker": "agent", "channel": "PJSIP/agent-0001"}
    assert told["call.active"]["setup_seconds"] == pytest.approx(0.02, abs=0.05)
    assert told["leg.left"] == {"speaker": "agent"}
    assert told["call.ending"] == {"end_reason": "agent_hangup", "status": "COMPLETED"}
    assert {leg.state for leg in s.machine.view().legs} == {"gone"}


def test_the_agent_hangs_up() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.HangupRequested(agent))
    s.feed(e.ChannelLeft(agent))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)
    assert s.variable("KALLGLOT_STATUS") == "COMPLETED"
    assert s.caller_hung_up


def test_a_party_that_leaves_by_a_redirect_completes_the_call() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.ChannelLeft(agent))
    s.over(EndReason.COMPLETED, DialplanStatus.COMPLETED)


def test_status_is_set_as_soon_as_the_call_is_up_for_an_h_extension() -> None:
    s = Script()
    s.talking()
    assert s.variable("KALLGLOT_STATUS") == "COMPLETED"


def test_who_joins_finds_the_status_in_an_h_extension_too() -> None:
    s = Script()
    s.talking()
    s.feed(e.PartyJoined("1700000009.1"))
    assert c.SetVariable("1700000009.1", "KALLGLOT_STATUS", "COMPLETED") in s.all


def test_a_leg_rings_as_soon_as_one_of_its_phones_does() -> None:
    s = Script(plan(agents=("PJSIP/1", "PJSIP/2")))
    s.done()
    assert [leg.state for leg in s.machine.view().legs] == ["up", "dialling"]
    s.feed(e.ChannelRinging(s.asked(c.Dial)[1].channel_id))
    assert [leg.state for leg in s.machine.view().legs] == ["up", "ringing"]
    s.agent_answers()
    assert [leg.state for leg in s.machine.view().legs] == ["up", "up"]


@pytest.mark.parametrize(
    ("cause", "ringing", "reason", "status"),
    [
        (17, False, EndReason.AGENT_HANGUP, DialplanStatus.AGENTBUSY),
        (21, True, EndReason.AGENT_HANGUP, DialplanStatus.AGENTBUSY),
        (19, True, EndReason.TIMEOUT, DialplanStatus.NOANSWER),
        (18, False, EndReason.TIMEOUT, DialplanStatus.NOANSWER),
        (20, False, EndReason.ERROR, DialplanStatus.UNAVAILABLE),
        (3, False, EndReason.ERROR, DialplanStatus.UNAVAILABLE),
    ],
)
def test_the_agent_cannot_be_had(cause: int, ringing: bool, reason: EndReason, status: DialplanStatus) -> None:
    s = Script()
    s.done()
    s.kallglot_up()
    dial = s.one(c.Dial)
    s.open.remove(dial)
    s.feed(e.Done(dial))
    if ringing:
        s.feed(e.ChannelRinging(dial.channel_id))
        s.feed(e.ChannelRinging(dial.channel_id))
    s.feed(e.ChannelGone(dial.channel_id, cause))
    s.over(reason, status)
    assert s.variable("KALLGLOT_STATUS") == status.value
    assert s.back_in_dialplan
    assert not s.caller_hung_up


def test_nobody_answers_in_time() -> None:
    s = Script()
    s.done()
    s.kallglot_up()
    s.feed(e.TimerFired("ring"), after=30)
    s.over(EndReason.TIMEOUT, DialplanStatus.NOANSWER)
    assert s.back_in_dialplan
    call = s.machine.view().as_json()
    assert (call["state"], [leg["state"] for leg in call["legs"]]) == ("ended", ["gone", "gone"]), "nobody is dialled"


def test_the_first_of_several_agents_wins() -> None:
    s = Script(plan(agents=("PJSIP/a", "PJSIP/b", "PJSIP/c")))
    s.done()
    s.kallglot_up()
    first, second, third = s.asked(c.Dial)
    s.feed(e.ChannelGone(first.channel_id, 17))
    assert s.machine.active
    winner = s.agent_answers(1)
    s.done()
    assert s.machine.state == "active"
    assert s.one(c.Hangup).channel_id == third.channel_id
    # the loser answers at the same moment: it must not become a party
    s.feed(e.ChannelEntered(third.channel_id))
    leg = s.machine.legs["agent"]
    assert leg.channel_id == winner == second.channel_id


@pytest.mark.parametrize("causes", [(20, 17), (17, 20), (17, 19)])
def test_one_busy_agent_outweighs_one_that_is_away(causes: tuple[int, int]) -> None:
    """Whichever is heard of first."""
    s = Script(plan(agents=("PJSIP/a", "PJSIP/b")))
    s.done()
    for dial, cause in zip(s.asked(c.Dial), causes, strict=True):
        s.feed(e.ChannelGone(dial.channel_id, cause))
    create = s.one(c.CreateSession)
    s.open.remove(create)
    s.feed(e.Failed(create, "late"))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.AGENTBUSY)


def test_a_stop_gives_a_caller_who_waits_for_an_agent_back_to_the_dialplan() -> None:
    """`drain_seconds` are over: the dialplan connects him without us."""
    s = Script()
    s.done()
    s.kallglot_up()
    s.feed(e.HangupAsked("drain"))
    s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)
    assert s.back_in_dialplan
    assert s.variable("KALLGLOT_STATUS") == "UNAVAILABLE"
    assert c.Hangup(s.one(c.Dial).channel_id) in s.all


@pytest.mark.parametrize("talking", [True, False])
def test_a_stop_hangs_up_who_talks_and_where_that_is_wished_who_waits(talking: bool) -> None:
    s = Script(plan(on_unavailable="continue" if talking else "hangup"))
    if talking:
        s.talking()
    s.feed(e.HangupAsked("drain"))
    s.done()
    assert s.caller_hung_up
    assert not s.back_in_dialplan


def test_the_caller_hangs_up_while_it_rings() -> None:
    s = Script()
    s.done()
    s.kallglot_up()
    dial = s.one(c.Dial)
    s.feed(e.HangupRequested(CALLER))
    s.feed(e.ChannelLeft(CALLER))
    s.over(EndReason.CUSTOMER_HANGUP, DialplanStatus.COMPLETED)
    assert s.asked(c.Hangup, lambda x: x.channel_id == dial.channel_id)


def test_answer_now_answers_before_the_agent_and_rings() -> None:
    s = Script(plan(answer_now=True))
    assert [type(x) for x in s.all if isinstance(x, c.Answer | c.Ring)] == [c.Answer, c.Ring]
    s.talking()
    assert len(s.asked(c.Answer)) == 1


def test_alone_with_the_session() -> None:
    s = Script(plan(agents=(), answer_now=True, request=SessionRequest(mode="ai_agent")))
    s.done()
    s.kallglot_up()
    s.done()
    assert s.machine.state == "active"
    assert s.asked(c.Route)[-1].hears == (("customer", "", ()),)
    s.feed(e.HangupAsked())
    s.over(EndReason.COMPLETED, DialplanStatus.COMPLETED)


def test_alone_without_a_session_goes_back() -> None:
    s = Script(plan(agents=(), answer_now=True))
    s.done()
    create = s.one(c.CreateSession)
    s.open.remove(create)
    s.feed(e.Failed(create, "503"))
    s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)
    assert s.back_in_dialplan


def test_a_lost_media_channel_is_made_again_and_then_given_up() -> None:
    s = Script()
    agent = s.talking()
    for n in range(2, 4):
        media = s.machine.legs["agent"].media_id
        s.feed(e.ChannelGone(media))
        s.done()
        assert s.machine.legs["agent"].media_id.endswith(f"m{n}")
        assert s.machine.legs["agent"].connected
    s.feed(e.ChannelLeft(s.machine.legs["agent"].media_id))
    s.done()
    assert s.machine.direct
    assert s.machine.legs["agent"].in_bridge == "kg-t-1.customer.b"
    s.feed(e.ChannelGone(agent))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)


def test_a_lost_bridge_is_made_again() -> None:
    s = Script()
    s.talking()
    s.feed(e.BridgeGone("kg-t-1.agent.b"))
    s.done()
    leg = s.machine.legs["agent"]
    assert leg.connected
    assert leg.bridge_id != "kg-t-1.agent.b"


def test_a_bridge_that_cannot_be_made_gives_the_caller_back() -> None:
    s = Script()
    create = s.asked(c.CreateBridge)[0]
    s.feed(e.Failed(create, "500"))
    kallglot = s.one(c.CreateSession)
    s.open.remove(kallglot)
    s.feed(e.Failed(kallglot, "late"))
    s.done()
    assert s.variable("KALLGLOT_STATUS") == "FAILED"
    assert s.back_in_dialplan


def test_outbound_dials_the_customer_first() -> None:
    s = Script(plan(customer_channel="", dial_customer="PJSIP/customer", caller_id="+4930"))
    assert [d.endpoint for d in s.asked(c.Dial)] == ["PJSIP/customer"]
    s.done()
    s.kallglot_up()
    s.agent_answers(0)
    s.done()
    assert [d.endpoint for d in s.asked(c.Dial)] == ["PJSIP/customer", "PJSIP/agent"]
    agent = s.agent_answers(1)
    s.done()
    assert s.machine.state == "active"
    s.feed(e.HangupAsked())
    s.over(EndReason.COMPLETED, DialplanStatus.COMPLETED)
    assert c.Hangup(agent) in s.all


@pytest.mark.parametrize("policy", ["continue", "hangup"])
def test_an_outbound_customer_who_has_answered_is_not_dropped_while_the_agent_rings(policy: str) -> None:
    s = Script(plan(customer_channel="", dial_customer="PJSIP/c", on_unavailable=policy))
    s.done()
    s.agent_answers()
    s.done()
    s.refused("503")
    if policy == "hangup":
        s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)
        return
    s.agent_answers(1)
    s.done()
    assert s.machine.state == "active"
    assert s.machine.direct


def test_outbound_customer_does_not_answer() -> None:
    s = Script(plan(customer_channel="", dial_customer="PJSIP/customer"))
    s.done()
    s.kallglot_up()
    s.feed(e.ChannelGone(s.one(c.Dial).channel_id, 19))
    s.over(EndReason.TIMEOUT, DialplanStatus.NOANSWER)


@pytest.mark.parametrize("found", ["HUMAN", "NOTSURE", "MACHINE"])
def test_outbound_to_people_only(found: str) -> None:
    s = Script(plan(customer_channel="", dial_customer="PJSIP/customer", only_humans=True))
    s.done()
    s.kallglot_up()
    customer = s.agent_answers(0)
    assert c.ContinueInDialplan(customer, "kallglot-screening", "answered", "1") in s.all
    s.feed(e.ChannelLeft(customer))
    s.done()
    assert len(s.asked(c.Dial)) == 1, "the agents are not dialled yet"
    s.feed(e.ChannelEntered(customer, "PJSIP/customer-1", found))
    if found == "MACHINE":
        assert s.asked(c.Hangup, lambda x: x.channel_id == customer)
        s.over(EndReason.TIMEOUT, DialplanStatus.NOANSWER)
        return
    s.agent_answers(1)
    s.done()
    assert s.machine.state == "active"


def test_outbound_customer_is_busy() -> None:
    s = Script(plan(customer_channel="", dial_customer="PJSIP/customer"))
    s.done()
    s.kallglot_up()
    s.feed(e.ChannelGone(s.one(c.Dial).channel_id, 17))
    s.over(EndReason.CUSTOMER_HANGUP, DialplanStatus.BUSY)


def test_events_that_come_late_or_twice_mean_nothing() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.ChannelGone(agent))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)
    before = len(s.all)
    for event in (
        e.ChannelGone(agent), e.ChannelLeft(agent), e.HangupRequested(agent), e.ChannelEntered(agent),
        e.DtmfReceived(agent, "1"), e.HoldChanged("x", True), e.BridgeGone("kg-t-1.agent.b"), e.HangupAsked(),
        e.TimerFired("ring"), e.TimerFired("ready"), e.TimerFired(RETRY_TIMER), e.TimerFired("nonsense"),
        e.StreamUp("sess_1"), e.StreamDown("sess_1", "x"), e.TransferAsked("agent", "PJSIP/3"), e.PartyAsked("PJSIP/4"),
        e.ChannelRinging("x"),
    ):  # fmt: skip
        s.feed(event)
    assert s.all[before:] == []
    late = s.feed(e.PartyJoined("1700000003.1"))
    assert c.ContinueInDialplan("1700000003.1") in late
