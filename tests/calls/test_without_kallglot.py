"""A call whose session or stream cannot be had, comes late, or is lost, as scripts."""

from __future__ import annotations

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.link import HEAL_TIMER, OPENING_RETRIES, RETRY_TIMER, STABLE, STABLE_TIMER, STREAM_RETRIES
from kallglot_ari.calls.model import DialplanStatus, EndReason
from tests.calls.script import CALLER, Script, plan, session


def test_a_session_that_is_created_after_the_end_is_ended() -> None:
    s = Script()
    s.feed(e.ChannelGone(CALLER))
    s.done()
    assert not s.machine.finished
    create = s.one(c.CreateSession)
    s.open.remove(create)
    s.feed(e.SessionCreated(create, session()))
    assert s.asked(c.OpenStream) == []
    s.over(EndReason.CUSTOMER_HANGUP, DialplanStatus.COMPLETED)
    assert s.one(c.EndSession).session_id == "sess_1"


@pytest.mark.parametrize("policy", ["continue", "passthrough", "hangup"])
def test_no_session_before_the_agent_answers(policy: str) -> None:
    s = Script(plan(on_unavailable=policy))
    s.done()
    create = s.one(c.CreateSession)
    s.open.remove(create)
    s.feed(e.Failed(create, "402 insufficient_api_credits"))
    if policy == "passthrough":
        agent = s.agent_answers()
        s.done()
        assert s.machine.state == "active"
        assert s.machine.view().degraded
        bridges = {x.bridge_id for x in s.asked(c.AddToBridge, lambda x: x.channel_id in (CALLER, agent))}
        assert bridges == {"kg-t-1.customer.b"}
        s.feed(e.ChannelGone(CALLER))
        s.over(EndReason.CUSTOMER_HANGUP, DialplanStatus.COMPLETED)
        return
    s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)
    assert s.back_in_dialplan == (policy == "continue")
    assert s.caller_hung_up == (policy == "hangup")


def test_no_session_after_the_agent_answered_connects_them_directly_and_heals() -> None:
    s = Script()
    s.done()
    agent = s.agent_answers()
    create = s.one(c.CreateSession)
    s.open.remove(create)
    s.feed(e.Failed(create, "503"))
    s.done()
    assert s.machine.state == "active"
    assert s.machine.legs["agent"].in_bridge == "kg-t-1.customer.b"
    assert not s.machine.legs["agent"].uplink_on
    s.feed(e.TimerFired(HEAL_TIMER), after=15)
    s.kallglot_up()
    s.done()
    assert s.machine.view().degraded == ""
    assert s.machine.legs["agent"].in_bridge == "kg-t-1.agent.b"
    assert s.machine.legs["agent"].uplink_on
    s.feed(e.HangupRequested(agent))
    s.feed(e.ChannelLeft(agent))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)


def test_a_stream_that_is_refused_ends_its_session_with_error() -> None:
    s = Script()
    s.done()
    create = s.one(c.CreateSession)
    s.open.remove(create)
    s.feed(e.SessionCreated(create, session()))
    s.open.remove(s.one(c.OpenStream))
    s.feed(e.StreamDown("sess_1", "403", final=True))
    assert s.one(c.EndSession).reason is EndReason.ERROR
    s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)
    assert s.back_in_dialplan


def test_kallglot_is_slow_after_the_answer() -> None:
    s = Script()
    s.done()
    s.agent_answers()
    s.done()
    assert s.machine.state == "ringing"
    assert s.asked(c.SetTimer)[-1] == c.SetTimer("ready", 5.0), "nobody waits in silence for longer"
    s.feed(e.TimerFired("ready"), after=5)
    s.done()
    assert s.machine.state == "active"
    assert s.machine.direct
    s.kallglot_up()
    s.done()
    assert not s.machine.direct


def test_why_a_call_is_not_translated_is_told_when_it_is_known() -> None:
    s = Script()
    s.done()
    s.agent_answers()
    s.done()
    s.feed(e.TimerFired("ready"), after=5)
    assert s.machine.view().degraded == "translation is not ready yet"
    s.refused("402 insufficient_api_credits")
    s.done()
    reasons = [x.data["reason"] for x in s.asked(c.Publish, lambda x: x.event == "call.degraded")]
    assert reasons == ["translation is not ready yet", "no session: 402 insufficient_api_credits"]
    assert s.machine.view().degraded == reasons[-1]


def test_where_calls_are_hung_up_nobody_talks_untranslated_while_kallglot_is_slow() -> None:
    s = Script(plan(on_unavailable="hangup"))
    s.done()
    s.agent_answers()
    s.done()
    s.feed(e.TimerFired("ready"), after=5)
    s.done()
    assert not s.machine.direct
    s.kallglot_up()
    s.done()
    assert s.machine.state == "active"


def test_where_calls_are_hung_up_who_has_waited_long_for_kallglot_hears_music() -> None:
    s = Script(plan(on_unavailable="hangup"))
    s.done()
    agent = s.agent_answers()
    s.done()
    assert not s.asked(c.MusicOnHold), "Kallglot is mostly there in a moment"
    s.feed(e.TimerFired("ready"), after=5)
    assert s.asked(c.MusicOnHold) == [c.MusicOnHold(CALLER, True), c.MusicOnHold(agent, True)]
    s.kallglot_up()
    s.done()
    assert s.asked(c.MusicOnHold)[2:] == [c.MusicOnHold(CALLER, False), c.MusicOnHold(agent, False)]
    s.feed(e.StreamDown("sess_1", "reset"))
    assert s.machine.state == "active"
    assert len(s.asked(c.MusicOnHold)) == 4, "a stream that is lost is back in a moment"


def fails(s: Script, times: int = 1, after: float = 0.5) -> None:
    """The stream does not open, so often; each attempt takes `after` seconds."""
    for _ in range(times):
        if c.OpenStream not in map(type, s.open):
            s.feed(e.TimerFired(RETRY_TIMER), after=0.3)
        s.open.remove(next(x for x in s.open if isinstance(x, c.OpenStream)))
        s.feed(e.StreamDown("sess_1", "refused"), after=after)


def rings(policy: str = "continue", **changes: object) -> Script:
    """The agent rings, and the session is created."""
    s = Script(plan(on_unavailable=policy, **changes))
    s.done()
    create = s.one(c.CreateSession)
    s.open.remove(create)
    s.feed(e.SessionCreated(create, session()))
    return s


def test_a_stream_that_does_not_open_is_tried_on_while_it_rings() -> None:
    s = rings()
    fails(s, 4)
    waits = [x.delay for x in s.asked(c.SetTimer, lambda x: x.name == RETRY_TIMER)]
    assert waits == list(OPENING_RETRIES)
    s.feed(e.TimerFired(RETRY_TIMER))
    s.stream_up()
    s.agent_answers()
    s.done()
    assert s.machine.state == "active"
    assert not s.machine.direct
    assert len(s.asked(c.CreateSession)) == 1


@pytest.mark.parametrize("policy", ["continue", "passthrough", "hangup"])
def test_a_stream_that_does_not_open_is_given_up_in_the_end(policy: str) -> None:
    s = rings(policy)
    fails(s, len(OPENING_RETRIES) + 1)
    assert s.machine.active == (policy == "passthrough")
    assert s.one(c.EndSession).reason is EndReason.ERROR
    if policy != "passthrough":
        s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)


def test_a_stream_that_takes_long_not_to_open_is_tried_twice() -> None:
    s = rings()
    fails(s, 2, after=9)
    s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)


def test_who_answers_meanwhile_is_connected_directly_and_translated_soon() -> None:
    s = rings()
    fails(s, 2)
    s.agent_answers()
    s.done()
    assert s.machine.direct
    assert s.machine.state == "active"
    assert s.machine.view().degraded == "no stream: refused"
    fails(s)
    s.feed(e.TimerFired(RETRY_TIMER))
    s.stream_up()
    s.done()
    assert not s.machine.direct
    assert len(s.asked(c.CreateSession)) == 1


def test_where_calls_are_hung_up_a_stream_is_tried_to_the_last() -> None:
    s = rings("hangup")
    s.agent_answers()
    s.done()
    fails(s, 3)
    assert s.machine.active
    assert not s.machine.direct
    fails(s, 2)
    s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)
    assert s.caller_hung_up


def test_a_caller_alone_does_not_wait_in_silence_for_a_stream() -> None:
    s = rings(agents=(), answer_now=True)
    fails(s, 2)
    s.over(EndReason.ERROR, DialplanStatus.UNAVAILABLE)
    assert s.back_in_dialplan


def test_the_ladder_when_the_stream_is_lost() -> None:
    s = Script()
    agent = s.talking()
    assert s.machine.view().translation == "up"
    for _ in range(5):
        s.feed(e.StreamDown("sess_1", "reset"))
        assert s.machine.active
        assert s.machine.view().translation == "reconnecting"
        s.feed(e.TimerFired(RETRY_TIMER), after=1)
        s.open.remove(next(x for x in s.open if isinstance(x, c.OpenStream)))
    s.feed(e.StreamDown("sess_1", "reset"))
    assert s.one(c.EndSession).reason is EndReason.ERROR
    assert len(s.asked(c.CreateSession)) == 2
    assert s.machine.view().translation == "new_session"
    s.kallglot_up(2)
    assert not s.machine.direct
    assert s.machine.view().translation == "up"
    s.feed(e.TimerFired(STABLE_TIMER), after=STABLE)
    s.feed(e.StreamDown("sess_2", "session ended", final=True))
    create = s.asked(c.CreateSession)[-1]
    s.open.remove(create)
    s.feed(e.Failed(create, "503"))
    assert s.machine.direct
    assert s.machine.view().translation == "direct"
    assert s.asked(c.Tone) == [], "not before they are in one bridge"
    s.done()
    s.feed(e.DtmfReceived(agent, "5", 100))
    assert s.asked(c.Tone) == [c.Tone("customer")], "once, into the bridge they share"
    s.feed(e.TimerFired(HEAL_TIMER), after=15)
    assert s.machine.view().translation == "direct"
    s.kallglot_up(3)
    s.done()
    assert s.machine.view().translation == "up"
    steps = [x.data["step"] for x in s.asked(c.Publish, lambda x: x.event == "ladder")]
    assert steps == [*["reconnect"] * 5, "new_session", "new_session", "direct", "restored"]
    s.feed(e.ChannelGone(agent))
    s.over(EndReason.AGENT_HANGUP, DialplanStatus.COMPLETED)
    assert s.machine.view().translation == ""


def test_a_stream_that_held_is_opened_again_at_once() -> None:
    s = Script()
    s.talking()
    for _ in range(3):
        s.feed(e.TimerFired(STABLE_TIMER), after=STABLE)
        assert c.SetTimer(RETRY_TIMER, 0.0) in s.feed(e.StreamDown("sess_1", "reset"), after=300)
        s.feed(e.TimerFired(RETRY_TIMER))
        s.stream_up()
    assert len(s.asked(c.CreateSession)) == 1


def test_a_stream_that_opens_and_drops_is_not_opened_for_ever() -> None:
    s = Script()
    s.talking()
    waits = []
    while not s.machine.direct:
        told = s.feed(e.StreamDown("sess_1" if len(s.asked(c.CreateSession)) == 1 else "sess_2", "1011"))
        if any(isinstance(x, c.CreateSession) for x in told):
            s.kallglot_up(2)
        elif waited := [x.delay for x in told if isinstance(x, c.SetTimer) and x.name == RETRY_TIMER]:
            waits += waited
            s.feed(e.TimerFired(RETRY_TIMER), after=waited[0])
            s.stream_up(2 if len(s.asked(c.CreateSession)) == 2 else 1)
    assert waits == [*STREAM_RETRIES, *STREAM_RETRIES]
    assert len(s.asked(c.CreateSession)) == 2


def test_sessions_that_end_as_they_begin_are_not_paid_for_ever() -> None:
    s = Script()
    s.talking()
    heals = []
    for n in range(1, 8):
        told = s.feed(e.StreamDown(f"sess_{n}", "session.ended", final=True))
        if heal := [x.delay for x in told if isinstance(x, c.SetTimer) and x.name == HEAL_TIMER]:
            heals += heal
            s.feed(e.TimerFired(HEAL_TIMER), after=heal[0])
        s.kallglot_up(n + 1)
    assert heals == [15.0, 30.0, 60.0, 120.0, 240.0, 300.0], "each costs a credit"
