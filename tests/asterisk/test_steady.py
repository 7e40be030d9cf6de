"""A steady tone through the whole path, looked at on the wire: no hole, no click, not one sample too many or too few."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import long_form, nothing_left, running, settings_for
from tests.asterisk.sniffing import flows, sniffing
from tests.audio_checks import assert_steady_tone, tone, tone_presence
from tests.double.server import KallglotDouble

FOR_AGENT_HZ, FOR_CUSTOMER_HZ = 787.0, 1013.0

pytestmark = [pytest.mark.asterisk, pytest.mark.phones, pytest.mark.slow]


LONG = int(os.environ.get("KALLGLOT_SOAK_CALLS", "30")) >= 500


@pytest.mark.parametrize(
    ("contract", "seconds"),
    [("routing", 60.0 if LONG else 8.0), pytest.param("provider", 60.0 if LONG else 8.0, marks=long_form)],
)
async def test_a_steady_tone_arrives_whole(
    asterisk: LabAsterisk, phones: PhoneFactory, tmp_path: Path, contract: str, seconds: float
) -> None:
    seconds = seconds if asterisk.major >= 22 else 5.0
    rate = 8000 if contract == "routing" else 16000
    async with (
        KallglotDouble(contract, chunk_ms=None) as double,  # type: ignore[arg-type]
        running(settings_for(asterisk, tmp_path, double)) as service,
    ):
        customer = await phones(asterisk, "customer", codecs=("PCMU",))
        await phones(asterisk, "agent", on_call=0.2, codecs=("PCMU",))
        await customer.call("101")
        session = await double.wait_session()
        await session.wait_audio("agent", 0.3)
        with sniffing() as sniffer:
            await asyncio.sleep(0.4)  # the sniffer's own G.722 decoder comes in in the middle, and must fall into step
            await asyncio.gather(
                session.speak("customer", tone(FOR_AGENT_HZ, seconds, rate)),
                session.speak("agent", tone(FOR_CUSTOMER_HZ, seconds, rate)),
            )
            await asyncio.sleep(0.5)
            seen = flows(sniffer.take())
        await customer.hangup()
        await nothing_left(service, asterisk)
    found = dict.fromkeys((FOR_AGENT_HZ, FOR_CUSTOMER_HZ), 0)
    for flow in seen:
        sound, at = flow.sound, flow.rate
        for wanted in found:
            if (tone_presence(sound, at, wanted) > 0.8).sum() * 0.02 > seconds / 2:
                assert flow.missing == []
                assert_steady_tone(sound, at, wanted, min_seconds=seconds - 0.2)
                found[wanted] += 1
    assert found == dict.fromkeys(found, 2), "from us to Asterisk, and from Asterisk to the phone"
