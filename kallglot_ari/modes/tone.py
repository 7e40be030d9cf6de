"""The tone that tells the parties that they are connected without translation."""

from __future__ import annotations

import numpy as np

from kallglot_ari.audio.codecs.g711 import ulaw_encoder
from kallglot_ari.calls.model import StreamAudio

HERTZ = 880.0
_RATE = 8000


def _beeps() -> StreamAudio:
    """Two of 150 ms, 100 ms apart, at -20 dBFS, with ramps of 5 ms."""
    t = np.arange(round(0.15 * _RATE)) / _RATE
    ramp = np.minimum(1.0, np.minimum(t, t[::-1]) / 0.005)
    beep = (3277 * ramp * np.sin(2 * np.pi * HERTZ * t)).astype(np.int16)
    samples = np.concatenate([beep, np.zeros(round(0.1 * _RATE), np.int16), beep])
    return StreamAudio("mulaw", _RATE, ulaw_encoder().encode(samples))


DIRECT_TONE = _beeps()
