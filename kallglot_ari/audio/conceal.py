"""Packet loss concealment by pitch repetition, in the manner of ITU-T G.711 Appendix I, at any sample rate.

The last pitch period is repeated, two and then three periods as the loss goes on, so that it does not buzz; 10 ms in, the sound begins to fade
and is gone after 60 ms. Unlike the appendix nothing is delayed by 3.75 ms beforehand: the joins at the start of a loss and where more periods are
repeated are made smooth by a short correction that fades out, the join at its end by an overlap with the first good samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import Pcm, silence, to_pcm

_HISTORY_MS = 48.75
_PITCH_MIN_MS = 5.0
_PITCH_MAX_MS = 15.0
_WINDOW_MS = 20.0
_FULL_MS = 10.0
"""How long the repetition keeps its level (G.711 Appendix I §I.2.7)."""
_GONE_MS = 60.0
"""When it has faded to nothing."""
_JOIN_MS = 4.0


class Concealer:
    """What one decoded stream sounded like lately, and what to say instead when a packet is missing."""

    def __init__(self, sample_rate: int) -> None:
        def samples(ms: float) -> int:
            return round(sample_rate * ms / 1000)

        self._rate = sample_rate
        self._length = samples(_HISTORY_MS)
        self._pitch_min, self._pitch_max = samples(_PITCH_MIN_MS), samples(_PITCH_MAX_MS)
        self._window = samples(_WINDOW_MS)
        self._full, self._gone = samples(_FULL_MS), samples(_GONE_MS)
        self._join = samples(_JOIN_MS)
        self._stride = max(1, sample_rate // 8000)
        self._history: NDArray[np.float32] = np.zeros(self._length, dtype=np.float32)
        self._missing = 0
        self._cycle: NDArray[np.float32] = np.zeros(1, dtype=np.float32)
        self._pitch = self._pitch_min
        self._position = 0
        self._correction = 0.0
        self._joined_at = 0

    @property
    def concealing(self) -> bool:
        """Whether the last samples were invented."""
        return self._missing > 0

    @property
    def faded(self) -> bool:
        """Whether what is invented has faded to silence."""
        return self._missing >= self._gone

    def heard(self, pcm: Pcm) -> Pcm:
        """Good samples. They come back as they are, but for the first 4 ms after a loss, which are joined to it."""
        if self._missing and pcm.size:
            faded_in = self._blend(pcm)
            self._missing = 0
            self._remember(faded_in)
            return faded_in
        self._remember(pcm)
        return pcm

    def lost(self, samples: int) -> Pcm:
        """`samples` of substitute sound; silence 60 ms into a loss."""
        if samples <= 0:
            return silence(0)
        pcm = to_pcm(self._extrapolate(samples))
        self._remember(pcm)
        return pcm

    def _blend(self, pcm: Pcm) -> Pcm:
        # The longer the loss, the longer the overlap, up to a quarter more (Appendix I §I.2.8: 4 ms more per 10 ms, up to 10 ms).
        extra = self._join * self._missing // self._full
        overlap = min(pcm.size, self._join + min(extra, self._join * 3 // 2))
        invented = self._extrapolate(overlap)
        weight = np.arange(overlap, dtype=np.float32) / np.float32(overlap)
        out = pcm.copy()
        out[:overlap] = to_pcm(pcm[:overlap] * weight + invented * (1.0 - weight))
        return out

    def _remember(self, pcm: Pcm) -> None:
        if pcm.size >= self._length:
            self._history = pcm[-self._length :].astype(np.float32)
        elif pcm.size:
            self._history = np.concatenate([self._history[pcm.size :], pcm.astype(np.float32)])

    def _extrapolate(self, samples: int) -> NDArray[np.float32]:
        """The next `samples` of repetition, with its fade; moves on in the loss, until all has faded."""
        out = np.zeros(samples, dtype=np.float32)
        done = 0
        while done < samples and self._missing < self._gone:
            if self._missing == 0:
                self._begin()
            elif self._missing in (self._full, 2 * self._full):
                self._lengthen(1 + self._missing // self._full)
            until = next(edge for edge in (self._full, 2 * self._full, self._gone) if edge > self._missing)
            take = min(samples - done, until - self._missing)
            index = (self._position + np.arange(take)) % self._cycle.size
            out[done : done + take] = self._cycle[index]
            age = self._missing + np.arange(take, dtype=np.float32)
            if self._correction and self._missing < self._joined_at + self._join:
                out[done : done + take] += self._correction * np.maximum(
                    0.0, 1.0 - (age - self._joined_at) / self._join
                )
            if until != self._full:
                out[done : done + take] *= (self._gone - age) / np.float32(self._gone - self._full)
            self._position = (self._position + take) % self._cycle.size
            self._missing += take
            done += take
        return out

    def _begin(self) -> None:
        self._past = self._history
        self._pitch = self._find_pitch(self._past)
        self._cycle = self._make_cycle(1)
        self._position = 0
        # Where the pitch is right, the sample one period ago is what comes next; what is missing to that fades out.
        self._correction = float(self._past[-1] - self._past[-1 - self._pitch])
        self._joined_at = 0

    def _lengthen(self, periods: int) -> None:
        """Go on from the same phase with more periods, so that the repetition does not buzz."""
        phase = self._position % self._pitch
        last = self._cycle[self._position - 1]
        self._cycle = self._make_cycle(periods)
        self._position = phase
        self._correction = float(last - self._cycle[phase - 1])
        self._joined_at = self._missing

    def _make_cycle(self, periods: int) -> NDArray[np.float32]:
        """The last `periods` pitch periods, their end blended into what came before their start (§I.2.5)."""
        size = self._pitch * periods
        quarter = max(1, self._pitch // 4)
        if size + quarter > self._past.size:
            size = (self._past.size - quarter) // self._pitch * self._pitch
        cycle = self._past[-size:].copy()
        weight = np.arange(quarter, dtype=np.float32) / np.float32(quarter)
        before = self._past[-size - quarter : -size]
        cycle[-quarter:] = cycle[-quarter:] * (1.0 - weight) + before * weight
        return cycle

    def _find_pitch(self, past: NDArray[np.float32]) -> int:
        """The lag, in samples, at which the last 20 ms resemble what came before (normalised cross-correlation, §I.2.4).

        At higher rates first on every second, third … sample, then finely around the best.
        """
        coarse = self._best_lag(past, range(self._pitch_min, self._pitch_max + 1, self._stride), self._stride)
        if self._stride == 1:
            return coarse
        low = max(self._pitch_min, coarse - self._stride + 1)
        high = min(self._pitch_max, coarse + self._stride - 1)
        return self._best_lag(past, range(low, high + 1), 1)

    def _best_lag(self, past: NDArray[np.float32], lags: range, stride: int) -> int:
        last = past[-self._window :: stride]
        heard = past[past.size - self._window - lags[-1] : past.size - lags[0] : stride]
        sums = np.concatenate([[0.0], np.cumsum(heard * heard, dtype=np.float64)])
        energy = sums[last.size :] - sums[: -last.size]
        score = np.correlate(heard, last, "valid") / np.sqrt(np.maximum(energy, 1.0))
        return lags[int(np.argmax(score[::-1]))]
