"""The measures themselves: each passes a good signal and fails on each fault it is there for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import audio_checks as ac
from tests.double import g711

RATES = (8000, 16000, 48000)


def steady(rate: int, seconds: float = 2.0, freq: float = ac.TONE_HZ) -> ac.Pcm:
    return ac.tone(freq, seconds, rate)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("freq", [987.0, ac.TONE_HZ, 1713.0])
def test_a_good_tone_passes(rate: int, freq: float) -> None:
    pcm = np.concatenate([ac.silence(0.5, rate), steady(rate, 2.0, freq), ac.silence(0.3, rate)])
    report = ac.assert_steady_tone(pcm, rate, freq, 1.99)
    assert report.start == pytest.approx(0.5, abs=0.001)
    assert report.seconds == pytest.approx(2.0, abs=0.002)
    assert report.frequency == pytest.approx(freq, abs=0.05)
    assert report.level_dbfs == pytest.approx(-12, abs=0.2)


def test_codecs_noise_drift_and_ramps_pass() -> None:
    pcm = steady(8000)
    ac.assert_steady_tone(g711.ulaw_decode(g711.ulaw_encode(pcm)), 8000, ac.TONE_HZ, 1.99)
    noise = np.random.default_rng(1).normal(0, 100, len(pcm)).astype(np.int16)
    ac.assert_steady_tone(pcm + noise, 8000, ac.TONE_HZ, 1.99)
    ac.assert_steady_tone(steady(8000, freq=ac.TONE_HZ * 1.0005), 8000, ac.TONE_HZ, 1.99)
    ramp = (np.minimum(np.arange(len(pcm)) / 160, 1) * pcm).astype(np.int16)
    ac.assert_steady_tone(ramp, 8000, ac.TONE_HZ, 1.95)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("at", [0.3, 0.7013, 1.5])
def test_each_fault_fails(rate: int, at: float) -> None:
    good, n = steady(rate), round(at * rate)
    hole = good.copy()
    hole[n : n + round(0.005 * rate)] = 0
    with pytest.raises(AssertionError, match=r"hole of (4\.[5-9]|5\.\d) ms"):
        ac.assert_steady_tone(hole, rate, ac.TONE_HZ, 1.9)
    click = good.copy()
    click[n] = np.clip(int(click[n]) + 6000, -32768, 32767)
    with pytest.raises(AssertionError, match="click of"):
        ac.assert_steady_tone(click, rate, ac.TONE_HZ, 1.9)
    jump = np.concatenate([good[:n], ac.tone(ac.TONE_HZ, 1, rate, phase=2 * np.pi * ac.TONE_HZ * n / rate + 0.8)])
    with pytest.raises(AssertionError, match=r"phase jumps by 4\d°"):
        ac.assert_steady_tone(jump, rate, ac.TONE_HZ, 1.2)
    frame = round(0.02 * rate)
    repeat = np.concatenate([good[:n], good[n - frame :]])
    with pytest.raises(AssertionError, match="phase jumps"):
        ac.assert_steady_tone(repeat, rate, ac.TONE_HZ, 1.9)
    lost = np.concatenate([good[:n], good[n + frame :]])
    with pytest.raises(AssertionError, match="phase jumps"):
        ac.assert_steady_tone(lost, rate, ac.TONE_HZ, 1.9)


def test_a_lost_or_doubled_sample_fails() -> None:
    good = steady(8000)
    for bad in (np.delete(good, 8000), np.insert(good, 8000, good[8000])):
        with pytest.raises(AssertionError, match="phase jumps"):
            ac.assert_steady_tone(bad, 8000, ac.TONE_HZ, 1.9)


def test_a_short_hole_passes_and_counts() -> None:
    good = steady(16000)
    good[16000 : 16000 + 48] = 0
    report = ac.assert_steady_tone(good, 16000, ac.TONE_HZ, 1.9)
    assert [round(ms) for _, ms in report.holes] == [3]


def test_too_short_missing_wrong_and_unusable_tones() -> None:
    with pytest.raises(AssertionError, match=r"it lasts 1\.0"):
        ac.assert_steady_tone(steady(8000, 1), 8000, ac.TONE_HZ, 1.5)
    for nothing in (ac.silence(1, 8000), ac.silence(0, 8000), steady(8000, 0.001)):
        with pytest.raises(AssertionError, match="found none"):
            ac.assert_steady_tone(nothing, 8000, ac.TONE_HZ, 1)
    with pytest.raises(AssertionError):
        ac.assert_steady_tone(steady(8000, freq=1100), 8000, ac.TONE_HZ, 1)
    noise = np.random.default_rng(2).normal(0, 8000, 16000).clip(-32768, 32767).astype(np.int16)
    with pytest.raises(AssertionError):
        ac.assert_steady_tone(noise, 8000, ac.TONE_HZ, 1)
    with pytest.raises(ValueError, match="invisible"):
        ac.assert_steady_tone(steady(8000, freq=1000), 8000, 1000, 1)
    with pytest.raises(ValueError, match="too low"):
        ac.assert_steady_tone(steady(8000, freq=212), 8000, 212, 1)


def test_presence_and_goertzel() -> None:
    pcm = np.concatenate([steady(8000, 0.1), ac.silence(0.1, 8000), ac.tone(2000, 0.1, 8000)])
    assert (ac.tone_presence(pcm, 8000, ac.TONE_HZ) > 0.9).tolist() == [True] * 5 + [False] * 10
    assert ac.goertzel(steady(8000, 1), 8000, ac.TONE_HZ) == pytest.approx(10 ** (-12 / 20), rel=0.01)
    assert ac.goertzel(steady(8000, 1), 8000, 2000) < 0.001


def test_levels_and_frequency() -> None:
    assert ac.level_dbfs(steady(8000)) == pytest.approx(-15.01, abs=0.02)
    assert ac.level_dbfs(ac.silence(1, 8000)) == ac.level_dbfs(ac.silence(0, 8000)) == -120
    assert ac.dominant_frequency(ac.tone(1234.5, 1, 16000), 16000) == pytest.approx(1234.5, abs=0.05)
    with pytest.raises(ValueError, match="silence"):
        ac.dominant_frequency(ac.silence(1, 8000), 8000)


@pytest.mark.parametrize("offset", [-400, 0, 1, 1234])
def test_alignment(offset: int) -> None:
    reference = ac.chirp(300, 3000, 1, 8000)
    signal = reference[-offset:] if offset < 0 else np.concatenate([ac.silence(offset / 8000, 8000), reference])
    found, likeness = ac.align(reference, signal)
    assert found == offset
    assert likeness > 0.97
    assert ac.align(reference, ac.chirp(3000, 300, 1, 8000))[1] < 0.5


def test_segmental_snr() -> None:
    pcm = ac.chirp(300, 3000, 1, 8000)
    assert ac.segmental_snr(pcm, pcm, 8000) == 35
    noise = np.random.default_rng(3).normal(0, 582, len(pcm)).astype(np.int16)  # 20 dB under the chirp
    assert ac.segmental_snr(pcm, pcm + noise, 8000) == pytest.approx(20, abs=1)
    assert ac.segmental_snr(pcm, np.roll(pcm, 3), 8000) < 6
    assert ac.segmental_snr(pcm, np.zeros_like(pcm), 8000) == pytest.approx(0, abs=0.01)
    with pytest.raises(ValueError, match="silence"):
        ac.segmental_snr(np.zeros_like(pcm), pcm, 8000)


def test_gaps() -> None:
    pcm = np.concatenate([steady(8000, 0.1), ac.silence(0.04, 8000), steady(8000, 0.1), ac.silence(0.01, 8000)])
    assert ac.silent_gaps(pcm, 8000, min_ms=30) == [pytest.approx((0.1, 40), abs=0.6)]
    assert len(ac.silent_gaps(pcm, 8000, min_ms=5)) == 2


def test_wav_files(tmp_path: Path) -> None:
    pcm = steady(16000, 0.1)
    back, rate = ac.read_wav(ac.write_wav(tmp_path / "a.wav", pcm, 16000))
    assert rate == 16000
    assert np.array_equal(back, pcm)
