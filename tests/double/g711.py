"""G.711 as ITU-T G.711 defines it, written apart from the product so that neither hides the other's mistake.

Samples are int16 arrays (16-bit scale); bytes are what goes over the line.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.int16]

_ULAW_BIAS = 132
_ULAW_CLIP = 32635
_ALAW_SEGMENT_ENDS = (0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF)


def _ulaw_byte(sample: int) -> int:
    magnitude = min(abs(sample), _ULAW_CLIP) + _ULAW_BIAS
    exponent = magnitude.bit_length() - 8
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return ~((0x80 if sample < 0 else 0) | exponent << 4 | mantissa) & 0xFF


def _ulaw_sample(byte: int) -> int:
    code = ~byte & 0xFF
    magnitude = (((code & 0x0F) << 3) + _ULAW_BIAS << (code >> 4 & 7)) - _ULAW_BIAS
    return -magnitude if code & 0x80 else magnitude


def _alaw_byte(sample: int) -> int:
    value, mask = (sample >> 3, 0xD5) if sample >= 0 else (-(sample >> 3) - 1, 0x55)
    segment = next(n for n, end in enumerate(_ALAW_SEGMENT_ENDS) if value <= end)
    return (segment << 4 | (value >> max(segment, 1)) & 0x0F) ^ mask


def _alaw_sample(byte: int) -> int:
    code = byte ^ 0x55
    segment = code >> 4 & 7
    magnitude = (code & 0x0F) << 4
    magnitude = magnitude + 8 if segment == 0 else magnitude + 0x108 << segment - 1
    return magnitude if code & 0x80 else -magnitude


_ULAW_DECODE = np.array([_ulaw_sample(b) for b in range(256)], dtype=np.int16)
_ALAW_DECODE = np.array([_alaw_sample(b) for b in range(256)], dtype=np.int16)
_ULAW_ENCODE = np.array([_ulaw_byte(s) for s in range(-32768, 32768)], dtype=np.uint8)
_ALAW_ENCODE = np.array([_alaw_byte(s) for s in range(-32768, 32768)], dtype=np.uint8)


def ulaw_decode(data: bytes) -> Pcm:
    """mu-law bytes to samples."""
    return _ULAW_DECODE[np.frombuffer(data, dtype=np.uint8)]


def ulaw_encode(samples: Pcm) -> bytes:
    """Samples to mu-law bytes."""
    return _ULAW_ENCODE[samples.astype(np.int32) + 32768].tobytes()


def alaw_decode(data: bytes) -> Pcm:
    """A-law bytes to samples."""
    return _ALAW_DECODE[np.frombuffer(data, dtype=np.uint8)]


def alaw_encode(samples: Pcm) -> bytes:
    """Samples to A-law bytes."""
    return _ALAW_ENCODE[samples.astype(np.int32) + 32768].tobytes()
