"""L16, uncompressed 16-bit sound in network byte order (RFC 3551 §4.5.11): Asterisk's slin and slin16."""

from __future__ import annotations

import numpy as np

from kallglot_ari.audio.frame import Pcm, from_little_endian, to_little_endian
from kallglot_ari.errors import MediaError


class SlinEncoder:
    """Native to big-endian; remembers nothing."""

    def encode(self, pcm: Pcm) -> bytes:
        return pcm.astype(">i2").tobytes()


class SlinDecoder:
    """Big-endian to native; remembers nothing."""

    def decode(self, payload: bytes) -> Pcm:
        if len(payload) % 2:
            raise MediaError(f"L16: expected an even number of bytes, found {len(payload)}")
        return np.frombuffer(payload, dtype=">i2").astype(np.int16)

    def lost(self, samples: int, following: bytes | None = None) -> Pcm | None:
        return None


class LittleSlinEncoder:
    """Samples as Asterisk has them inside: little-endian, on every machine that it is built for."""

    def encode(self, pcm: Pcm) -> bytes:
        return to_little_endian(pcm)


class LittleSlinDecoder:
    """Little-endian to native; remembers nothing."""

    def decode(self, payload: bytes) -> Pcm:
        return from_little_endian(payload)

    def lost(self, samples: int, following: bytes | None = None) -> Pcm | None:
        return None
