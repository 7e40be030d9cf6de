"""More than two parties on a real Asterisk: who hears what, in which language, and what comes and goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kallglot_ari.calls.orders import Invitation, Transfer
from kallglot_ari.errors import UsageError
from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import LONG, long_form, until
from tests.asterisk.sniffing import flows, sniffing
from tests.asterisk.stage import HZ, Stage, staged
from tests.asterisk.tones import SHIFT, Interpreter, hears
from tests.audio_checks import assert_steady_tone, tone, tone_presence

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]

FOR_CUSTOMER_HZ = 1013.0
LANGUAGES = {"customer": "de", "agent": "en", "agent2": "en", "agent3": "fr", "phone01": "de"}


async def test_five_parties_three_languages(stage: Stage) -> None:
    """25 cells: nobody hears itself, who speaks the same language is heard as he is, everybody else translated."""
    customer, agent = await stage.call()
    call = stage.service.calls()[0].id
    await stage.asterisk.extension("970", "Stasis(kallglot,join=${KALLGLOT_JOIN},source=en)", "Hangup()")
    await stage.asterisk.cli(f"dialplan set global KALLGLOT_JOIN {stage.service.calls()[0].session_id}")
    second = await stage.phone("agent2")
    await second.call("970")
    for name in ("agent3", "phone01"):
        await stage.phone(name, on_call=0.1)
        await stage.service.add_leg(call, Invitation(endpoint=f"PJSIP/{name}", language=LANGUAGES[name]))
    await stage.active(5)
    await until(lambda: len([s for s in stage.double.open_sessions if s.connected]) == 3, what="a session a pair")
    async with Interpreter(stage.double):
        for name, phone in stage.phones.items():
            own = LANGUAGES[name]
            wanted = {
                hz + (0.0 if LANGUAGES[other] == own else SHIFT[own]) for other, hz in HZ.items() if other != name
            }
            await hears(phone, wanted, timeout=20)
    with pytest.raises(UsageError, match="5 parties already"):
        await stage.service.add_leg(call, Invitation(endpoint="PJSIP/phone02"))
    sixth = await stage.phone("phone02", says=False)
    refused = await sixth.call("970")
    await until(lambda: refused.ended, what="the sixth is refused")
    # The one who opened it leaves, then the rest; the sessions of languages that nobody speaks any more end with them.
    await stage.phones["phone01"].hangup()
    await customer.hangup()
    await until(lambda: len(stage.double.open_sessions) == 1, what="English and French are left")
    await stage.active(3)
    await stage.phones["agent3"].hangup()
    await until(lambda: not stage.double.open_sessions, what="English alone needs nobody")
    await stage.active(2)
    await second.hangup()
    await stage.over(agent)


async def test_a_caller_with_a_label_and_an_agent_of_the_callers_language(stage: Stage) -> None:
    """Both are customers to Kallglot, for both speak the session's source language."""
    await stage.asterisk.extension(
        "961", "Stasis(kallglot,source=de,target=en,agent=PJSIP/agent,speaker=anna)", "Hangup()"
    )
    customer, agent = await stage.call("961")
    await stage.talk(customer, agent)
    call = stage.service.calls()[0].id
    third = await stage.phone("agent3", on_call=0.1)
    await stage.service.add_leg(call, Invitation(endpoint="PJSIP/agent3", language="en"))
    await stage.active(3)
    german = await stage.phone("agent2", on_call=0.1)
    await stage.service.transfer(call, Transfer(party="agent", target="PJSIP/agent2", language="de"))
    await german.wait_state("CONFIRMED")
    await stage.active(3)
    async with Interpreter(stage.double):
        await hears(third, {HZ["customer"] + SHIFT["en"], HZ["agent2"] + SHIFT["en"]})
        await hears(german, {HZ["customer"], HZ["agent3"] + SHIFT["de"]})
        await hears(customer, {HZ["agent2"], HZ["agent3"] + SHIFT["de"]})
    assert [leg.speaker for leg in stage.service.calls()[0].legs] == ["anna", "agent", "party-3"]
    await customer.hangup()
    await german.hangup()
    await stage.over(third)


@long_form
async def test_parties_come_and_go_without_a_click(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    """The customer hears one long tone from Kallglot; somebody joins and leaves every second, for a minute."""
    never_behind = {"backlog_max_ms": 120000, "lag_max_ms": 600000}
    async with staged(asterisk22, phones, tmp_path, media=never_behind) as stage:
        await _come_and_go(stage, 60 if LONG else 5)


async def _come_and_go(stage: Stage, rounds: int) -> None:
    customer, _ = await stage.call()
    call = stage.service.calls()[0].id
    session = await stage.double.wait_session()
    guest = await stage.phone("agent3", says=False, on_call=0.0)
    with sniffing() as sniffer:
        # All at once, so that the pace is ours and not the test's.
        await session.speak("agent", tone(FOR_CUSTOMER_HZ, rounds * 1.5, 8000), burst=True)
        for _ in range(rounds):
            await stage.service.add_leg(call, Invitation(endpoint="PJSIP/agent3", language="en", speaker="guest"))
            await guest.wait_state("CONFIRMED")
            await asyncio.sleep(0.8)
            await guest.hangup()
            await until(lambda: len(stage.service.calls()[0].legs) == 2)
        low, high = stage.asterisk.rtp_range
        seen = [
            flow
            for flow in flows(sniffer.take())
            if low <= flow.packets[0].source <= high or low <= flow.packets[0].destination <= high
        ]
    heard = [
        flow for flow in seen if (tone_presence(flow.sound, flow.rate, FOR_CUSTOMER_HZ) > 0.8).sum() * 0.02 > rounds / 2
    ]
    assert len(heard) == 2, "from us to Asterisk, and from Asterisk to the phone"
    for flow in heard:
        assert_steady_tone(flow.sound, flow.rate, FOR_CUSTOMER_HZ, min_seconds=rounds / 2)
    await stage.over(customer)
