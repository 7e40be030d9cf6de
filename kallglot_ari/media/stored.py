"""The form in which speech lies ready for a leg: the payload itself of G.711, samples of every other codec, which are encoded when their packet is made.

A codec with memory must be shown what is sent in the order it is sent, so it is asked as late as that.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.codecs.base import Codec, Encoder
from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.media.legs import RTP_HEADER, Legs

SETTLE_FRAMES = 10
"""Frames an encoder with memory is fed silence after speech, before one fixed silent frame is sent for it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a frame of 20 ms lies ready as."""

    unit: int
    """Bytes of a frame."""
    is_payload: bool
    encoding: str | None
    """What the stream calls it, at the codec's own rate; None where it has no name for it."""

    @classmethod
    def of(cls, codec: Codec) -> Stored:
        same = registry.SAME_BYTES.get(codec.name)
        if same is not None:
            return cls(codec.frame_bytes, True, same)
        little = sys.byteorder == "little"
        return cls(codec.frame_samples * 2, codec.name == "slin16le" and little, "pcm_16" if little else None)

    @property
    def is_law(self) -> bool:
        """Whether it is G.711, a byte a sample."""
        return self.encoding in registry.SAME_BYTES.values()

    @property
    def tables(self) -> tuple[NDArray[np.int16], NDArray[np.uint8]] | None:
        """Of G.711: its codes as samples, and samples as its codes (`g711.TABLES`)."""
        return g711.TABLES[self.encoding] if self.is_law and self.encoding else None


class Encoders:
    """The payloads of legs by the codec's own encoder, one for each leg."""

    def __init__(self, codec: Codec, fixed: NDArray[np.uint8]) -> None:
        """`fixed` is the payload of silence."""
        self._codec = codec
        self._fixed = fixed
        self._nothing: Pcm = silence(codec.frame_samples)
        self._encoders: dict[int, Encoder] = {}
        self._left: dict[int, int] = {}
        """Frames of silence that are still to be encoded for a leg."""

    def open(self, row: int) -> None:
        self._encoders[row] = self._codec.encoder()
        self._left.pop(row, None)

    def close(self, row: int) -> None:
        self._encoders.pop(row, None)
        self._left.pop(row, None)

    def write(self, legs: Legs, rows: NDArray[np.int64]) -> None:
        """Put what each of `rows` says next into its packet."""
        for row in rows.tolist():
            encoder = self._encoders[row]
            mixed = legs.ears["mixed"].item(row)
            if mixed or legs.count.item(row):
                pcm = (legs.mix[row] if mixed else legs.staged[row, legs.head.item(row)]).view(np.int16)
                self._left[row] = SETTLE_FRAMES
                payload = np.frombuffer(encoder.encode(pcm), dtype=np.uint8)
            elif self._codec.adaptive or self._left.get(row):
                self._left[row] = max(0, self._left.get(row, 0) - 1)
                payload = np.frombuffer(encoder.encode(self._nothing), dtype=np.uint8)
            elif row in self._left:
                del self._left[row]
                payload = self._fixed
            else:
                continue
            legs.outbox.data[row, RTP_HEADER:] = payload


def silent_payload(codec: Codec) -> bytes:
    """20 ms of silence as `codec` sends it."""
    encoder = codec.encoder()
    payload = b""
    for _ in range(SETTLE_FRAMES):
        payload = encoder.encode(silence(codec.frame_samples))
    return payload
