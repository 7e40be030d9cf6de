"""Several voices into one without clipping, and ramps that do not click."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import FULL_SCALE, Pcm, to_pcm

KNEE = 0.8 * FULL_SCALE
"""Below this a sample is left as it is; above it bends towards full scale and never reaches past it."""
ATTACK_MS = 5
"""Within which the gain of a sum that is too loud steps back."""
RECOVERY = 0.02
"""By how much that gain rises again in a frame."""


def ramp(pcm: Pcm, start: float, end: float) -> Pcm:
    """`pcm` with a gain that goes evenly from `start` to `end` over its length."""
    if start == end == 1.0:
        return pcm
    return to_pcm(pcm.astype(np.float32) * np.linspace(start, end, pcm.size, dtype=np.float32))


def cross_fade(before: Pcm, after: Pcm) -> Pcm:
    """From one into the other, evenly over their length, which is the same."""
    weight = np.arange(before.size, dtype=np.float32) / np.float32(max(1, before.size))
    return to_pcm(before * (1.0 - weight) + after * weight)


def saturate(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """A soft knee: the identity up to 80 % of full scale, then a smooth bend (its slope starts at 1, ends at 0)."""
    over = np.abs(samples) - KNEE
    if not bool((over > 0).any()):
        return samples
    room = FULL_SCALE - KNEE
    share = np.maximum(over, 0.0) / room
    bent = KNEE + room * (share / np.sqrt(1.0 + share * share))
    return np.where(over > 0, np.copysign(bent, samples), samples).astype(np.float32)


class Mixer:
    """Adds voices of one leg. Where the sum is too loud the gain steps back over 5 ms and recovers over a second."""

    def __init__(self, sample_rate: int) -> None:
        self._attack = max(1, sample_rate * ATTACK_MS // 1000)
        self._gain = 1.0

    @property
    def gain(self) -> float:
        """The gain the last frame ended with; 1 when nothing had to give way."""
        return self._gain

    def rest(self) -> None:
        """Nobody says anything: who speaks next gets the whole gain."""
        self._gain = 1.0

    def mix(self, voices: Sequence[Pcm]) -> Pcm:
        """The sum of `voices`, all of one length.

        One voice at full gain is returned as it is, bit for bit. :raises ValueError: when the lengths differ.
        """
        if not voices:
            raise ValueError("expected at least one voice, found none")
        sizes = {voice.size for voice in voices}
        if len(sizes) != 1:
            raise ValueError(f"expected voices of one length, found {sorted(sizes)}")
        if len(voices) == 1 and self._gain == 1.0:
            return voices[0]
        total: NDArray[np.float32] = np.stack(voices).astype(np.float32).sum(axis=0)
        peak = float(np.abs(total).max(initial=0.0))
        wanted = min(1.0, self._gain + RECOVERY, KNEE / peak if peak else 1.0)
        if wanted != 1.0 or self._gain != 1.0:
            curve = np.full(total.size, wanted, dtype=np.float32)
            attack = min(self._attack, total.size)
            curve[:attack] = np.linspace(self._gain, wanted, attack, dtype=np.float32)
            total = total * curve
            self._gain = wanted
        return to_pcm(saturate(total))
