"""How a received payload becomes the stream's encoding: by one table for a whole block where that can be, sample by sample where it cannot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.codecs.base import Codec, Decoder
from kallglot_ari.audio.conceal import Concealer
from kallglot_ari.audio.frame import FRAME_MS, Pcm, silence
from kallglot_ari.audio.resample import Resampler

Bytes = NDArray[np.uint8]
Convert = Callable[[Bytes], Bytes]
"""Shape (n, payload bytes) to shape (n, stream bytes), row by row independently."""


def _swap(block: Bytes) -> Bytes:
    return np.ascontiguousarray(block).view(np.uint16).byteswap().view(np.uint8)


def _as_bytes(table: NDArray[np.int16]) -> Convert:
    little = table.astype("<i2")
    return lambda block: little[block].view(np.uint8)


def block_converter(codec: Codec, encoding: str, rate: int) -> Convert | None:
    """The conversion of whole blocks, or None where the codec or a change of rate needs memory of what came before."""
    if codec.sample_rate != rate:
        return None
    match codec.name, encoding:
        case ("ulaw", "mulaw") | ("alaw", "alaw"):
            return lambda block: block
        case "ulaw", "alaw":
            return lambda block: g711.ULAW_TO_ALAW[block]
        case "alaw", "mulaw":
            return lambda block: g711.ALAW_TO_ULAW[block]
        case "ulaw", "pcm_16":
            return _as_bytes(g711.ULAW_TO_PCM)
        case "alaw", "pcm_16":
            return _as_bytes(g711.ALAW_TO_PCM)
        case "slin16", "pcm_16":
            return _swap
        case "slin16le", "pcm_16":
            return lambda block: block
    return None


def silence_byte(encoding: str) -> int:
    """The byte that silence is made of on the stream."""
    return {"mulaw": g711.ULAW_SILENCE, "alaw": g711.ALAW_SILENCE, "pcm_8": 0x80}.get(encoding, 0)


class UplinkVoice:
    """One leg's sound on its way up, where a packet is more than a table look-up: losses, codecs with memory, changes of rate.

    Every method gives sound in the stream's encoding, in the order it was said.
    """

    def __init__(self, codec: Codec, encoding: str, rate: int, decoder: Decoder | None = None) -> None:
        """`decoder` is the leg's own, where it has one that also serves when this object does not."""
        self._codec = codec
        self._encoding = encoding
        self._rate = rate
        self._convert = block_converter(codec, encoding, rate)
        self._decoder: Decoder = decoder or codec.decoder()
        self._has_own = decoder is None
        self._concealer = Concealer(codec.sample_rate)
        self._resampler = Resampler(codec.sample_rate, rate)
        self.pcm: Pcm = silence(0)
        """What the last call gave, at the codec's own rate, for other legs that hear this one."""

    @property
    def concealing(self) -> bool:
        """Whether the next packet must be joined to invented sound."""
        return self._concealer.concealing

    @property
    def faded(self) -> bool:
        """Whether invented sound has come to its end: what follows need not be joined to anything."""
        return self._concealer.faded

    def remember(self, stream_bytes: bytes) -> None:
        """What was said before, in the stream's encoding, when it went by without this object."""
        self._concealer.heard(registry.stream_to_pcm(self._encoding, stream_bytes))

    def another(self) -> None:
        """What comes next is of another encoder."""
        if self._has_own:
            self._decoder = self._codec.decoder()

    def heard(self, payload: bytes) -> bytes:
        """A packet's sound. Untouched where no conversion is needed. :raises MediaError: when it is none of the codec's."""
        if self._convert is not None and not self._concealer.concealing:
            block = np.frombuffer(payload, dtype=np.uint8).reshape(1, -1)
            self.pcm = self._concealer.heard(self._decoder.decode(payload))
            return self._convert(block).tobytes()
        self.pcm = self._concealer.heard(self._decoder.decode(payload))
        return self._out(self.pcm)

    def lost(self, ticks: int, following: bytes | None = None) -> bytes:
        """Substitute for `ticks` of the RTP clock; `following` is the next packet's payload, if it is there."""
        samples = self._samples(ticks)
        own = self._decoder.lost(samples, following)
        if own is not None:
            self.pcm = own
            return self._out(own)
        self.pcm = self._concealer.lost(samples)
        return self._out(self.pcm)

    def nothing(self, ticks: int) -> bytes:
        """Silence for `ticks`: the sender left time out. What was invented before fades out first."""
        samples = self._samples(ticks)
        if self._concealer.concealing:
            self.pcm = self._concealer.lost(samples)
        else:
            self.pcm = self._concealer.heard(silence(samples))
        return self._out(self.pcm)

    def _out(self, pcm: Pcm) -> bytes:
        return registry.pcm_to_stream(self._encoding, self._resampler.process(pcm))

    def _samples(self, ticks: int) -> int:
        samples = ticks * self._codec.sample_rate // self._codec.clock_rate
        return samples - samples % (2 if self._codec.name == "g722" else 1)


def stream_frame_bytes(encoding: str, rate: int) -> int:
    """Bytes of 20 ms on the stream."""
    return rate * FRAME_MS // 1000 * registry.stream_sample_bytes(encoding)
