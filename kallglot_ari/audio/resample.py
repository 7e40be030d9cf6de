"""Sample rate conversion, one stream per direction, with as little delay as a telephone call wants.

A windowed-sinc polyphase filter whose state lives on between chunks, so that no edge clicks, and that gives out every sample it can
as soon as it can: it holds back 16 input samples (scaled up when the rate goes down), 2 ms at 8 kHz. libsoxr's stream,
which is the reference of the tests, works in blocks and holds back 42 to 82 ms at these rates; that is more than a leg's whole budget.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import Pcm, silence, to_pcm

_HALF_TAPS = 16
"""Zero crossings of the sinc on each side of the centre."""
_BETA = 7.0
"""Kaiser window: about 70 dB in the stop band."""
_ROLL_OFF = 0.92
"""Where the pass band ends, of the lower Nyquist frequency."""
_FEW = 4
"""Filters up to which each is run over the whole chunk: all rates of telephony to each other."""


@lru_cache(maxsize=32)
def _filter_bank(up: int, down: int) -> NDArray[np.float32]:
    """Shape (up, taps): row p gives the output that lies p/up input samples after an input sample."""
    scale = min(1.0, up / down)
    half = int(np.ceil(_HALF_TAPS / scale))
    cutoff = scale * _ROLL_OFF
    offsets = np.arange(-half + 1, half + 1)[None, :] - (np.arange(up) / up)[:, None]
    window = np.i0(_BETA * np.sqrt(np.clip(1.0 - (offsets / half) ** 2, 0.0, 1.0))) / np.i0(_BETA)
    bank = cutoff * np.sinc(cutoff * offsets) * window
    bank /= bank.sum(axis=1, keepdims=True)
    return bank.astype(np.float32)


class Resampler:
    """A stream from `source_rate` to `target_rate` (Hz). Equal rates pass through untouched."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        for name, rate in (("source_rate", source_rate), ("target_rate", target_rate)):
            if not 4000 <= rate <= 192000:
                raise ValueError(f"{name}: expected 4000 to 192000 Hz, found {rate}")
        common = gcd(source_rate, target_rate)
        self.source_rate = source_rate
        self.target_rate = target_rate
        self._up = target_rate // common
        self._down = source_rate // common
        self._plain = source_rate == target_rate
        self._bank = _filter_bank(self._up, self._down) if not self._plain else np.zeros((1, 2), dtype=np.float32)
        self._half = self._bank.shape[1] // 2
        self.reset()

    @property
    def delay(self) -> float:
        """Seconds of sound held back."""
        return 0.0 if self._plain else self._half / self.source_rate

    def reset(self) -> None:
        """Forget the past: the next chunk begins a new stream."""
        self._held = np.zeros(self._half - 1, dtype=np.float32)
        self._phase = 0  # position of the next output after the first centre tap in `_held`, in 1/up input samples

    def process(self, pcm: Pcm) -> Pcm:
        """Everything that can be said about the output so far; lengths vary by a sample where the ratio is odd."""
        if self._plain:
            return pcm
        x = np.concatenate([self._held, pcm.astype(np.float32)])
        taps = 2 * self._half
        positions = x.size - taps + 1  # places the filter fits
        if positions <= 0:
            self._held = x
            return silence(0)
        count = max(0, -(-(positions * self._up - self._phase) // self._down))
        out = self._few(x, count) if self._up <= _FEW else self._many(x, count)
        self._phase += count * self._down - positions * self._up
        self._held = x[positions:].copy()
        return to_pcm(out)

    def _few(self, x: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        out = np.empty(count, dtype=np.float32)
        for k in range(min(self._up, count)):
            first, part = divmod(self._phase + self._down * k, self._up)
            out[k :: self._up] = np.correlate(x, self._bank[part])[first :: self._down][: -(-(count - k) // self._up)]
        return out

    def _many(self, x: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        whole, part = np.divmod(self._phase + self._down * np.arange(count), self._up)
        windows = np.lib.stride_tricks.sliding_window_view(x, 2 * self._half)
        filtered: NDArray[np.float32] = np.einsum("ij,ij->i", windows[whole], self._bank[part], optimize=False)
        return filtered

    def finish(self) -> Pcm:
        """The end of the stream: what is held back, followed by silence; the resampler is as new afterwards."""
        if self._plain:
            return silence(0)
        tail = self.process(silence(self._half))
        self.reset()
        return tail
