"""Catching up with speech that waits too long: pauses are shortened first, then single pitch periods are left out, so that the pitch stays.

This is waveform similarity overlap-add (Verhelst and Roelands, ICASSP 1993) as one cut at a time. Nothing is kept back between frames: what is
given out is the head of what waits, as it is or with a piece left out whose ends are blended. So catching up begins and ends at any frame,
adds no delay, and what lies between two cuts stays as it came, bit for bit.
"""

from __future__ import annotations

import numpy as np

from kallglot_ari.audio.frame import Pcm, frame_samples, to_pcm

FASTEST = 1.15
"""How many times faster than spoken, at most; faster than that is no longer understood without effort."""
PAUSES_FROM, FASTER_FROM = 1 / 2, 2 / 3
"""Of the bound: from here on pauses are shortened, and from here on speech is faster, evenly up to `FASTEST` at the bound itself."""
_PAUSE_FRAMES = 5
"""Of a pause, 100 ms are kept."""
_PAUSE_AHEAD = 50
"""Frames of a pause left out at once, at most."""
_QUIET_DBFS = -50.0
"""A frame below this is a pause; a word's last sound lies above."""
_LEAST_MS, _MOST_MS = 2.5, 15.0
"""Length of a cut: a period of 400 Hz to one of 67 Hz."""
_BLEND_MS = 10.0
_ALIKE = 0.7
"""Correlation of the ends of a good cut. Where there is none, a better place is looked for, but not for ever."""


def speed(lag: float, bound: float) -> float | None:
    """How many times faster speech that is `lag` seconds behind is to be played, so that it stays within `bound` seconds.

    1: only its pauses are shortened; None: as it came.
    """
    share = lag / bound
    if share <= PAUSES_FROM:
        return None
    return 1.0 + (FASTEST - 1.0) * min(1.0, max(0.0, share - FASTER_FROM) / (1.0 - FASTER_FROM))


class CatchUp:
    """What of one speaker's speech is given out next while it is behind."""

    def __init__(self, sample_rate: int) -> None:
        self._frame = frame_samples(sample_rate)
        self._least = round(sample_rate * _LEAST_MS / 1000)
        self._most = round(sample_rate * _MOST_MS / 1000)
        self._blend = round(sample_rate * _BLEND_MS / 1000)
        self._fade = np.linspace(0.0, 1.0, self._blend, endpoint=False, dtype=np.float32)
        self._across = np.linspace(0.0, 1.0, self._frame, endpoint=False, dtype=np.float32)
        self._quiet = self._frame * 32768.0**2 * 10 ** (_QUIET_DBFS / 10)
        self._pause = 0
        """Frames of this pause that were given out."""
        self._owed = 0.0
        """Samples that should have been left out by now."""

    @property
    def ahead(self) -> int:
        """Samples of what waits that `next` wants to see; it makes do with less, from one frame on."""
        return self._frame * _PAUSE_AHEAD if self._pause >= _PAUSE_FRAMES else self._frame + self._most

    def next(self, waiting: Pcm, speed: float) -> tuple[Pcm, int]:
        """The next frame, and of how many samples of `waiting` it takes the place; `speed` 1: only pauses are shortened."""
        frame = waiting[: self._frame]
        if self._is_quiet(frame):
            self._pause += 1
            if self._pause > _PAUSE_FRAMES:
                return self._shorten(waiting)
            return frame, self._frame
        self._pause = 0
        if speed <= 1.0:
            self._owed = 0.0
            return frame, self._frame
        self._owed = min(self._owed + self._frame * (speed - 1.0), 2.0 * self._most)
        if self._owed < self._most or waiting.size < self._frame + self._most:
            return frame, self._frame
        return self._cut(waiting)

    def _is_quiet(self, frame: Pcm) -> bool:
        x = frame.astype(np.float32)
        return float(x @ x) < self._quiet

    def _shorten(self, waiting: Pcm) -> tuple[Pcm, int]:
        """All that waits of the pause as one frame, which begins as its first and ends as its last."""
        frames = waiting[: waiting.size // self._frame * self._frame].reshape(-1, self._frame).astype(np.float32)
        quiet = np.einsum("ij,ij->i", frames, frames) < self._quiet
        run = int(np.argmin(quiet)) if not quiet.all() else len(quiet)
        if run < 2:
            return waiting[: self._frame], self._frame
        return to_pcm(frames[0] * (1.0 - self._across) + frames[run - 1] * self._across), run * self._frame

    def _cut(self, waiting: Pcm) -> tuple[Pcm, int]:
        """The frame with a piece after its first sample left out: the one whose end looks most like its beginning."""
        x = waiting[: self._frame + self._most].astype(np.float32)
        begin = x[: self._blend]
        ends = np.lib.stride_tricks.sliding_window_view(x[self._least : self._most + self._blend], self._blend)
        energy = np.einsum("ij,ij->i", ends, ends) * float(begin @ begin)
        alike = (ends @ begin) / np.sqrt(np.maximum(energy, 1.0))
        best = int(np.argmax(alike))
        if alike[best] < _ALIKE and self._owed < 2.0 * self._most:
            return waiting[: self._frame], self._frame
        size = self._least + best
        self._owed -= size
        out = x[size : size + self._frame].copy()
        out[: self._blend] = begin * (1.0 - self._fade) + out[: self._blend] * self._fade
        return to_pcm(out), self._frame + size
