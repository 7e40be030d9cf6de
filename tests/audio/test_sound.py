"""Levels, mixing, resampling and concealment."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kallglot_ari.audio import frame, level
from kallglot_ari.audio.conceal import Concealer
from kallglot_ari.audio.frame import FULL_SCALE, Pcm
from kallglot_ari.audio.mix import Mixer, cross_fade, ramp, saturate
from kallglot_ari.audio.resample import Resampler
from tests.audio.signals import best_snr, snr, speech_like, tone
from tests.audio_checks import level_dbfs


def test_decibels_and_full_scale() -> None:
    assert level.gain(-6.0206) == pytest.approx(0.5, abs=1e-4)
    assert frame.frame_samples(16000) == 320
    assert frame.to_pcm(np.array([40000.0, -40000.0, 0.6])).tolist() == [32767, -32768, 1]


def test_one_voice_is_left_alone_bit_for_bit() -> None:
    voice = speech_like(8000, 0.02)
    assert Mixer(8000).mix([voice]) is voice


def test_loud_voices_do_not_clip_and_the_gain_comes_back() -> None:
    mixer = Mixer(8000)
    loud = tone(8000, 1.0, 400, 30000)
    mixed = np.concatenate([mixer.mix([loud[i : i + 160]] * 3) for i in range(0, 8000, 160)])
    # the gain steps back within the first frame; from then on the sum stays clear of full scale
    assert np.abs(mixed[160:].astype(int)).max() < 32000
    # after the attack it is the same tone, only lower: no flat tops
    reference = tone(8000, 1.0, 400, float(np.abs(mixed[800:].astype(int)).max()))
    assert best_snr(reference[800:], mixed[800:], 21) > 35
    assert mixer.gain < 0.5
    quiet = tone(8000, 2.0, 400, 500)
    for i in range(0, quiet.size, 160):
        mixer.mix([quiet[i : i + 160]])
    assert mixer.gain == 1.0


def test_the_gain_steps_back_within_5_ms_and_without_a_step() -> None:
    """A second voice that comes in loud: longer, and it is distorted; at once, and it clicks."""
    mixer = Mixer(8000)
    one, two = np.full(160, 20000, dtype=np.int16), np.full(160, 20000, dtype=np.int16)
    assert mixer.mix([one])[-1] == 20000
    mixed = mixer.mix([one, two]).astype(int)
    wanted = round(0.8 * FULL_SCALE)
    assert np.abs(mixed[40:] - wanted).max() <= 1
    assert (np.diff(mixed[:40]) <= 0).all()
    assert mixed[0] > 31000


def test_who_speaks_next_after_a_rest_has_the_whole_gain() -> None:
    mixer = Mixer(8000)
    loud = np.full(160, 30000, dtype=np.int16)
    mixer.mix([loud] * 3)
    assert mixer.gain < 0.5
    mixer.rest()
    assert mixer.mix([loud]) is loud


@given(st.lists(st.floats(-200_000, 200_000), min_size=1, max_size=50))
def test_what_is_too_loud_is_bent_and_never_turned_round(values: list[float]) -> None:
    """Up to 80 % it stays as it is; above, louder is never quieter, and nothing passes full scale."""
    samples = np.sort(np.array(values, dtype=np.float32))
    bent = saturate(samples)
    quiet = np.abs(samples) <= 0.8 * FULL_SCALE
    assert np.array_equal(bent[quiet], samples[quiet])
    assert (np.diff(bent) >= 0).all()
    assert (np.abs(bent) <= np.minimum(np.abs(samples) + 0.01, FULL_SCALE)).all()


def test_one_sound_fades_into_another_evenly_and_each_keeps_its_end() -> None:
    before, after = np.full(161, 8000, dtype=np.int16), np.full(161, -8000, dtype=np.int16)
    faded = cross_fade(before, after)
    assert faded[0] == 8000
    assert faded[-1] < -7800
    assert np.abs(np.diff(faded.astype(int)) + 16000 / 161).max() <= 1
    same = tone(8000, 0.02)
    assert np.abs(cross_fade(same, same).astype(int) - same).max() <= 1
    assert cross_fade(same[:0], same[:0]).size == 0


@given(st.lists(st.lists(st.integers(-32768, 32767), min_size=40, max_size=40), min_size=1, max_size=6))
def test_mixing_never_wraps(voices: list[list[int]]) -> None:
    arrays = [np.array(voice, dtype=np.int16) for voice in voices]
    total: NDArray[np.int64] = np.stack(arrays).astype(np.int64).sum(axis=0)
    mixed = Mixer(8000).mix(arrays).astype(np.int64)
    strong = np.abs(total) > 200
    assert (np.sign(mixed[strong]) == np.sign(total[strong])).all()


def test_mixing_refuses_what_it_cannot_add() -> None:
    with pytest.raises(ValueError, match="at least one voice"):
        Mixer(8000).mix([])
    with pytest.raises(ValueError, match=r"one length, found \[10, 20\]"):
        Mixer(8000).mix([frame.silence(10), frame.silence(20)])


def test_ramp() -> None:
    pcm = np.full(100, 10000, dtype=np.int16)
    assert ramp(pcm, 1.0, 1.0) is pcm
    down = ramp(pcm, 1.0, 0.0)
    assert down[0] == 10000
    assert down[-1] == 0
    assert np.abs(np.diff(down.astype(int))).max() <= 102


@pytest.mark.parametrize(("source", "target"), [(8000, 16000), (16000, 8000), (22050, 16000), (24000, 8000), (48000, 16000), (16000, 24000), (8000, 48000)])  # fmt: skip
def test_resampling_in_chunks_is_resampling_in_one_and_sounds_as_libsoxr(source: int, target: int) -> None:
    pcm = speech_like(min(source, target), 1.0) if source < target else speech_like(source, 1.0)
    whole = Resampler(source, target).process(pcm)
    stream = Resampler(source, target)
    rng = np.random.default_rng(3)
    parts, at = [], 0
    while at < pcm.size:
        step = int(rng.integers(1, 700))
        parts.append(stream.process(pcm[at : at + step]))
        at += step
    assert np.array_equal(np.concatenate(parts), whole)
    theirs = soxr.resample(pcm, source, target, quality="HQ")
    ours = np.concatenate([whole, stream.finish()])
    delay = round(stream.delay * target) if source != target else 0
    size = min(ours.size, theirs.size) - delay - 64
    assert best_snr(theirs[:size], ours[: size + 40], 40) > 25
    assert abs(ours.size - pcm.size * target / source) <= target * stream.delay + 2


def test_tone_survives_resampling_and_what_lies_above_does_not() -> None:
    up = Resampler(8000, 16000)
    out = np.concatenate([up.process(part) for part in np.split(tone(8000, 1.0, 1000), 50)])
    t = np.arange(out.size) / 16000
    lag = 8000 * np.sin(2 * np.pi * 1000 * t)
    assert best_snr(out[200:], np.rint(lag[200:]), 32) > 60
    down = Resampler(16000, 8000)
    alias = np.concatenate([down.process(part) for part in np.split(tone(16000, 1.0, 5500), 50)])
    assert level_dbfs(alias[100:]) < -70


def test_resampler_passes_through_and_refuses() -> None:
    pcm = speech_like(8000, 0.02)
    same = Resampler(8000, 8000)
    assert same.process(pcm) is pcm
    assert same.finish().size == 0
    assert same.delay == 0
    assert Resampler(8000, 16000).process(pcm[:3]).size == 0
    for source, target in ((0, 8000), (8000, 1_000_000)):
        with pytest.raises(ValueError, match="expected 4000 to 192000 Hz"):
            Resampler(source, target)


def _with_losses(pcm: Pcm, rate: int, lost: set[int], *, conceal: bool) -> Pcm:
    size = rate // 50
    concealer = Concealer(rate)
    parts = []
    for i in range(pcm.size // size):
        part = pcm[i * size : (i + 1) * size]
        if i not in lost:
            parts.append(concealer.heard(part) if conceal else part)
        else:
            parts.append(concealer.lost(size) if conceal else np.zeros(size, dtype=np.int16))
    return np.concatenate(parts)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_lost_frame_of_a_tone_is_not_heard(rate: int) -> None:
    pcm = tone(rate, 1.0, 400)
    out = _with_losses(pcm, rate, {20, 33}, conceal=True)
    assert out.size == pcm.size
    assert snr(pcm, out) > 20
    steps = np.abs(np.diff(out.astype(int)))
    assert steps.max() < 1.3 * np.abs(np.diff(pcm.astype(int))).max()  # no click


@pytest.mark.parametrize("rate", [8000, 16000])
def test_speech_with_losses_is_better_concealed_than_silent(rate: int) -> None:
    pcm = speech_like(rate, 4.0)
    lost = set(np.flatnonzero(np.random.default_rng(5).random(200) < 0.05).tolist())
    concealed = snr(pcm, _with_losses(pcm, rate, lost, conceal=True))
    silent = snr(pcm, _with_losses(pcm, rate, lost, conceal=False))
    assert concealed > silent + 2


def voice(rate: int, period: int, samples: int, seed: int = 0, level: float = 3000.0) -> Pcm:
    """A sound that repeats itself exactly every `period` samples, and no sooner."""
    one = np.random.default_rng(seed).normal(0, 1, period)
    smooth = np.convolve(np.tile(one, 3), np.hanning(max(3, rate // 2000)), "same")[period : 2 * period]
    wave: Pcm = np.rint(np.resize(smooth / np.abs(smooth).max() * level, samples)).astype(np.int16)
    return wave


def alike(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Correlation, whatever their levels: 1 is the same shape."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
@pytest.mark.parametrize("pitch_ms", [5.25, 8.0, 11.5, 14.75])
def test_a_loss_goes_on_with_the_speakers_own_pitch(rate: int, pitch_ms: float) -> None:
    """Voices of 68 to 190 Hz: what was lost within 10 ms is what would have been said, had nothing changed."""
    period = round(rate * pitch_ms / 1000)
    whole = voice(rate, period, rate // 5)
    said = whole[: rate // 10 + 13]
    concealer = Concealer(rate)
    concealer.heard(said)
    invented = concealer.lost(rate // 100)
    assert alike(invented, whole[said.size : said.size + invented.size]) > 0.98


def test_a_louder_sound_of_another_pitch_just_before_does_not_lead_it_astray() -> None:
    before, now = voice(8000, 73, 800, seed=1, level=20000), voice(8000, 49, 240, seed=2, level=1500)
    concealer = Concealer(8000)
    concealer.heard(np.concatenate([before, now]))
    truth = voice(8000, 49, 320, seed=2, level=1500)[240:]
    assert alike(concealer.lost(80), truth) > 0.97


def test_a_longer_loss_repeats_two_periods_and_then_three_so_that_it_does_not_buzz() -> None:
    """One period said over and over is a tone; with three of a voice, which are never quite the same, it stays a voice."""
    period = 50
    three = np.concatenate([voice(8000, period, period, seed) for seed in range(3)])
    same = voice(8000, period, 3 * period, seed=9)
    said = np.rint(0.7 * np.resize(same, 600) + 0.3 * np.resize(three, 600)).astype(np.int16)
    concealer = Concealer(8000)
    concealer.heard(said)
    out = concealer.lost(480).astype(np.float64)
    fade = np.clip((480 - np.arange(480)) / 400, 0.05, 1.0)
    level = out / fade
    assert alike(level[100:160], level[50:110]) < 0.98, "10 to 20 ms: two periods that differ"
    assert alike(level[170:300], level[320:450]) > 0.98, "after 20 ms: three periods, and again those three"
    assert alike(level[170:300], level[220:350]) < 0.98


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_loss_has_no_click_where_it_begins_nor_where_more_of_the_voice_is_repeated(rate: int) -> None:
    """A hum of 50 Hz under a voice: a period of the voice ago everything lay somewhere else."""
    t = np.arange(rate // 2) / rate
    hum = 9000 * np.sin(2 * np.pi * 50 * t)
    said = np.rint(hum + voice(rate, rate // 150, t.size, level=400)).astype(np.int16)
    usual = np.abs(np.diff(said.astype(int))).max()
    for cut in range(rate // 4, rate // 4 + rate // 50, rate // 500):
        concealer = Concealer(rate)
        concealer.heard(said[:cut])
        out = np.concatenate([said[cut - 10 : cut], concealer.lost(rate * 6 // 100)])
        assert np.abs(np.diff(out.astype(int))).max() < 4 * usual


def test_a_long_loss_fades_to_silence_and_comes_back() -> None:
    pcm = tone(8000, 1.0, 400)
    concealer = Concealer(8000)
    assert concealer.heard(pcm[:800]) is not None
    gone = np.concatenate([concealer.lost(160) for _ in range(10)])
    assert level_dbfs(gone[:80]) > level_dbfs(pcm) - 1
    assert np.abs(gone[480:]).max() == 0
    assert concealer.concealing
    back = concealer.heard(pcm[:160])
    assert np.array_equal(back[100:], pcm[100:160])
    assert concealer.lost(0).size == 0
    assert concealer.heard(pcm[:0]).size == 0


@pytest.mark.parametrize(("lost_ms", "joined_ms"), [(10, 8), (20, 10), (200, 10)])
def test_what_comes_after_a_loss_is_joined_to_it_and_then_left_alone(lost_ms: int, joined_ms: int) -> None:
    """4 ms, and 4 more for each 10 that were lost, up to 10 (G.711 Appendix I §I.2.8)."""
    pcm = voice(8000, 61, 4000)
    concealer = Concealer(8000)
    concealer.heard(pcm[:1600])
    concealer.lost(8 * lost_ms)
    after = voice(8000, 53, 400, seed=7)
    back = concealer.heard(after)
    assert np.array_equal(back[8 * joined_ms :], after[8 * joined_ms :])
    assert not np.array_equal(back[8 * joined_ms - 16 : 8 * joined_ms], after[8 * joined_ms - 16 : 8 * joined_ms])
    assert not concealer.concealing


def test_a_piece_shorter_than_the_join_is_joined_all_the_same() -> None:
    concealer = Concealer(8000)
    concealer.heard(voice(8000, 61, 800))
    concealer.lost(480)
    assert concealer.heard(tone(8000, 0.001)).size == 8


def test_concealment_of_silence_and_of_noise_does_no_harm() -> None:
    assert not Concealer(8000).lost(960).any()
    noise = np.random.default_rng(1).integers(-20000, 20000, 1600).astype(np.int16)
    concealer = Concealer(8000)
    concealer.heard(noise)
    assert np.abs(concealer.lost(480).astype(int)).max() <= 32767
