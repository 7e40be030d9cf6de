"""Signals to test with, and how far one is from another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import Pcm


def tone(rate: int, seconds: float, hertz: float = 440.0, level: float = 8000.0) -> Pcm:
    t = np.arange(round(rate * seconds)) / rate
    wave: Pcm = np.rint(level * np.sin(2 * np.pi * hertz * t)).astype(np.int16)
    return wave


def speech_like(rate: int, seconds: float, seed: int = 1) -> Pcm:
    """A gliding pitch with harmonics, syllables and a little noise."""
    t = np.arange(round(rate * seconds)) / rate
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.8 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    harmonics = [np.sin(k * phase) / k for k in range(1, int(3000 / 145))]
    envelope = np.clip(np.sin(2 * np.pi * 2.2 * t) + 0.35, 0, 1)
    noise = np.random.default_rng(seed).normal(0, 0.01, t.size)
    wave = np.sum(harmonics, axis=0) * envelope + noise
    scaled: Pcm = np.rint(wave / np.abs(wave).max() * 12000).astype(np.int16)
    return scaled


def snr(reference: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    """Signal to noise in dB."""
    x, y = reference.astype(np.float64), found.astype(np.float64)
    noise = float(np.sum((x - y) ** 2))
    return 200.0 if noise == 0 else 10 * float(np.log10(np.sum(x**2) / noise))


def best_snr(reference: NDArray[np.generic], found: NDArray[np.generic], most: int) -> float:
    """The best SNR over delays of 0 to `most` samples of `found`."""
    size = min(reference.size, found.size) - most
    return max(snr(reference[:size], found[lag : lag + size]) for lag in range(most))
