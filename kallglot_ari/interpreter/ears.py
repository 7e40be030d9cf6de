"""From a stream of samples to turns with their sound: voice activity, the turn detector and a short memory. No event loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.interpreter.protocols import Sound, VoiceActivity
from kallglot_ari.interpreter.turns import WINDOW_MS, Kind, TurnDetector, TurnEvent

BEFORE = 10
"""Windows kept before a turn's first: the soft beginning of a word is no speech to the detector yet."""
AFTER = 6
"""Windows of silence kept after its last."""
GAP_MS = 60
"""A jump in the stream's time from which sound is missing..."""
GAP_MAX_MS = 1000
"""...and the most silence that is put in its place."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A turn event with the turn's sound so far (PAUSED) or in whole (ENDED)."""

    kind: Kind
    sound: Sound | None = None
    silence_ms: int = 0
    last: int = 0
    """One past the last window of speech: equal numbers mean equal speech."""


class Ears:
    """One speaker's. `rate` is 8000 or 16000 Hz."""

    def __init__(self, activity: VoiceActivity, rate: int) -> None:
        self._activity = activity
        self._rate = rate
        self.detector = TurnDetector()
        self._rest: Pcm = silence(0)
        self._windows: list[Pcm] = []
        self._first = 0  # number of the window at _windows[0]
        self._start = 0

    @property
    def rate(self) -> int:
        return self._rate

    @property
    def said_ms(self) -> int:
        """How long the turn that is under way has been so far."""
        return (self._first + len(self._windows) - self._start) * WINDOW_MS if self.detector.open else 0

    def so_far(self) -> Sound:
        """The turn that is under way."""
        return self._sound(self._start, self._first + len(self._windows))

    def missing(self, milliseconds: int) -> list[Heard]:
        """Sound is missing: silence takes its place."""
        return self.hear(silence(min(milliseconds, GAP_MAX_MS) * self._rate // 1000))

    def hear(self, pcm: Pcm) -> list[Heard]:
        """Take the next samples, of any length."""
        size = self._activity.window
        samples = np.concatenate([self._rest, pcm])
        whole = samples.size // size * size
        self._rest = samples[whole:]
        heard: list[Heard] = []
        for window in samples[:whole].reshape(-1, size):
            self._windows.append(window)
            probability = self._activity.probability(window.astype(np.float32) / np.float32(32768))
            heard += [self._heard(event) for event in self.detector.step(probability)]
        if not self.detector.open:
            self._forget(self._first + len(self._windows) - BEFORE)
        return heard

    def flush(self) -> list[Heard]:
        """No more sound comes for now."""
        return [self._heard(event) for event in self.detector.flush()]

    def _heard(self, event: TurnEvent) -> Heard:
        if event.kind is Kind.STARTED:
            self._start = max(self._first, event.window - BEFORE)
            return Heard(event.kind)
        sound = self._sound(self._start, event.window + AFTER)
        if event.kind is Kind.ENDED:
            self._forget(event.window)
        return Heard(event.kind, sound, event.silence_ms, event.window)

    def _sound(self, start: int, end: int) -> Sound:
        windows = self._windows[max(0, start - self._first) : max(0, end - self._first)]
        return Sound(np.concatenate(windows) if windows else silence(0), self._rate)

    def _forget(self, before: int) -> None:
        drop = min(max(0, before - self._first), len(self._windows))
        del self._windows[:drop]
        self._first += drop
