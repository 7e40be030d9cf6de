"""Several parties and several languages as scripts: which sessions there are, who speaks as whom, and who hears whom."""

from __future__ import annotations

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Role
from kallglot_ari.calls.model import DialplanStatus, EndReason, LegQuality, SessionRequest, SipQuality
from tests.calls.script import CALLER, Script, plan

NEWCOMER = "1700000000.9"


def with_a_third(language: str) -> tuple[Script, str]:
    """Customer de, agent en, and a third party; its leg's id."""
    s = Script()
    s.talking()
    s.feed(e.PartyJoined(NEWCOMER, "PJSIP/x-1", language=language))
    s.done()
    third = s.machine.leg_of(NEWCOMER)
    assert third is not None
    return s, third.id


def labels(s: Script) -> dict[str, set[str]]:
    """What each leg is called on the sessions that hear it."""
    found: dict[str, set[str]] = {}
    for leg, _, label in s.asked(c.Route)[-1].speaks:
        found.setdefault(leg, set()).add(label)
    return found


def test_a_call_as_the_api_shows_it() -> None:
    request = SessionRequest(source_language="de", target_language="en", metadata={"order": "7"})
    s = Script(plan(request=request, caller="+4930", customer_name="PJSIP/in-1"))
    agent = s.talking()
    shown = s.machine.view().as_json()
    assert (shown["id"], shown["session_id"], shown["state"], shown["translation"]) == (
        "kg-t-1",
        "sess_1",
        "active",
        "up",
    )
    assert (shown["caller"], shown["metadata"], shown["status"], shown["end_reason"]) == (
        "+4930",
        {"order": "7"},
        None,
        None,
    )
    assert [(x["speaker"], x["channel_id"], x["channel_name"], x["language"], x["role"]) for x in shown["legs"]] == [
        ("customer", CALLER, "PJSIP/in-1", "de", "party"),
        ("agent", agent, "PJSIP/agent-0001", "en", "party"),
    ]
    assert (shown["started_at"], shown["ended_at"], shown["legs"][0]["sip"]) == ("2026-01-01T00:00:00Z", None, None)
    s.leaves(agent)
    over = s.machine.view().as_json()
    assert (over["state"], over["translation"], over["session_id"]) == ("ended", "", "sess_1")
    assert (over["status"], over["end_reason"]) == ("COMPLETED", "agent_hangup")


def test_figures_are_shown_as_exactly_as_they_are_meant() -> None:
    s = Script()
    s.talking()
    view = s.machine.view()
    view.legs[0].quality = LegQuality(
        jitter_ms=1.23456, buffer_ms=40.06, level_dbfs=-31.44, r_factor=86.19, mos=4.236, lag_ms=12.34
    )
    view.legs[0].sip = SipQuality(
        jitter_ms=0.12345, jitter_there_ms=2.0, round_trip_ms=12.34, r_factor=93.18, mos=4.411
    )
    view.legs[1].sip = SipQuality()
    customer, agent = view.as_json()["legs"]
    shown = {key: customer[key] for key in ("jitter_ms", "buffer_ms", "level_dbfs", "r_factor", "mos", "lag_ms")}
    assert shown == {
        "jitter_ms": 1.235,
        "buffer_ms": 40.1,
        "level_dbfs": -31.4,
        "r_factor": 86.2,
        "mos": 4.24,
        "lag_ms": 12.3,
    }
    sip = {key: customer["sip"][key] for key in ("jitter_ms", "jitter_there_ms", "round_trip_ms", "r_factor", "mos")}
    assert sip == {"jitter_ms": 0.123, "jitter_there_ms": 2.0, "round_trip_ms": 12.3, "r_factor": 93.2, "mos": 4.41}
    assert agent["sip"]["round_trip_ms"] is None, "not known is not nothing"


def test_supervisors_take_no_partys_place() -> None:
    s = Script(plan(max_parties=3))
    s.talking()
    s.feed(e.SuperviseAsked("PJSIP/supervisor", Role.LISTEN))
    s.comes()
    s.feed(e.PartyAsked("PJSIP/3", "third"))
    assert s.asked(c.Dial)[-1].endpoint == "PJSIP/3"
    s.feed(e.PartyAsked("PJSIP/4", "fourth"))
    assert s.asked(c.Dial)[-1].endpoint == "PJSIP/3", "three are there or come"


def test_an_agent_replaced_by_one_of_the_customers_language_speaks_as_a_customer_from_then_on() -> None:
    s, third = with_a_third("en")
    s.feed(e.TransferAsked("agent", "PJSIP/4", language="de"))
    s.comes()
    last = s.asked(c.Route)[-1]
    assert {(leg, label) for leg, _, label in last.speaks} == {
        ("customer", "customer"), ("agent", "customer-agent"), (third, "party-3"),
    }  # fmt: skip
    assert (third, "", ("party-3",)) in last.hears


def test_a_third_party_of_the_customers_language_speaks_as_a_customer() -> None:
    """To Kallglot the label says from which language to which: as an agent it would be translated from English."""
    s, third = with_a_third("de-AT")
    assert labels(s) == {"customer": {"customer"}, "agent": {"agent"}, third: {"customer-party-3"}}
    assert len(s.asked(c.CreateSession)) == 1
    assert (third, "", ("customer", "customer-party-3")) in s.asked(c.Route)[-1].hears


def test_a_third_language_has_a_session_with_each_of_the_others_as_long_as_it_is_spoken() -> None:
    s, third = with_a_third("fr")
    new = s.asked(c.CreateSession)[1:]
    assert sorted((x.source, x.target) for x in new) == [("de", "fr"), ("en", "fr")]
    assert len({x.key for x in s.asked(c.CreateSession)}) == 3
    assert not s.asked(c.EndSession)
    s.kallglot_up(2)
    s.kallglot_up(3)
    s.done()
    assert not s.machine.direct
    assert {link for leg, link, _ in s.asked(c.Route)[-1].speaks if leg == third} == {x.link for x in new}
    s.leaves(NEWCOMER)
    assert {x.session_id for x in s.asked(c.EndSession)} == {"sess_2", "sess_3"}
    assert s.machine.state == "active"
    assert s.machine.translation == "up"


def test_two_who_speak_one_language_after_a_transfer_hear_each_other_as_they_are_and_pay_for_no_session() -> None:
    s = Script()
    agent = s.talking()
    s.feed(e.TransferAsked("agent", "PJSIP/9", language="de"))
    assert not s.asked(c.EndSession), "the agent is still there, and is translated"
    s.comes()
    s.leaves(agent)
    assert [x.session_id for x in s.asked(c.EndSession)] == ["sess_1"]
    assert len(s.asked(c.CreateSession)) == 1
    assert {leg.id: set(leg.originals) for leg in s.machine.parties} == {"customer": {"agent"}, "agent": {"customer"}}
    assert s.machine.state == "active"
    assert not s.machine.direct
    s.feed(e.HangupAsked())
    s.over(EndReason.COMPLETED, DialplanStatus.COMPLETED)


def test_nobody_is_called_translated_while_one_pair_is_not() -> None:
    """One of three would talk into nothing: all are connected directly until the session can be had."""
    s, _ = with_a_third("fr")
    s.kallglot_up(2)
    s.refused()
    s.done()
    assert s.machine.direct
    assert s.machine.view().degraded == "no session: 503"
    assert {leg.in_bridge_done for leg in s.machine.parties} == {s.machine.legs["customer"].bridge_id}


def test_who_holds_in_a_conference_is_not_heard_and_the_others_go_on() -> None:
    """Its microphone may be open in a room that is none of theirs; and what it says is paid for."""
    s, third = with_a_third("en")
    s.feed(e.HoldChanged(NEWCOMER, True))
    assert c.Uplink(third, False) in s.all
    assert set(labels(s)) == {"customer", "agent"}
    assert not s.asked(c.MusicOnHold, lambda x: x.on)
    s.feed(e.HoldChanged(NEWCOMER, False))
    assert s.asked(c.Uplink)[-1] == c.Uplink(third, True)
    assert set(labels(s)) == {"customer", "agent", third}


def alone_with_kallglot() -> Script:
    """A caller who talks to Kallglot, in German."""
    s = Script(
        plan(
            agents=(),
            answer_now=True,
            request=SessionRequest(mode="ai_agent", source_language="de", target_language="de"),
        )
    )
    s.done()
    s.kallglot_up()
    s.done()
    return s


def test_a_caller_alone_with_kallglot_may_interrupt_it_and_two_who_talk_interrupt_nothing() -> None:
    """Between people, what waits to be said in translation is what the other one said: it must not be dropped."""
    s = alone_with_kallglot()
    assert s.asked(c.Interruptible)[-1] == c.Interruptible("customer", True)
    s.feed(e.PartyAsked("PJSIP/3", "human", "en"))
    s.kallglot_up(2)
    s.comes()
    assert s.asked(c.Interruptible)[-1] == c.Interruptible("customer", False)
    ordinary = Script()
    ordinary.talking()
    assert not ordinary.asked(c.Interruptible, lambda x: x.on)


def test_a_caller_who_was_alone_with_kallglot_is_translated_to_the_person_who_comes() -> None:
    """The session that talked to the caller is ended, and not before the one that translates is there."""
    s = alone_with_kallglot()
    s.feed(e.PartyAsked("PJSIP/3", "human", "en"))
    s.comes()
    assert s.asked(c.CreateSession)[-1].mode == "bidirectional_translation"
    assert not s.asked(c.EndSession)
    s.kallglot_up(2)
    s.done()
    assert [x.session_id for x in s.asked(c.EndSession)] == ["sess_1"]
    assert s.machine.state == "active"
    s.feed(e.HangupAsked())
    s.over(EndReason.COMPLETED, DialplanStatus.COMPLETED)


def test_whose_conversation_with_kallglot_has_ended_is_hung_up_but_not_while_a_person_is_being_rung() -> None:
    s = alone_with_kallglot()
    s.feed(e.PartyAsked("PJSIP/3", "human", "en"))
    s.feed(e.StreamDown("sess_1", "completed", final=True, ended="completed"))
    assert s.machine.state == "active"
    s.comes()
    s.kallglot_up(3)
    s.done()
    assert s.machine.state == "active"
    other = alone_with_kallglot()
    other.feed(e.StreamDown("sess_1", "completed", final=True, ended="completed"))
    other.over(EndReason.COMPLETED, DialplanStatus.COMPLETED)
    assert [x.session_id for x in other.asked(c.EndSession)] == ["sess_1"]
    assert len(other.asked(c.CreateSession)) == 1


@pytest.mark.parametrize("who", ["customer", "agent"])
def test_a_call_that_fails_gives_the_caller_back_and_hangs_up_the_phone_that_we_dialled(who: str) -> None:
    """The agent's channel has no dialplan to go back to."""
    s = Script()
    agent = s.talking()
    channel = CALLER if who == "customer" else agent
    place = c.AddToBridge(s.machine.legs[who].bridge_id, channel)
    s.feed(e.Failed(place, "500"))
    assert s.back_in_dialplan
    assert c.Hangup(agent) in s.all
    assert c.ContinueInDialplan(agent) not in s.all
    s.over(EndReason.ERROR, DialplanStatus.FAILED)


def test_a_party_that_is_let_go_is_hung_up_and_the_others_go_on() -> None:
    s, third = with_a_third("en")
    assert c.Publish("leg.joined", {"speaker": "party-3", "channel": "PJSIP/x-1"}) in s.all
    assert s.feed(e.PartyDropped("party-3")) == [c.Hangup(NEWCOMER)]
    s.leaves(NEWCOMER)
    assert third not in s.machine.legs
    assert s.machine.state == "active"
