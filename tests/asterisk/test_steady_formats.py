"""A steady tone both ways through each format and each transport: no hole, no click. Minutes of each with `KALLGLOT_LONG=1`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import LONG, long_form, nothing_left, running, settings_for
from tests.asterisk.sniffing import Seen, flows, sniffing
from tests.audio_checks import Pcm, analyse_tone, assert_steady_tone, tone, tone_presence
from tests.double.server import KallglotDouble

SAID_HZ, FOR_CUSTOMER_HZ = 823.0, 1019.0
SECONDS = 60.0 if LONG else 5.0
SETTLED = 0.2
"""Seconds at the beginning of a tone that codecs with a memory are given."""
SHORT = {("rtp", "opus")}
EACH = [(way, form) for way in ("rtp", "websocket") for form in ("ulaw", "alaw", "g722", "slin16", "opus")]

pytestmark = [pytest.mark.asterisk, pytest.mark.phones, pytest.mark.slow]


@pytest.mark.parametrize(
    ("transport", "form"), [pytest.param(*one, marks=[] if one in SHORT else [long_form]) for one in EACH]
)
async def test_a_tone_is_whole_in_both_directions(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path, transport: str, form: str
) -> None:
    contract, rate = ("routing", 8000) if form in ("ulaw", "alaw") else ("provider", 16000)
    media = {"transport": transport, "format": form}
    with sniffing(span=asterisk22.rtp_range) as sniffer:
        said = await _call(asterisk22, phones, tmp_path, media, contract, rate)
        seen = sniffer.take()
    _whole(said, rate, SAID_HZ)
    _whole(_heard_by_phone(seen, asterisk22), 8000, FOR_CUSTOMER_HZ)


async def _call(
    asterisk: LabAsterisk, phones: PhoneFactory, folder: Path, media: dict[str, str], contract: str, rate: int
) -> Pcm:
    """What Kallglot heard of the customer."""
    async with (
        KallglotDouble(contract, chunk_ms=None) as double,  # type: ignore[arg-type]
        running(settings_for(asterisk, folder, double, media=media)) as service,
    ):
        customer = await phones(asterisk, "customer", codecs=("PCMU",))
        await phones(asterisk, "agent", on_call=0.2, codecs=("PCMU",))
        spoken = tone(FOR_CUSTOMER_HZ, SECONDS, rate)
        await customer.tone(SAID_HZ)
        await customer.call("101")
        session = await double.wait_session()
        await session.wait_audio("customer", 0.5)
        await session.speak("agent", spoken)
        await asyncio.sleep(0.5)
        said: Pcm = session.audio["customer"].pcm
        quality = service.calls()[0].legs[0].quality
        await customer.hangup()
        await nothing_left(service, asterisk)
    assert quality.packets_lost == 0
    return said


def _whole(sound: Pcm, rate: int, hertz: float) -> None:
    begin = analyse_tone(sound, rate, hertz).start + SETTLED
    assert_steady_tone(sound[round(begin * rate) :], rate, hertz, min_seconds=SECONDS - 0.5)


def _heard_by_phone(seen: list[Seen], asterisk: LabAsterisk) -> Pcm:
    """What Asterisk sent with the tone in it, from a port of its own to a phone's."""
    low, high = asterisk.rtp_range
    wanted = [
        flow
        for flow in flows([p for p in seen if low <= p.source <= high and p.kind == 0])
        if np.sum(tone_presence(flow.sound, flow.rate, FOR_CUSTOMER_HZ) > 0.8) * 0.02 > SECONDS / 2
    ]
    sounds = [flow for flow in wanted if not low <= flow.packets[0].destination <= high]
    assert len(sounds) == 1, f"expected one flow with the tone, found {len(sounds)}"
    assert sounds[0].missing == []
    return sounds[0].sound
