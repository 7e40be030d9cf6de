"""How loud: levels relative to a full-scale sine's peak."""

from __future__ import annotations

from math import log10

import numpy as np

from kallglot_ari.audio.frame import Pcm

FLOOR_DBFS = -96.0
"""What silence is called: below the smallest 16-bit step."""


def dbfs(pcm: Pcm) -> float:
    """RMS level in dB relative to full scale (32768), not below `FLOOR_DBFS`; a full-scale sine is -3 dBFS."""
    if pcm.size == 0:
        return FLOOR_DBFS
    x = pcm.astype(np.float32)
    power = float(np.dot(x, x)) / pcm.size
    return max(FLOOR_DBFS, 10.0 * log10(power / 32768.0**2)) if power > 0.0 else FLOOR_DBFS


def gain(db: float) -> float:
    """The factor of `db` decibels."""
    return float(10.0 ** (db / 20.0))
