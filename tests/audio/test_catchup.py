"""Shortening what waits: how much is left out, and that what remains sounds as before."""

from __future__ import annotations

import numpy as np
import pytest

from kallglot_ari.audio.catchup import FASTEST, CatchUp, speed
from kallglot_ari.audio.frame import Pcm, frame_samples, silence
from tests.audio.signals import speech_like
from tests.audio_checks import tone

RATES = pytest.mark.parametrize("rate", [8000, 16000])


def hurried(pcm: Pcm, rate: int, speed: float) -> tuple[Pcm, list[int]]:
    """All of `pcm`, and of how many samples each frame took the place."""
    catch_up, frame = CatchUp(rate), frame_samples(rate)
    frames, used, at = [], [], 0
    while pcm.size - at >= frame:
        out, samples = catch_up.next(pcm[at : at + catch_up.ahead], speed)
        assert out.size == frame
        assert out.dtype == np.int16
        frames.append(out)
        used.append(samples)
        at += samples
    return np.concatenate(frames), used


def test_the_speed_rises_towards_the_bound_and_no_further() -> None:
    assert speed(0.9, 2.0) is None
    assert speed(1.2, 2.0) == 1.0, "pauses only"
    assert speed(5 / 3, 2.0) == pytest.approx((1.0 + FASTEST) / 2)
    assert speed(2.0, 2.0) == speed(9.0, 2.0) == pytest.approx(FASTEST)


@RATES
@pytest.mark.parametrize("hz", [110.0, 431.0, 1747.0])
def test_a_tone_keeps_its_pitch_and_has_no_click(rate: int, hz: float) -> None:
    said = tone(hz, 4.0, rate)
    heard, _ = hurried(said, rate, FASTEST)
    assert said.size / heard.size == pytest.approx(FASTEST, abs=0.01)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(heard.size)))
    assert np.argmax(spectrum) * rate / heard.size == pytest.approx(hz, abs=1.0)
    steepest = np.abs(np.diff(said.astype(int))).max()
    assert np.abs(np.diff(heard.astype(int))).max() < 1.15 * steepest
    frames = heard.reshape(-1, frame_samples(rate)).astype(float)
    loudness = np.sqrt((frames**2).mean(axis=1))
    assert loudness.min() > 0.7 * np.median(loudness)


@RATES
def test_speech_is_as_fast_as_asked_and_what_is_not_cut_is_untouched(rate: int) -> None:
    said = speech_like(rate, 10.0)
    heard, used = hurried(said, rate, 1.1)
    frame = frame_samples(rate)
    cuts = [samples - frame for samples in used if samples < 2 * frame]
    assert 1.05 < 1.0 + sum(cuts) / (len(cuts) * frame) < 1.1
    at = 0
    for number, samples in enumerate(used):
        if samples == frame:
            assert np.array_equal(heard[number * frame : (number + 1) * frame], said[at : at + frame])
        at += samples


@RATES
def test_a_pause_is_shortened_to_a_tenth_of_a_second(rate: int) -> None:
    rng = np.random.default_rng(1)
    hiss = np.rint(rng.normal(0, 20, rate)).astype(np.int16)
    said = np.concatenate([tone(600, 1.0, rate), hiss, tone(600, 1.0, rate)])
    heard, used = hurried(said, rate, 1.0)
    assert said.size - heard.size == pytest.approx(0.86 * rate, abs=0.03 * rate)
    assert sum(samples != frame_samples(rate) for samples in used) == 1
    quiet = heard[rate : rate + rate // 10]
    assert np.abs(np.diff(quiet.astype(int))).max() <= np.abs(np.diff(hiss.astype(int))).max(), "no click"


@RATES
def test_a_pause_in_a_room_that_rumbles_is_shortened_without_a_click(rate: int) -> None:
    """What is given out begins as the pause began and ends where the rest of it goes on."""
    t = np.arange(rate) / rate
    rumble = np.rint(90 * np.sin(2 * np.pi * 31 * t)).astype(np.int16)
    heard, used = hurried(rumble, rate, 1.0)
    assert max(used) > 10 * frame_samples(rate), "it was shortened"
    assert np.abs(np.diff(heard.astype(int))).max() <= 2 * np.abs(np.diff(rumble.astype(int))).max()


@RATES
def test_short_pauses_between_words_stay_however_many_there_are(rate: int) -> None:
    word, pause = tone(600, 0.1, rate), silence(rate * 8 // 100)
    said = np.concatenate([word, pause] * 10)
    heard, _ = hurried(said, rate, 1.0)
    assert np.array_equal(heard, said)


@RATES
def test_a_cut_waits_for_a_place_where_it_is_not_heard(rate: int) -> None:
    """A hissed sound between two vowels: what is left out is left out of the second vowel."""
    frame = frame_samples(rate)
    hiss = np.random.default_rng(4).normal(0, 3000, 8 * frame).astype(np.int16)
    heard, used = hurried(np.concatenate([hiss, tone(200, 0.5, rate)]), rate, FASTEST)
    assert used[:8] == [frame] * 8
    assert np.array_equal(heard[: 8 * frame], hiss)
    assert max(used[8:12]) > frame


def test_at_no_more_than_its_own_speed_only_pauses_go() -> None:
    said = tone(600, 1.0, 8000)
    heard, _ = hurried(said, 8000, 1.0)
    assert np.array_equal(heard, said)


def test_noise_is_shortened_too_though_nothing_in_it_is_alike() -> None:
    """And never by more than asked."""
    noise = np.random.default_rng(2).normal(0, 3000, 80000).astype(np.int16)
    heard, _ = hurried(noise, 8000, FASTEST)
    assert 1.05 < noise.size / heard.size <= FASTEST


def test_silence_and_a_short_rest_are_given_out_as_they_are() -> None:
    catch_up = CatchUp(8000)
    for _ in range(9):
        out, used = catch_up.next(silence(160), FASTEST)
        assert used == 160
        assert not out.any()
    out, used = catch_up.next(tone(600, 0.02, 8000), FASTEST)
    assert used == 160
