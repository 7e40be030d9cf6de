"""What a codec is: a name, its RTP figures, and two small methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kallglot_ari.audio.frame import FRAME_MS, Pcm


class Encoder(Protocol):
    """Samples to payload; keeps what the codec remembers between frames."""

    def encode(self, pcm: Pcm) -> bytes:
        """`pcm` is whole 20 ms frames at the codec's sample rate."""
        ...


class Decoder(Protocol):
    """Payload to samples; keeps what the codec remembers between packets."""

    def decode(self, payload: bytes) -> Pcm:
        """:raises MediaError: when the payload cannot be this codec's."""
        ...

    def lost(self, samples: int, following: bytes | None = None) -> Pcm | None:
        """The codec's own substitute for `samples` that never came, or None if it has none.

        `following` is the payload of the next packet, which may carry a copy of what was lost (Opus in-band FEC).
        """
        ...


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec as Asterisk's external media and the RTP header know it."""

    name: str
    """Our name, and Asterisk's `format` where it is one."""
    receive_type: int
    """Payload type Asterisk sends it with."""
    send_type: int | None
    """Payload type Asterisk takes it with; None where it drops it without a word (every dynamic type)."""
    sample_rate: int
    """Hz of the sound."""
    clock_rate: int
    """Hz of the RTP timestamp (RFC 3551 §4.5.2: G.722's is 8000, by an old mistake)."""
    bytes_per_second: int
    """Of payload; 0 where it varies."""
    encoder: Callable[[], Encoder]
    decoder: Callable[[], Decoder]
    adaptive: bool = False
    """Whether the decoder learns from every payload what the next ones mean, so that silence must be encoded like everything else."""
    duration: Callable[[bytes], int] | None = None
    """Ticks of a payload, where its length does not tell."""

    @property
    def timestamp_step(self) -> int:
        """How far the RTP timestamp moves in 20 ms."""
        return self.clock_rate * FRAME_MS // 1000

    @property
    def frame_samples(self) -> int:
        """Samples of 20 ms."""
        return self.sample_rate * FRAME_MS // 1000

    @property
    def frame_bytes(self) -> int:
        """Payload of 20 ms; 0 where it varies."""
        return self.bytes_per_second * FRAME_MS // 1000

    def ticks(self, payload: bytes) -> int:
        """Timestamp ticks a payload lasts; 20 ms where it does not tell."""
        if self.duration is not None:
            return self.duration(payload)
        if not self.bytes_per_second:
            return self.timestamp_step
        return len(payload) * self.clock_rate // self.bytes_per_second
