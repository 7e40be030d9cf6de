"""ITU-T G.711 mu-law and A-law by table, for one payload or a whole block of them.

The tables are computed from the recommendation's definition (as the ITU's own G.191 tool does), at import, in a few milliseconds. Every function
takes arrays of any shape and keeps the shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import Pcm

Bytes = NDArray[np.uint8]

ULAW_SILENCE = 0xFF
ALAW_SILENCE = 0xD5


def _ulaw_decode_table() -> NDArray[np.int16]:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    exponent = (code >> 4) & 7
    magnitude = ((((code & 0x0F) << 3) + 0x84) << exponent) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_decode_table() -> NDArray[np.int16]:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent = (code >> 4) & 7
    mantissa = (code & 0x0F) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _ulaw_encode_table() -> Bytes:
    """Indexed by the sample taken as unsigned 16 bits."""
    x = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    # 14 bits; a negative sample by its one's complement, so that the two halves are alike
    magnitude = np.minimum(np.where(x < 0, ~x, x) // 4 + 33, 0x1FFF)
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 5
    mantissa = (magnitude >> (exponent + 1)) & 0x0F
    code = ~((exponent << 4) | mantissa) & 0x7F
    signed: Bytes = np.where(x < 0, code, code | 0x80).astype(np.uint8)
    return signed


def _alaw_encode_table() -> Bytes:
    x = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.where(x < 0, ~x, x) >> 4
    exponent = np.where(magnitude > 15, np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 3, 0)
    mantissa = np.where(exponent > 0, (magnitude >> np.maximum(exponent - 1, 0)) & 0x0F, magnitude & 0x0F)
    code = (exponent << 4) | mantissa
    return (np.where(x < 0, code, code | 0x80) ^ 0x55).astype(np.uint8)


ULAW_TO_PCM = _ulaw_decode_table()
ALAW_TO_PCM = _alaw_decode_table()
PCM_TO_ULAW = _ulaw_encode_table()
PCM_TO_ALAW = _alaw_encode_table()
ULAW_TO_ALAW: Bytes = PCM_TO_ALAW[ULAW_TO_PCM.view(np.uint16)]
ALAW_TO_ULAW: Bytes = PCM_TO_ULAW[ALAW_TO_PCM.view(np.uint16)]
TABLES: dict[str, tuple[NDArray[np.int16], Bytes]] = {
    "ulaw": (ULAW_TO_PCM, PCM_TO_ULAW), "mulaw": (ULAW_TO_PCM, PCM_TO_ULAW), "alaw": (ALAW_TO_PCM, PCM_TO_ALAW),
}  # fmt: skip
"""By name, Asterisk's or the stream's: codes to samples, and samples, as unsigned numbers, to codes."""


class G711Encoder:
    """Samples to one byte each; remembers nothing."""

    def __init__(self, table: Bytes) -> None:
        self._table = table

    def encode(self, pcm: Pcm) -> bytes:
        return self._table[pcm.view(np.uint16)].tobytes()


class G711Decoder:
    """One byte to one sample; any byte is a sample."""

    def __init__(self, table: NDArray[np.int16]) -> None:
        self._table = table

    def decode(self, payload: bytes) -> Pcm:
        return self._table[np.frombuffer(payload, dtype=np.uint8)]

    def lost(self, samples: int, following: bytes | None = None) -> Pcm | None:
        return None


def ulaw_encoder() -> G711Encoder:
    return G711Encoder(PCM_TO_ULAW)


def ulaw_decoder() -> G711Decoder:
    return G711Decoder(ULAW_TO_PCM)


def alaw_encoder() -> G711Encoder:
    return G711Encoder(PCM_TO_ALAW)


def alaw_decoder() -> G711Decoder:
    return G711Decoder(ALAW_TO_PCM)
