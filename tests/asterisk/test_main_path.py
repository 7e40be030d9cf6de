"""A call through a real Asterisk, with real phones, to a Kallglot that is not ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import in_long_form, nothing_left, running, settings_for
from tests.audio_checks import dominant_frequency, tone, tone_presence
from tests.double.server import KallglotDouble

CUSTOMER_HZ, AGENT_HZ = 453.0, 613.0
FOR_AGENT_HZ, FOR_CUSTOMER_HZ = 787.0, 1013.0

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


@pytest.mark.parametrize("contract", ["routing", "provider"])
async def test_each_party_is_heard_by_kallglot_and_hears_the_translation_of_the_other(
    asterisk: LabAsterisk, phones: PhoneFactory, tmp_path: Path, contract: str
) -> None:
    if asterisk.major < 22 and contract == "provider":
        in_long_form()
    async with (
        KallglotDouble(contract, chunk_ms=None) as double,  # type: ignore[arg-type]
        running(settings_for(asterisk, tmp_path, double)) as service,
    ):
        customer = await phones(asterisk, "customer", codecs=("PCMU",))
        agent = await phones(asterisk, "agent", on_call=0.3, codecs=("PCMU",))
        await customer.tone(CUSTOMER_HZ)
        await agent.tone(AGENT_HZ)
        await customer.call("101")
        await customer.wait_state("CONFIRMED")
        session = await double.wait_session()
        await session.wait_audio("customer", 1.0)
        await session.wait_audio("agent", 1.0)
        rate = 8000 if contract == "routing" else 16000
        started = asyncio.get_running_loop().time()
        await asyncio.gather(
            session.speak("customer", tone(FOR_AGENT_HZ, 6, rate)),
            session.speak("agent", tone(FOR_CUSTOMER_HZ, 6, rate)),
        )
        assert asyncio.get_running_loop().time() - started > 4
        await customer.hangup()
        await nothing_left(service, asterisk)
        await session.wait_ended()

        assert session.end_reason == "customer_hangup"
        for name in ("kallglot_mos_count", "kallglot_rtp_jitter_seconds_count"):
            assert service.metrics.registry.get_sample_value(name) == 2, "each leg counts once"
        for speaker, own in (("customer", CUSTOMER_HZ), ("agent", AGENT_HZ)):
            pcm = session.audio[speaker].pcm
            assert abs(dominant_frequency(pcm[-rate:], rate) - own) < 3, speaker
        for phone, wanted, never in ((agent, FOR_AGENT_HZ, AGENT_HZ), (customer, FOR_CUSTOMER_HZ, CUSTOMER_HZ)):
            heard = phone.recording
            # The phone's own jitter buffer moves samples now and then; that what we send is gapless, byte for byte, is shown
            # in tests/media on the wire.
            there = tone_presence(heard.samples, heard.rate, wanted) > 0.8
            assert there.sum() * 0.02 > 5.5, f"{there.sum() * 0.02:.2f} s of {wanted} Hz"
            assert not (tone_presence(heard.samples, heard.rate, never) > 0.5).any(), "nobody hears themselves"
        assert double.violations == []
