"""The form sound has inside: mono, signed 16-bit, native byte order, one numpy array."""

from __future__ import annotations

import sys
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.errors import MediaError

FRAME_MS = 20
"""Packet time of every leg, in milliseconds."""

Pcm: TypeAlias = NDArray[np.int16]
"""Samples: shape (n,), mono."""

FULL_SCALE = 32767


def frame_samples(sample_rate: int) -> int:
    """Samples of one 20 ms frame at `sample_rate` Hz."""
    return sample_rate * FRAME_MS // 1000


def silence(samples: int) -> Pcm:
    """`samples` zeros."""
    return np.zeros(samples, dtype=np.int16)


def from_little_endian(data: bytes) -> Pcm:
    """Signed 16-bit little-endian bytes, as the stream carries PCM.

    :raises MediaError: when half a sample is left over.
    """
    if len(data) % 2:
        raise MediaError(f"16-bit PCM: expected an even number of bytes, found {len(data)}")
    pcm = np.frombuffer(data, dtype="<i2")
    return pcm if sys.byteorder == "little" else pcm.astype(np.int16)


def to_little_endian(pcm: Pcm) -> bytes:
    """The opposite of `from_little_endian`."""
    return pcm.astype("<i2", copy=False).tobytes()


def to_pcm(samples: NDArray[np.float32] | NDArray[np.float64]) -> Pcm:
    """Floats in units of one 16-bit step, rounded and held within 16 bits."""
    return np.rint(samples).clip(-32768, 32767).astype(np.int16)
