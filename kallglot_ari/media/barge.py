"""Barge-in: somebody begins to speak while they are spoken to, and what waits to be played to them is dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kallglot_ari.audio.codecs import registry
from kallglot_ari.media.legs import Legs

LOUD_DBFS = -36.0
"""A frame at least as loud as this may be speech; what comes over a telephone line at rest lies below -50."""
ONSET_FRAMES = 2
"""Loud frames of 20 ms, one after the other, that are the beginning of speech and no click."""
QUIET_FRAMES = 10
"""Quiet frames before: who has been speaking for a while interrupts nobody."""


@dataclass(slots=True)
class _Ear:
    clock: int
    quiet: int = QUIET_FRAMES
    loud: int = 0


class BargeIn:
    """Listens to the uplink of the legs it was asked to watch."""

    def __init__(self, encoding: str, frame_bytes: int) -> None:
        self._encoding = encoding
        self._frame = frame_bytes
        self._ears: dict[int, _Ear] = {}
        self._least = 32768.0**2 * 10 ** (LOUD_DBFS / 10)

    def watch(self, legs: Legs, row: int, on: bool) -> None:
        if on:
            self._ears[row] = _Ear(int(legs.clock[row]))
        else:
            self.forget(row)

    def forget(self, row: int) -> None:
        self._ears.pop(row, None)

    def begun(self, legs: Legs) -> list[int]:
        """Rows whose party has begun to speak since the last look, which may come every tick."""
        found = []
        for row, ear in self._ears.items():
            clock = int(legs.clock[row])
            frames = (clock - ear.clock) // self._frame
            if not frames:
                continue
            ear.clock += frames * self._frame
            if not legs.paused[row] and self._hears(legs, row, ear, frames):
                found.append(row)
        return found

    def _hears(self, legs: Legs, row: int, ear: _Ear, frames: int) -> bool:
        ring = legs.uplink[row].reshape(-1, self._frame)
        last = int(legs.fill[row]) // self._frame
        begun = False
        for back in range(min(frames, len(ring)), 0, -1):
            pcm = registry.stream_to_pcm(self._encoding, ring[(last - back) % len(ring)].tobytes()).astype(np.float32)
            if float(pcm @ pcm) / pcm.size < self._least:
                ear.loud = 0
                ear.quiet += 1
                continue
            ear.loud += 1
            if ear.loud == ONSET_FRAMES:
                begun = begun or ear.quiet >= QUIET_FRAMES
                ear.quiet = 0
        return begun
