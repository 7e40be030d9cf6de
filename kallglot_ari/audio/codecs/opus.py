"""Opus (RFC 6716, RFC 7587) at 48 kHz RTP clock, 20 ms, mono, with in-band FEC. Needs the system's libopus.

The library is loaded when the first encoder or decoder is made, so that a machine without it can use everything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kallglot_ari.audio.frame import FRAME_MS, Pcm
from kallglot_ari.errors import MediaError

SAMPLE_RATE = 16000
"""Opus gives any of its rates; speech recognition and G.722 want this one, and it holds what a telephone carries."""
_MAX_FRAME = SAMPLE_RATE * 120 // 1000
"""The longest packet is 120 ms (RFC 6716 §3.1)."""
_BIT_RATE = 24000
_CBR_BIT_RATE = 48000
CBR_BYTES = _CBR_BIT_RATE * FRAME_MS // 8000
"""A frame of 20 ms at the constant bit rate."""
_EXPECTED_LOSS_PERCENT = 10
_USUAL_TICKS = 960
_MOST_TICKS = 5760
_SILK, _HYBRID, _CELT = (480, 960, 1920, 2880), (480, 960), (120, 240, 480, 960)
_TICKS = _SILK * 3 + _HYBRID * 2 + _CELT * 4
"""Of a frame, at 48 kHz, by the configuration in the first five bits of a packet (RFC 6716 §3.1)."""


def _library() -> Any:
    try:
        import opuslib_next
    except Exception as error:
        raise MediaError(
            "opus: expected the system's libopus (Debian: apt-get install libopus0), found none that loads"
        ) from error
    return opuslib_next


def available() -> bool:
    """Whether libopus can be loaded."""
    try:
        _library()
    except MediaError:
        return False
    return True


def duration(payload: bytes) -> int:
    """Ticks at 48 kHz of a packet, by its first byte and its number of frames (RFC 6716 §3.1, §3.2).

    20 ms for one that cannot be: the decoder refuses it, and what is said in its place lasts as long.
    """
    if not payload:
        return _USUAL_TICKS
    count = (1, 2, 2, payload[1] & 0x3F if len(payload) > 1 else 0)[payload[0] & 3]
    ticks = count * _TICKS[payload[0] >> 3]
    return ticks if 0 < ticks <= _MOST_TICKS else _USUAL_TICKS


class OpusEncoder:
    """`complexity` is 0 (cheap) to 10 (best); 5 costs about a third of 10 and is hard to tell from it on speech."""

    _application, _bit_rate = "voip", _BIT_RATE

    def __init__(self, complexity: int = 5) -> None:
        if not 0 <= complexity <= 10:
            raise MediaError(f"opus: expected a complexity of 0 to 10, found {complexity}")
        self._codec = _library().Encoder(SAMPLE_RATE, 1, self._application)
        self._codec.bitrate = self._bit_rate
        self._codec.complexity = complexity
        self._tune()

    def _tune(self) -> None:
        self._codec.inband_fec = True
        self._codec.packet_loss_perc = _EXPECTED_LOSS_PERCENT
        self._codec.vbr = True

    def encode(self, pcm: Pcm) -> bytes:
        expected = SAMPLE_RATE * FRAME_MS // 1000
        if pcm.size != expected:
            raise MediaError(f"opus: expected a frame of {expected} samples, found {pcm.size}")
        return bytes(self._codec.encode(pcm.tobytes(), expected))


class CbrOpusEncoder(OpusEncoder):
    """Every frame has the same length, `CBR_BYTES`; for TCP, which loses nothing, so that there is no FEC.

    SILK, which "voip" takes, makes a howl of a steady tone at a constant rate; "audio" does not, and takes a quarter of the time.
    """

    _application, _bit_rate = "audio", _CBR_BIT_RATE

    def _tune(self) -> None:
        self._codec.vbr = False


class OpusDecoder:
    """Decodes whatever lengths Opus has, conceals by its own means, and uses FEC where the next packet carries it."""

    def __init__(self) -> None:
        self._library = _library()
        self._codec = self._library.Decoder(SAMPLE_RATE, 1)

    def decode(self, payload: bytes) -> Pcm:
        if not payload:
            raise MediaError("opus: expected a payload, found none")
        try:
            data = self._codec.decode(payload, _MAX_FRAME)
        except self._library.OpusError as error:
            raise MediaError(f"opus: expected an Opus packet, found {len(payload)} bytes that are none") from error
        return np.frombuffer(data, dtype=np.int16).copy()

    def lost(self, samples: int, following: bytes | None = None) -> Pcm | None:
        """PLC (`following` None) or FEC; `samples` in steps of 2.5 ms."""
        step = SAMPLE_RATE // 400
        samples = max(step, samples - samples % step)
        try:
            data = self._codec.decode(following or b"", samples, following is not None)
        except self._library.OpusError:
            return None
        pcm = np.frombuffer(data, dtype=np.int16).copy()
        return pcm if pcm.size == samples else None
