"""Translation that comes faster than it can be heard: how far it falls behind, and what is left of it. In made-up time."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from kallglot_ari.audio.codecs import g711
from kallglot_ari.audio.frame import Pcm, silence
from tests.audio.signals import speech_like
from tests.audio_checks import tone
from tests.media.simulated import Simulation

BOUND = 2.0
PIECE = 0.1
TONES = (431.0, 601.0, 797.0, 967.0, 1153.0, 1747.0)
SOUNDS = 0.7
"""Seconds of each tone."""


def ulaw(pcm: Pcm) -> bytes:
    return g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes()


class Listener:
    """One leg, fed by a stream."""

    def __init__(self, **settings: object) -> None:
        self.simulation = Simulation(1, lag_max_ms=int(BOUND * 1000), **settings)
        self.lags: list[float] = []
        self.simulation.run(0.1)

    def says(self, pcm: Pcm, pace: float, source: str = "x") -> None:
        """Pieces of 100 ms, `pace` times faster than real time."""
        size = int(PIECE * 8000)
        start = self.simulation.now
        for number, at in enumerate(range(0, pcm.size, size)):
            self.run(start + number * PIECE / pace)
            self.play(pcm[at : at + size], source)

    def play(self, pcm: Pcm, source: str = "x") -> None:
        now = self.simulation.now
        self.simulation.command("play", 0, source, "mulaw", 8000, ulaw(pcm), now)

    def run(self, until: float) -> None:
        while self.simulation.now < until - 1e-6:
            self.simulation.run(min(until, self.simulation.now + 0.1))
            self.lags.append(self.simulation.quality(0).lag_ms / 1000)

    def rest(self) -> Pcm:
        """Until nothing waits; everything that was heard."""
        self.run(self.simulation.now + 0.3)
        while self.simulation.quality(0).backlog_ms:
            self.run(self.simulation.now + 0.5)
        return self.simulation.heard(0)


def tunes(seconds: float) -> tuple[Pcm, list[float]]:
    """One tone after the other, without a pause, and which."""
    order = [TONES[number % len(TONES)] for number in range(round(seconds / SOUNDS))]
    return np.concatenate([tone(hz, SOUNDS, 8000) for hz in order]), order


def loudest(pcm: Pcm) -> list[float]:
    """Which of `TONES` is heard in each 20 ms; 0 for none."""
    blocks = pcm[: pcm.size // 160 * 160].reshape(-1, 160).astype(float) * np.hanning(160)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(160), TONES) / 8000)
    power = np.abs(blocks @ waves) ** 2
    share = power.max(axis=1) / np.maximum(1.0, (blocks**2).sum(axis=1) * (np.hanning(160) ** 2).sum() / 2)
    return [TONES[best] if much > 0.5 else 0.0 for best, much in zip(power.argmax(axis=1).tolist(), share, strict=True)]


def test_a_tenth_too_fast_for_a_minute_stays_within_its_bound_and_is_understood() -> None:
    listener = Listener()
    said, order = tunes(66)
    listener.says(said, 1.1)
    heard = listener.rest()
    print(f"the most it was behind: {max(listener.lags):.2f} s")
    assert 1.0 < max(listener.lags) < BOUND
    found = [hz for hz, run in groupby(loudest(heard)) if hz and len(list(run)) > 3]
    assert found == order
    first, last = np.flatnonzero(np.abs(heard) > 500)[[0, -1]]
    speech = heard[first : last + 1]
    assert said.size / 1.15 < speech.size < said.size
    blocks = speech[: speech.size // 160 * 160].reshape(-1, 160).astype(float)
    loudness = np.sqrt((blocks**2).mean(axis=1))
    assert loudness.min() > 0.6 * np.median(loudness), "unbroken"
