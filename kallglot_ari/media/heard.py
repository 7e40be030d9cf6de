"""Another party's own voice, as one leg hears it: under the translation, or as it is."""

from __future__ import annotations

from collections import deque

import numpy as np

from kallglot_ari.audio.conceal import Concealer
from kallglot_ari.audio.frame import FRAME_MS, Pcm, silence, to_pcm
from kallglot_ari.audio.mix import ramp

_TARGET, _MOST = 2, 5
"""Frames: how many to wait for, and how many at most."""
_DOWN, _UP = 0.25, 0.02
"""By how much the factor of ducking changes a frame: 6 dB take 40 ms down, and half a second up, so that a short pause in speech changes little."""


class HeardVoice:
    """Another leg's own voice, played at a gain. Clocks that differ are made good by overlapping or repeating a frame, never by a cut."""

    def __init__(self, sample_rate: int, gain: float, duck: float = 1.0) -> None:
        self._frame = sample_rate * FRAME_MS // 1000
        self._frames: deque[Pcm] = deque()
        self._rest: Pcm = silence(0)
        self._gain = 0.0
        self._concealer = Concealer(sample_rate)
        self._primed = False
        self._ducked = 1.0
        self.target_gain = gain
        self.duck = duck
        """The factor while speech is played."""

    @property
    def gone(self) -> bool:
        """Faded out for good: nothing more need be put in."""
        return self.target_gain == 0.0 and self._gain == 0.0

    def stop(self) -> None:
        """Nobody listens any more."""
        self.target_gain = self._gain = 0.0

    def put(self, pcm: Pcm) -> None:
        """Samples as they came in, of any length."""
        self._rest = np.concatenate([self._rest, pcm]) if self._rest.size else pcm
        while self._rest.size >= self._frame:
            self._frames.append(self._rest[: self._frame])
            self._rest = self._rest[self._frame :]
        while len(self._frames) > _MOST:
            first, second = self._frames.popleft(), self._frames.popleft()
            weight = np.linspace(0.0, 1.0, self._frame, dtype=np.float32)
            self._frames.appendleft(to_pcm(first * (1.0 - weight) + second * weight))

    def next(self, *, under: bool = False) -> Pcm | None:
        """The next frame at its gain, `under` speech or not; None when there is nothing to hear."""
        before = self._gain * self._ducked
        self._ducked = max(self.duck, self._ducked - _DOWN) if under else min(1.0, self._ducked + _UP)
        if not self._primed:
            if len(self._frames) < _TARGET:
                if self.target_gain == 0.0:  # there is nothing to fade out
                    self._gain = 0.0
                return None
            self._primed = True
        if self._frames:
            pcm = self._concealer.heard(self._frames.popleft())
        else:
            pcm = self._concealer.lost(self._frame)
            self._primed = bool(pcm.any())
        self._gain = self.target_gain
        return ramp(pcm, before, self._gain * self._ducked)
