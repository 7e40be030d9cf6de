"""Opus on its way up, a packet at a time: its packets last as long as they say."""

from __future__ import annotations

import numpy as np
import pytest

from kallglot_ari.audio.codecs import opus, registry
from kallglot_ari.media.legs import Legs
from kallglot_ari.media.listen import Listen
from kallglot_ari.media.originals import Originals
from kallglot_ari.media.stored import Stored
from kallglot_ari.rtp.packet import RtpPacket


def opus_ear() -> Listen:
    receive, send = registry.get("opus"), registry.get("opus_cbr")
    originals = Originals(receive, send, Stored.of(send))
    return Listen(receive, "pcm_16", 16000, 100, jitter_min_ms=20, jitter_max_ms=200, originals=originals)


@pytest.mark.parametrize("ms", [10, 20, 40, 60])
def test_opus_packets_of_any_length_go_up_whole(ms: int) -> None:
    """A phone's or a gateway's own packet time: nothing is dropped, and no silence lies between."""
    if not opus.available():
        pytest.skip("libopus is not installed")
    import opuslib_next

    ear = opus_ear()
    legs = Legs(uplink_bytes=ear.chunks.uplink_bytes, frame_bytes=160, silence=bytes(160), payload_type=0)
    legs.open(0, 1, ssrc=1, sequence=0, timestamp=0, phase=0)
    encoder = opuslib_next.Encoder(16000, 1, "voip")
    size = 16 * ms
    pcm = (8000 * np.sin(np.arange(16000) * 0.2)).astype(np.int16)
    packets = [encoder.encode(pcm[i : i + size].tobytes(), size) for i in range(0, pcm.size - size + 1, size)]
    for number, sound in enumerate(packets):
        now = 5.0 + number * ms / 1000
        ear.datagram(legs, 0, RtpPacket(107, number, number * ms * 48, 1, sound).pack(), now, now)
    assert legs.received[0] == legs.expected[0] == len(packets)
    assert not ear.discarded
    assert legs.clock[0] == len(packets) * size * 2
    loud = np.abs(np.frombuffer(b"".join(c.sound.audio.payload for c in ear.chunks.ready), dtype=np.int16)[1600:])
    assert loud.reshape(-1, 160).max(axis=1).min() > 4000


def test_an_opus_packet_that_cannot_be_decoded_lasts_as_long_as_it_says() -> None:
    if not opus.available():
        pytest.skip("libopus is not installed")
    ear = opus_ear()
    legs = Legs(uplink_bytes=ear.chunks.uplink_bytes, frame_bytes=160, silence=bytes(160), payload_type=0)
    legs.open(0, 1, ssrc=1, sequence=0, timestamp=0, phase=0)
    for number in range(5):  # 120 ms in two frames of one length, which an odd number of bytes cannot be
        now = 5.0 + number * 0.12
        ear.datagram(legs, 0, RtpPacket(107, number, number * 5760, 1, b"\x19xyy"[: 4 - number % 2]).pack(), now, now)
        assert legs.clock[0] == legs.emitted[0] * 2 // 3
