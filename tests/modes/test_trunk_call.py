"""When a trunk call is over, for whatever order its channels come, answer, transfer and go in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls.model import AGENT, CUSTOMER, CallState, EndReason
from kallglot_ari.modes.trunk_call import TrunkCall

AT = datetime(2026, 1, 1, tzinfo=UTC)


def new(participants: int = 2, *, agent: bool = False) -> TrunkCall:
    return TrunkCall("c", "m", "de", "en", AT, "PJSIP/a", "a", "a", participants=participants, agent_expected=agent)


def up(call: TrunkCall, leg: str, party: str) -> None:
    call.leg(leg, f"PJSIP/kallglot-{leg}", party)
    call.leg_answered(leg, AT)


def test_the_ordinary_call() -> None:
    call = new()
    assert (call.state(), call.over()) == (CallState.SETUP, None)
    call.leg("t", "PJSIP/kallglot-1", "a")
    assert (call.state(), call.over()) == (CallState.RINGING, None)
    assert call.leg_answered("t", AT)
    assert not call.leg_answered("t", AT), "once"
    assert (call.state(), call.over()) == (CallState.ACTIVE, None)
    call.asked_by = "a"
    assert call.channel_gone("a")
    assert not call.channel_gone("a")
    assert call.over() is None, "its leg may live on with another phone"
    call.channel_gone("t")
    assert call.over() is EndReason.CUSTOMER_HANGUP


def test_an_endpoint_that_fails_is_not_the_end_but_a_caller_who_leaves_is() -> None:
    call = new()
    call.leg("t1", "PJSIP/kallglot-1", "a")
    call.channel_gone("t1")
    assert call.over() is None
    call.channel_gone("a")
    assert call.over() is EndReason.CUSTOMER_HANGUP


@pytest.mark.parametrize(("first", "reason"), [("ta", "customer_hangup"), ("tb", "agent_hangup")])
def test_either_of_two_parties_ends_it(first: str, reason: str) -> None:
    call = new()
    call.join("b")
    up(call, "ta", "a")
    up(call, "tb", "b")
    assert (call.role_of("ta"), call.role_of("tb"), call.role_of("x")) == (CUSTOMER, AGENT, "")
    assert call.over() is None
    call.channel_gone(first)
    assert call.over() == reason


def test_kallglot_hung_up() -> None:
    call = new()
    up(call, "t", "a")
    call.asked_by = "t"
    call.channel_gone("t")
    assert call.over() is EndReason.COMPLETED


def test_the_agent_that_was_rung_leaves_before_being_connected() -> None:
    call = new(agent=True)
    up(call, "t", "a")
    assert call.over() is None
    call.join("b")
    call.channel_gone("b")
    assert call.over() is EndReason.AGENT_HANGUP


def test_a_conference_lasts_until_the_last_one() -> None:
    call = new(3)
    for party in ("b", "c"):
        call.join(party)
    for party in ("a", "b", "c"):
        up(call, f"t{party}", party)
    for party in ("a", "b"):
        call.channel_gone(party)
        call.channel_gone(f"t{party}")
        assert call.over() is None
    call.channel_gone("tc")
    assert call.over() is EndReason.COMPLETED


CHANNELS = ("a", "b", "c", "ta", "tb", "tc", "stranger")
STEPS = st.tuples(
    st.sampled_from(["leg", "answered", "gone", "join", "asked", "transferred"]), st.sampled_from(CHANNELS)
)


@given(st.lists(STEPS, max_size=40), st.integers(1, 4), st.booleans())
def test_in_any_order_it_ends_when_nobody_is_left_and_not_before(
    steps: list[tuple[str, str]], participants: int, agent: bool
) -> None:
    call = new(participants, agent=agent)
    for what, channel in steps:
        match what:
            case "leg" if channel.startswith("t"):
                call.leg(channel, f"PJSIP/kallglot-{channel}", channel[1])
            case "answered":
                call.leg_answered(channel, AT)
            case "gone":
                call.channel_gone(channel)
            case "join" if not channel.startswith("t"):
                call.join(channel)
            case "asked":
                call.asked_by = call.asked_by or channel
            case "transferred":
                call.asked_by = ""
        talking = {leg.role for leg in call.live_legs if leg.answered}
        talked = {leg.role for leg in call.legs.values() if leg.answered}
        if participants > 2 and talking and not agent:
            assert call.over() is None, "somebody talks"
        if participants <= 2 and talking == talked and talking and not agent:
            assert call.over() is None, "nobody has left"
        call.view()
    for channel in (*call.parties, *call.legs):
        call.channel_gone(channel)
    assert call.over() in set(EndReason)
    call.ended_at = AT
    assert (call.over(), call.state()) == (None, CallState.ENDED)
