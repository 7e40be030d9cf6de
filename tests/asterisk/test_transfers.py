"""Transfers on a real Asterisk, with real phones: who hears whom afterwards, and that a failed one changes nothing.

What a phone hears names who spoke and the language it was translated into: see tests/asterisk/tones.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kallglot_ari.calls.orders import Transfer
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone, PhoneCall
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import in_long_form, long_form, running, settings_for, until
from tests.asterisk.stage import Stage, staged
from tests.asterisk.tones import HZ, hears
from tests.double.server import KallglotDouble

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


@pytest.fixture
async def stage(
    asterisk: LabAsterisk, phones: PhoneFactory, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Stage]:
    if asterisk.major < 22 and request.node.originalname != "test_blind_by_phone":
        in_long_form()
    async with staged(asterisk, phones, tmp_path) as stage:
        yield stage


def newer(stage: Stage) -> bool:
    return stage.service.ari.supports("transfer_progress")


async def _let_go(stage: Stage, call: PhoneCall) -> None:
    """The one who transferred has left. An older Asterisk waits a minute for its phone to hang up, as phones do."""
    if not newer(stage):
        await stage.phones["agent"].hangup(call)
    await until(lambda: call.ended, what="the one who transferred is let go")


async def test_blind_by_phone(stage: Stage) -> None:
    customer, agent = await stage.call()
    other = await stage.phone("agent2", on_call=0.5)
    call = agent.calls[-1]
    await agent.transfer("agent2", call)
    await other.wait_state("CONFIRMED")
    await until(lambda: (200, True) in call.transfers, what="the phone is told")
    await _let_go(stage, call)
    await stage.active(2)
    await stage.talk(customer, other)
    await stage.over(customer)


@pytest.mark.parametrize("why", ["busy", *(pytest.param(why, marks=long_form) for why in ("no answer", "unknown"))])
async def test_blind_by_phone_that_fails(stage: Stage, why: str) -> None:
    if not newer(stage):
        pytest.skip("an older Asterisk lets go of the phone before it knows")
    customer, agent = await stage.call()
    if why != "unknown":
        await stage.phone("agent2", on_call="busy" if why == "busy" else "ring")
    call = agent.calls[-1]
    await agent.transfer("agent2" if why != "unknown" else "nowhere", call)
    if why == "no answer":
        await until(lambda: stage.phones["agent2"].calls, what="it rings")
        await asyncio.sleep(0.5)
        await stage.phones["agent2"].hangup(code=480)
    await until(lambda: call.transfers and call.transfers[-1][1], 20, "the phone is told")
    assert call.transfers[-1][0] >= 400
    await stage.active(2)
    await stage.talk(customer, agent)
    await stage.over(customer)


@pytest.mark.parametrize("target", ["PJSIP/agent2", pytest.param("Local%2F555%40secret", marks=long_form), "555"])
async def test_a_phone_reaches_no_more_than_its_context(stage: Stage, target: str) -> None:
    """Neither a device, nor another context by name, nor the context that the dialplan has sent its call through."""
    if not newer(stage):
        pytest.skip("an older Asterisk carries it out itself")
    for line in ("555,1,Dial(PJSIP/agent2,20)", "600,1,Stasis(kallglot,source=de,target=en,agent=PJSIP/agent)"):
        await stage.asterisk.cli(f'dialplan add extension "{line}" into secret replace')
    await stage.asterisk.extension("600", "Goto(secret,600,1)")
    customer, _ = await stage.call("600")
    other = await stage.phone("agent2", on_call="ring")
    call = customer.calls[-1]
    await customer.transfer(target, call)
    await until(lambda: call.transfers and call.transfers[-1][1], 20, "the phone is told")
    assert call.transfers[-1][0] >= 400
    assert not other.calls, "nobody is dialled"
    await stage.active(2)
    await stage.over(customer)


@long_form
@pytest.mark.parametrize("who", ["customer", "agent"])
async def test_somebody_hangs_up_while_the_target_rings(stage: Stage, who: str) -> None:
    if not newer(stage):
        pytest.skip("an older Asterisk lets go of the phone before it knows")
    customer, agent = await stage.call()
    other = await stage.phone("agent2", on_call="ring")
    await agent.transfer("agent2", agent.calls[-1])
    ringing = await other.wait_incoming()
    if who == "customer":
        await stage.over(customer)
        await until(lambda: ringing.ended, what="it rings no longer")
        return
    await agent.hangup()
    await asyncio.sleep(0.5)
    await other.answer(ringing)
    await stage.active(2)
    await stage.talk(customer, other)
    await stage.over(customer)


@long_form
@pytest.mark.parametrize("why", ["busy", "no answer", "the customer hangs up"])
async def test_a_consultation_that_comes_to_nothing(stage: Stage, why: str) -> None:
    """The agent asks somebody first, by phone: who is asked does not come, or the customer does not wait."""
    customer, agent = await stage.call()
    asked: dict[str, object] = {"busy": "busy", "no answer": "ring", "the customer hangs up": 0.2}
    other = await stage.phone("agent2", on_call=asked[why])
    first = agent.calls[-1]
    await agent.hold(first)
    second = await agent.call("agent2")
    if why == "the customer hangs up":
        await agent.wait_state("CONFIRMED", call=second)
        await customer.hangup()
        await until(lambda: first.ended, what="the call is over")
        assert not second.ended, "the agent's other call is none of ours"
        await agent.hangup(second)
        await stage.over(customer)
        return
    if why == "no answer":
        await other.wait_incoming()
        await other.hangup(code=480)
    await until(lambda: second.ended, what="nobody comes")
    await agent.unhold(first)
    await stage.active(2)
    await stage.talk(customer, agent)
    await stage.over(customer)


@long_form
@pytest.mark.parametrize("refer_on", ["the translated call", "the consultation"])
async def test_attended_after_an_ordinary_call(stage: Stage, refer_on: str) -> None:
    customer, agent = await stage.call()
    other = await stage.phone("agent2", on_call=0.2)
    first = agent.calls[-1]
    await agent.hold(first)
    second = await agent.call("agent2")
    await agent.wait_state("CONFIRMED", call=second)
    await asyncio.sleep(0.3)
    one, two = (first, second) if refer_on == "the translated call" else (second, first)
    await agent.transfer_attended(one, two)
    await until(lambda: (200, True) in one.transfers or one.ended, what="the phone is told")
    await _let_go(stage, first)
    await stage.active(2)
    await stage.talk(customer, other)
    if not second.ended:
        await agent.hangup(second)
    await stage.talk(customer, other)
    await stage.over(customer)


async def consultation(stage: Stage) -> tuple[Phone, Phone, Phone, PhoneCall, PhoneCall]:
    """Customer, agent and who the agent consults in a second translated call; the agent's two calls."""
    customer, agent = await stage.call()
    await stage.asterisk.extension("950", "Stasis(kallglot,source=en,target=fr,agent=PJSIP/agent2)", "Hangup()")
    other = await stage.phone("agent2", on_call=0.2)
    first = agent.calls[-1]
    await agent.hold(first)
    second = await agent.call("950")
    await agent.wait_state("CONFIRMED", call=second)
    await until(lambda: [c.state for c in stage.service.calls()] == ["active"] * 2)
    return customer, agent, other, first, second


@pytest.mark.parametrize("refer_on", ["the translated call", pytest.param("the consultation", marks=long_form)])
async def test_attended_after_a_translated_consultation(stage: Stage, refer_on: str) -> None:
    if not newer(stage):
        pytest.skip("an older Asterisk joins the two calls by itself: the next test")
    customer, agent, other, first, second = await consultation(stage)
    one, two = (first, second) if refer_on == "the translated call" else (second, first)
    await agent.hold(second)  # RFC 5589 §7.1: before the REFER
    await asyncio.sleep(0.5)
    await agent.transfer_attended(one, two)
    await until(lambda: first.ended and second.ended, what="the one who transferred is let go")
    await stage.active(2)
    call = stage.service.calls()[0]
    assert [(leg.speaker, leg.language) for leg in call.legs] == [("customer", "de"), ("agent", "fr")]
    await until(lambda: len(stage.double.open_sessions) == 1, what="one session is left")
    languages = {(s.request["source_language"], s.request["target_language"]) for s in stage.double.open_sessions}
    assert languages == {("de", "fr")}
    await stage.talk(customer, other, ("de", "fr"))
    await stage.over(customer)


@long_form
async def test_attended_between_two_translated_calls_by_an_older_asterisk(
    asterisk16: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    """It joins them by a Local channel: both go on, one behind the other, and end together."""
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk16, tmp_path, double)) as service,
    ):
        stage = Stage(asterisk16, double, service, phones)
        customer, agent, other, first, second = await consultation(stage)
        await agent.transfer_attended(first, second)
        await until(lambda: (200, True) in first.transfers, what="the phone is told")
        await agent.hangup(first)
        await agent.hangup(second)
        await until(lambda: [c.state for c in service.calls()] == ["active"] * 2, what="both calls go on")
        names = sorted(leg.channel_name.partition("-")[0] for call in service.calls() for leg in call.legs)
        assert names == ["Local/_attended@transfer", "Local/_attended@transfer", "PJSIP/agent2", "PJSIP/customer"]
        await stage.over(customer)
        await until(lambda: other.calls[-1].ended, what="the other end too")


@long_form
@pytest.mark.parametrize("target", ["PJSIP/agent2", "agent2"])
async def test_cold_by_api(stage: Stage, target: str) -> None:
    customer, agent = await stage.call()
    other = await stage.phone("agent2", on_call=0.2)
    await stage.service.transfer(stage.service.calls()[0].id, Transfer(party="agent", target=target))
    await other.wait_state("CONFIRMED")
    await until(lambda: agent.calls[-1].ended, what="the first agent is let go")
    await stage.active(2)
    await stage.talk(customer, other)
    await stage.over(customer)


@long_form
@pytest.mark.parametrize("mode", ["cold", "warm"])
@pytest.mark.parametrize("why", ["busy", "no answer", "unknown"])
async def test_by_api_that_fails(stage: Stage, mode: str, why: str) -> None:
    """The call is as it was."""
    customer, agent = await stage.call()
    if why != "unknown":
        await stage.phone("agent2", on_call="busy" if why == "busy" else "ring")
    told = stage.service.hub.subscribe()
    target = "PJSIP/agent2" if why != "unknown" else "nowhere"
    order = Transfer(party="agent", target=target, mode=mode, timeout=1.5)
    await stage.service.transfer(stage.service.calls()[0].id, order)
    async with asyncio.timeout(10):
        while (await anext(told))["type"] != "leg.failed":
            pass
    await stage.active(2)
    assert len(stage.service.calls()[0].legs) == 2
    await stage.talk(customer, agent)
    await stage.over(customer)


@long_form
@pytest.mark.parametrize("mode", ["cold", "warm"])
async def test_the_customer_hangs_up_while_the_target_of_the_api_rings(stage: Stage, mode: str) -> None:
    customer, _ = await stage.call()
    other = await stage.phone("agent2", on_call="ring")
    order = Transfer(party="agent", target="PJSIP/agent2", mode=mode)
    await stage.service.transfer(stage.service.calls()[0].id, order)
    ringing = await other.wait_incoming()
    await stage.over(customer)
    await until(lambda: ringing.ended, what="it rings no longer")


@long_form
async def test_the_customer_hangs_up_while_the_two_agents_talk(stage: Stage) -> None:
    customer, agent = await stage.call()
    other = await stage.phone("agent2", on_call=0.2)
    order = Transfer(party="agent", target="PJSIP/agent2", mode="warm")
    await stage.service.transfer(stage.service.calls()[0].id, order)
    await stage.active(3)
    await stage.over(customer)
    await until(lambda: agent.calls[-1].ended and other.calls[-1].ended, what="both are let go")


async def test_to_an_agent_of_another_language_without_a_gap(stage: Stage) -> None:
    customer, _ = await stage.call()
    other = await stage.phone("agent2", on_call=0.5)
    old = (await stage.double.wait_session()).id
    await stage.service.transfer(
        stage.service.calls()[0].id, Transfer(party="agent", target="PJSIP/agent2", language="fr")
    )
    await other.wait_state("CONFIRMED")
    await until(lambda: [s.id for s in stage.double.open_sessions] != [old] and len(stage.double.open_sessions) == 1)
    new = stage.double.open_sessions[0]
    assert (new.request["source_language"], new.request["target_language"]) == ("de", "fr")
    assert new.created_monotonic < stage.double.sessions[old].ends[0][0], "created before the old one is ended"
    heard = await new.wait_audio("customer", 0.3)
    gap = heard.arrivals[0].at - stage.double.sessions[old].audio["customer"].arrivals[-1].at
    assert gap < 1.0, f"nobody was heard for {gap:.2f} s"
    await stage.talk(customer, other, ("de", "fr"))
    await stage.over(customer)


@long_form
@pytest.mark.parametrize("ending", ["the agent leaves", "the other declines"])
async def test_warm_by_api(stage: Stage, ending: str) -> None:
    customer, agent = await stage.call()
    other = await stage.phone("agent2", on_call=0.2)
    await stage.service.transfer(
        stage.service.calls()[0].id, Transfer(party="agent", target="PJSIP/agent2", mode="warm", language="fr")
    )
    await other.wait_state("CONFIRMED")
    await stage.active(3)
    await stage.talk(agent, other, ("en", "fr"))
    assert customer.current is not None
    if ending == "the agent leaves":
        await agent.hangup()
        stays, language = other, "fr"
    else:
        await other.hangup()
        stays, language = agent, "en"
    await stage.active(2)
    await stage.talk(customer, stays, ("de", language))
    await stage.over(customer)


@long_form
async def test_back_to_the_dialplan(stage: Stage) -> None:
    customer, agent = await stage.call()
    await stage.asterisk.extension("960", "Milliwatt()")
    call = stage.service.calls()[0].id
    await stage.service.transfer(call, Transfer(party="customer", target="kallglot-phones,960,1"))
    await until(lambda: not stage.service.calls() and agent.calls[-1].ended, what="the agent is let go")
    await hears(customer, {1004.0})
    await stage.over(customer)
    assert [s.end_reason for s in stage.double.sessions.values()] == ["completed"]


async def test_warm_while_nobody_translates(stage: Stage) -> None:
    """The two talk alone, and the customer, who waits, hears neither."""
    customer, agent = await stage.call()
    session = await stage.double.wait_session()
    stage.double.refuse("create", 402, times=None)
    await session.ended_by_server()
    await until(lambda: stage.service.calls()[0].translation == "direct", what="connected directly")
    other = await stage.phone("agent2", on_call=0.2)
    order = Transfer(party="agent", target="PJSIP/agent2", mode="warm")
    await stage.service.transfer(stage.service.calls()[0].id, order)
    await stage.active(3)
    await hears(agent, {HZ["agent2"]})
    await hears(other, {HZ["agent"]})
    await hears(customer, set())
    await agent.hangup()
    await stage.active(2)
    await hears(customer, {HZ["agent2"]})
    await hears(other, {HZ["customer"]})
    await stage.over(customer)
