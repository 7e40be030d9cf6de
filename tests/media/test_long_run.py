"""Networks that impair and clocks that drift, in made-up time. `KALLGLOT_DRIFT_MINUTES=30` for the long form of the latter."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from kallglot_ari.audio.codecs import g711
from kallglot_ari.audio.conceal import Concealer
from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.media.native import LIBRARY
from kallglot_ari.rtp.packet import RtpPacket
from tests.audio.signals import speech_like
from tests.media.simulated import Simulation

MINUTES = float(os.environ.get("KALLGLOT_DRIFT_MINUTES", "3"))
HERTZ, LEVEL = 437.0, 6000.0


def payloads(pcm: Pcm) -> list[bytes]:
    data = g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes()
    return [data[i : i + 160] for i in range(0, len(data) - 159, 160)]


def spectral_distance(reference: Pcm, found: Pcm) -> float:
    """Mean over 20 ms with sound in them of the RMS difference of the log spectra, in dB: 0 for the same sound."""
    size = min(reference.size, found.size) // 160 * 160
    x, y = (part[:size].reshape(-1, 160).astype(np.float64) for part in (reference, found))
    loud = (x**2).mean(axis=1) > 300.0**2
    first, second = (20 * np.log10(np.abs(np.fft.rfft(z[loud] * np.hanning(160))) + 100.0) for z in (x, y))
    return float(np.sqrt(((first - second) ** 2).mean(axis=1)).mean())


def pesq(reference: Pcm, found: Pcm) -> float | None:
    """ITU-T P.862, where the package is installed."""
    try:
        from pesq import pesq as score
    except ImportError:
        return None
    return float(score(8000, reference, found, "nb"))


def impaired(pcm: Pcm, seed: int) -> Simulation:
    """40 ± 20 ms, 3 % lost, in whatever order that gives."""
    rng = random.Random(seed)
    simulation = Simulation(1)
    for number, payload in enumerate(payloads(pcm)):
        if number == 0 or rng.random() >= 0.03:
            delay = 0.04 if number == 0 else rng.uniform(0.02, 0.06)
            simulation.arrives(0.1 + number * 0.02 + delay, 0, number, payload)
    simulation.run(pcm.size / 8000 + 1.0)
    return simulation


def test_on_a_bad_network_nothing_is_late_after_two_seconds_and_concealment_is_heard() -> None:
    spoken = speech_like(8000, 20.0)
    pcm = g711.ULAW_TO_PCM[g711.PCM_TO_ULAW[spoken.view(np.uint16)]]
    simulation = impaired(pcm, seed=3)
    quality = simulation.quality(0)
    early = impaired(pcm[: 8000 * 2], seed=3).quality(0)
    assert quality.packets_reordered > 30
    assert quality.packets_late == early.packets_late, "the delay has adapted"
    assert early.packets_late <= 5
    assert quality.mos > 3.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Concealer, "lost", lambda self, samples: silence(max(0, samples)))
        without = impaired(pcm, seed=3).said(0)
    found = simulation.said(0)
    distance, worse = spectral_distance(pcm[16000:], found[16000:]), spectral_distance(pcm[16000:], without[16000:])
    print(f"log spectral distance {distance:.2f} dB with concealment, {worse:.2f} dB without")
    assert distance < 0.7 * worse
    good, bad = pesq(pcm[16000:], found[16000:]), pesq(pcm[16000:], without[16000:])
    if good is not None and bad is not None:
        print(f"PESQ {good:.2f} with concealment, {bad:.2f} without")
        assert good > bad + 0.3


def blemishes(pcm: Pcm) -> tuple[float, float]:
    """Of a tone of `HERTZ` at `LEVEL`: the largest step between samples, and the quietest 20 ms, each against what the tone has."""
    x = pcm.astype(np.float64)
    step = np.abs(np.diff(x)).max() / (LEVEL * 2 * np.sin(np.pi * HERTZ / 8000))
    blocks = x[: x.size // 160 * 160].reshape(-1, 160)
    return float(step), float(np.sqrt((blocks**2).mean(axis=1)).min() / (LEVEL / np.sqrt(2)))


@pytest.mark.parametrize("ppm", [200.0, -200.0])
def test_clocks_that_drift_are_followed_without_a_click_or_a_hole(ppm: float) -> None:
    """The sender's clock is fast (positive) or slow. Up: every sample, in its time. Down, heard by another: no click, no hole."""
    simulation = Simulation(2, original_gain_db=0)
    simulation.command("hear", 1, 0, 1.0)
    seconds, second = MINUTES * 60, 8000
    wave = np.rint(LEVEL * np.sin(2 * np.pi * HERTZ * np.arange(8000 * 8) / 8000)).astype(np.int16)
    frames = payloads(wave)
    period = 0.02 / (1 + ppm * 1e-6)
    total = int(seconds / period)
    buffers = []
    for begin in range(0, total, 500):
        for number in range(begin, min(begin + 500, total)):
            simulation.arrives(0.1 + number * period, 0, number, frames[number % len(frames)])
        simulation.run(0.1 + (min(begin + 500, total) - 1) * period)
        buffers.append(simulation.quality(0).buffer_ms)
    quality = simulation.quality(0)
    said, heard = simulation.said(0), simulation.heard(1)
    assert quality.packets_lost == quality.packets_late == 0
    assert quality.concealed_ms == 0
    assert max(buffers) < 20
    assert quality.drift_ppm == pytest.approx(ppm, abs=30)
    expected = np.tile(g711.ULAW_TO_PCM[np.frombuffer(b"".join(frames), dtype=np.uint8)], said.size // wave.size + 1)
    assert np.array_equal(said, expected[: said.size]), "up goes every sample, once"
    first = int(np.flatnonzero(np.abs(heard) > 1000)[0])
    step, quietest = blemishes(heard[first + second : -second])
    print(
        f"{ppm:+g} ppm for {MINUTES:g} min: largest step {step:.2f} of the tone's, quietest 20 ms {quietest:.2f} of it"
    )
    assert step < 1.25
    assert quietest > 0.7


@pytest.mark.parametrize("form", ["g722", "opus"])
@pytest.mark.parametrize("native", [True, False])
def test_the_drift_of_a_leg_that_python_decodes_is_measured_as_well(form: str, native: bool) -> None:
    simulation = Simulation(
        1, library=LIBRARY if native else None, format=form, encoding="pcm_16", rate=16000, jitter_max_ms=200
    )
    payload = simulation.codec.encoder().encode(silence(320))
    for number in range(3000):
        simulation.arrives(0.1 + number * 0.02 / (1 + 200e-6), 0, number, payload)
    simulation.run(60.0)
    quality = simulation.quality(0)
    assert quality.packets_lost == quality.packets_late == 0
    assert quality.drift_ppm == pytest.approx(200, abs=30)


def frames_from(
    simulation: Simulation, at: float, count: int, *, first: int = 0, stamp: int = 0, ssrc: int = 1
) -> None:
    """Packets of silence of leg 0, the first at `at` with that number and timestamp."""
    for i in range(count):
        packet = RtpPacket(0, first + i & 0xFFFF, stamp + i * 160 & 0xFFFFFFFF, ssrc, b"\xff" * 160).pack()
        simulation.arrives_as(at + i * 0.02, 0, packet)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("offset_ms", [3, 7, 9, 13])
@pytest.mark.parametrize("how", ["source", "timestamps"])
def test_another_party_on_the_same_leg_has_no_drift_of_its_own(native: bool, how: str, offset_ms: int) -> None:
    """After a transfer positions begin anew on the next border of a frame: that is no clock."""
    simulation = Simulation(1, library=LIBRARY if native else None)
    frames_from(simulation, 0.1, 1500)
    begins = 30.1 + offset_ms / 1000
    if how == "source":
        frames_from(simulation, begins, 1500, first=5000, stamp=77, ssrc=9)
    else:
        frames_from(simulation, begins, 1500, first=1500, stamp=123)
    for second in range(31, 60):
        simulation.run(second)
        assert abs(simulation.quality(0).drift_ppm) < 10, second


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("jump", [200, 7])
def test_a_pause_of_odd_length_costs_the_leg_nothing_for_the_rest_of_the_call(native: bool, jump: int) -> None:
    """Frames after it are in their turn again, and the silence ends where one begins."""
    simulation = Simulation(1, library=LIBRARY if native else None)
    frames_from(simulation, 0.1, 100)
    frames_from(simulation, 2.1 + jump / 8000, 400, first=100, stamp=16000 + jump)
    frames_from(simulation, 10.1 + 2 * jump / 8000, 100, first=500, stamp=80000 + 2 * jump)
    for second in (5, 9, 12):
        simulation.run(second)
        assert simulation.plane.legs.smooth[0], second
        legs = simulation.plane.legs
        assert 0 <= legs.emitted[0] - legs.next_position[0] < 160, "made good at the next pause"


@pytest.mark.parametrize("in_chunk_ms", range(0, 100, 20))
def test_a_leg_on_hold_does_not_show_the_level_of_its_last_word(in_chunk_ms: int) -> None:
    simulation = Simulation(1)
    loud = payloads((12000 * np.sin(2 * np.pi * HERTZ * np.arange(8000) / 8000)).astype(np.int16))
    for i in range(500):
        simulation.arrives(0.1 + i * 0.02, 0, i, loud[i % 50] if i < 100 or i >= 400 else b"\xff" * 160)
    simulation.run(1.91 + in_chunk_ms / 1000)
    assert simulation.quality(0).level_dbfs > -15
    simulation.command("pause", 0)
    simulation.run(7.0)
    assert simulation.quality(0).level_dbfs < -60
    simulation.command("resume", 0)
    simulation.run(10.0)
    assert simulation.quality(0).level_dbfs > -15
