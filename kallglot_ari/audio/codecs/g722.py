"""ITU-T G.722 at 64 kbit/s: 16 kHz sound, one byte for two samples, an RTP clock of 8 kHz."""

from __future__ import annotations

import numpy as np
from G722 import G722

from kallglot_ari.audio.frame import Pcm
from kallglot_ari.errors import MediaError

SAMPLE_RATE = 16000
BIT_RATE = 64000


class G722Encoder:
    """Adaptive: what it sends depends on all it has sent before."""

    def __init__(self) -> None:
        self._codec = G722(SAMPLE_RATE, BIT_RATE)

    def encode(self, pcm: Pcm) -> bytes:
        if pcm.size % 2:
            raise MediaError(f"G.722: expected an even number of samples, found {pcm.size}")
        return bytes(self._codec.encode(np.ascontiguousarray(pcm))) if pcm.size else b""


class G722Decoder:
    """The encoder's mirror; loses its place when packets are lost, and finds it again within some milliseconds."""

    def __init__(self) -> None:
        self._codec = G722(SAMPLE_RATE, BIT_RATE)

    def decode(self, payload: bytes) -> Pcm:
        if not payload:
            return np.zeros(0, dtype=np.int16)
        return np.array(self._codec.decode(payload), dtype=np.int16)

    def lost(self, samples: int, following: bytes | None = None) -> Pcm | None:
        return None
