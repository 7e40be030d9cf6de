"""Sequence numbers and timestamps that begin anew in mid-call, both ways, on a real call (RFC 3550 §5.1)."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.media import engine, udp
from kallglot_ari.media.udp import Block
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import nothing_left, running, settings_for
from tests.asterisk.sniffing import flows, sniffing
from tests.audio_checks import assert_steady_tone, tone, tone_presence
from tests.double.server import KallglotDouble

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]

SEQUENCE, TIMESTAMP = 0xFFFF - 75, 0xFFFFFFFF - 100 * 160
"""A second and a half, and two seconds, before the end of their ranges."""


class Shifted:
    """A socket that sees every sender begin near the end of the ranges, whatever it began with."""

    def __init__(self, inner: udp.Socket) -> None:
        self._inner = inner
        self._shifts: dict[int, tuple[int, int]] = {}
        self.reached: dict[int, tuple[int, int]] = {}

    def receive(self, block: Block, now: float) -> int:
        count = self._inner.receive(block, now)
        for row in block.data[:count]:
            sequence, timestamp, ssrc = (
                int.from_bytes(row[a:b].tobytes(), "big") for a, b in ((2, 4), (4, 8), (8, 12))
            )
            by = self._shifts.setdefault(ssrc, (SEQUENCE - sequence, TIMESTAMP - timestamp))
            sequence, timestamp = (sequence + by[0]) & 0xFFFF, (timestamp + by[1]) & 0xFFFFFFFF
            row[2:8] = np.frombuffer(sequence.to_bytes(2, "big") + timestamp.to_bytes(4, "big"), np.uint8)
            self.reached[ssrc] = (sequence, timestamp)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_sequence_and_timestamp_wrap_in_a_call(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets: list[Shifted] = []

    def open_socket(*args: Any, **options: Any) -> Shifted:
        sockets.append(Shifted(udp.open_socket(*args, **options)))
        return sockets[-1]

    monkeypatch.setattr(engine, "open_socket", open_socket)
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk22, tmp_path, double)) as service,
    ):
        monkeypatch.setattr(service.media, "open", partial(service.media.open, sequence=SEQUENCE, timestamp=TIMESTAMP))
        customer = await phones(asterisk22, "customer", codecs=("PCMU",))
        agent = await phones(asterisk22, "agent", on_call=0.1, codecs=("PCMU",))
        await customer.tone(453)
        await agent.tone(613)
        port = service.media.address[1]
        with sniffing(port) as sniffer:
            await customer.call("101")
            session = await double.wait_session()
            await session.wait_audio("agent", 0.1)
            # all at once, so that the pace is ours and not the test's
            await session.speak("customer", tone(787, 4, 8000), burst=True)
            await session.speak("agent", tone(1013, 4, 8000), burst=True)
            await asyncio.sleep(4.5)
            seen = sniffer.take()
        legs = [leg for call in service.calls() for leg in call.as_json()["legs"]]
        await customer.hangup()
        await nothing_left(service, asterisk22)
    for sequence, timestamp in sockets[0].reached.values():
        assert sequence < 0x8000, "the sequence number wrapped"
        assert timestamp < 0x80000000, "the timestamp wrapped"
    assert [leg["packets_lost"] for leg in legs] == [0, 0]
    for speaker, hertz in (("customer", 453), ("agent", 613)):
        pcm = session.audio[speaker].pcm
        there = tone_presence(pcm, 8000, hertz) > 0.8
        first = int(np.argmax(there))
        # phone and Asterisk correct their own clocks a sample now and then; a lost or repeated frame is another matter
        assert there[first:-2].all(), f"{speaker}: a hole after {np.argmin(there[first:]) * 0.02:.2f} s"
    for hertz in (787, 1013):
        sent = [flow.sound for flow in flows(seen) if flow.packets[0].source == port]
        spoken = [sound for sound in sent if (tone_presence(sound, 8000, hertz) > 0.8).sum() * 0.02 > 3]
        assert len(spoken) == 1
        assert_steady_tone(spoken[0], 8000, hertz, min_seconds=3.9)
    assert double.violations == []
