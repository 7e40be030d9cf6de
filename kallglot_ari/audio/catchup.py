"""Catching up with speech that waits too long: pauses are shortened first, then single pitch periods are left out, so that the pitch stays.

This is waveform similarity overlap-add (Verhelst and Roelands, ICASSP 1993) as one cut at a time. Nothing is kept back between frames: what is
given out is the head of what waits, as it is or with a piece left out whose ends are blended. So catching up begins and ends at any frame,
adds no delay, and what lies between two cuts stays as it came, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import Pcm, frame_samples, to_pcm

FASTEST = 1.15
"""How many times faster than spoken, at most; faster than that is no longer understood without effort."""
PAUSES_FROM, FASTER_FROM = 1 / 2, 2 / 3
"""Of the bound: from here on pauses are shortened, and from here on speech is faster, evenly up to `FASTEST` at the bound itself."""
PAUSE_FRAMES = 5
"""Of a pause, 100 ms are kept."""
PAUSE_AHEAD = 50
"""Frames of a pause left out at once, at most."""
_QUIET_DBFS = -50.0
"""A frame below this is a pause; a word's last sound lies above."""
_LEAST_MS, _MOST_MS = 2.5, 15.0
"""Length of a cut: a period of 400 Hz to one of 67 Hz."""
_BLEND_MS = 10.0
ALIKE = 0.7
"""Correlation of the ends of a good cut. Where there is none, a better place is looked for, but not for ever."""


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """What is counted in, of one sample rate; lengths in samples."""

    frame: int
    least: int
    most: int
    """Of a cut, as `least`."""
    blend: int
    fade: NDArray[np.float32]
    """How a blend goes over, `blend` weights."""
    across: NDArray[np.float32]
    """The same over a whole frame."""
    quiet: float
    """The sum of squares below which a frame is a pause."""


@cache
def measures(sample_rate: int) -> Measures:
    frame, blend = frame_samples(sample_rate), round(sample_rate * _BLEND_MS / 1000)
    return Measures(
        frame=frame,
        least=round(sample_rate * _LEAST_MS / 1000),
        most=round(sample_rate * _MOST_MS / 1000),
        blend=blend,
        fade=np.linspace(0.0, 1.0, blend, endpoint=False, dtype=np.float32),
        across=np.linspace(0.0, 1.0, frame, endpoint=False, dtype=np.float32),
        quiet=frame * 32768.0**2 * 10 ** (_QUIET_DBFS / 10),
    )


def speed(lag: float, bound: float) -> float | None:
    """How many times faster speech that is `lag` seconds behind is to be played, so that it stays within `bound` seconds.

    1: only its pauses are shortened; None: as it came.
    """
    share = lag / bound
    if share <= PAUSES_FROM:
        return None
    return 1.0 + (FASTEST - 1.0) * min(1.0, max(0.0, share - FASTER_FROM) / (1.0 - FASTER_FROM))


class CatchUp:
    """What of one speaker's speech is given out next while it is behind.

    Sums are of whole numbers and exact as 64-bit floats in any order, so that machine code (`media/hurry.h`) comes to the same.
    """

    def __init__(self, sample_rate: int) -> None:
        self._measures = measures(sample_rate)
        self._pause = 0
        """Frames of this pause that were given out."""
        self._owed = 0.0
        """Samples that should have been left out by now."""

    @property
    def ahead(self) -> int:
        """Samples of what waits that `next` wants to see; it makes do with less, from one frame on."""
        m = self._measures
        return m.frame * PAUSE_AHEAD if self._pause >= PAUSE_FRAMES else m.frame + m.most

    def rest(self) -> None:
        """Something was given out as it came, without `next`: a pause begins anew."""
        self._pause = 0

    def next(self, waiting: Pcm, speed: float) -> tuple[Pcm, int]:
        """The next frame, and of how many samples of `waiting` it takes the place; `speed` 1: only pauses are shortened."""
        m = self._measures
        frame = waiting[: m.frame]
        x = frame.astype(np.float64)
        if x @ x < m.quiet:
            self._pause += 1
            if self._pause > PAUSE_FRAMES:
                return self._shorten(waiting)
            return frame, m.frame
        self._pause = 0
        if speed <= 1.0:
            self._owed = 0.0
            return frame, m.frame
        self._owed = min(self._owed + m.frame * (speed - 1.0), 2.0 * m.most)
        if self._owed < m.most or waiting.size < m.frame + m.most:
            return frame, m.frame
        return self._cut(waiting)

    def _shorten(self, waiting: Pcm) -> tuple[Pcm, int]:
        """All that waits of the pause as one frame, which begins as its first and ends as its last."""
        m = self._measures
        frames = waiting[: waiting.size // m.frame * m.frame].reshape(-1, m.frame)
        x = frames.astype(np.float64)
        quiet = np.einsum("ij,ij->i", x, x) < m.quiet
        run = int(np.argmin(quiet)) if not quiet.all() else len(quiet)
        if run < 2:
            return waiting[: m.frame], m.frame
        return to_pcm(frames[0] * (1.0 - m.across) + frames[run - 1] * m.across), run * m.frame

    def _cut(self, waiting: Pcm) -> tuple[Pcm, int]:
        """The frame with a piece after its first sample left out: the one whose end looks most like its beginning."""
        m = self._measures
        x = waiting[: m.frame + m.most].astype(np.float64)
        begin, ends = x[: m.blend], x[m.least : m.most + m.blend]
        sums = np.concatenate([[0.0], np.cumsum(ends * ends)])
        energy = (sums[m.blend :] - sums[: -m.blend]) * (begin @ begin)
        alike = np.correlate(ends, begin, "valid") / np.sqrt(np.maximum(energy, 1.0))
        best = int(np.argmax(alike))
        if alike[best] < ALIKE and self._owed < 2.0 * m.most:
            return waiting[: m.frame], m.frame
        size = m.least + best
        self._owed -= size
        out = waiting[size : size + m.frame].astype(np.float32)
        out[: m.blend] = waiting[: m.blend] * (1.0 - m.fade) + out[: m.blend] * m.fade
        return to_pcm(out), m.frame + size
