"""Another party's own voice under the translation: how loud, and how it steps back. In made-up time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kallglot_ari.audio.codecs import g711
from kallglot_ari.audio.frame import Pcm
from kallglot_ari.audio.level import gain
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media.heard import HeardVoice
from tests.audio_checks import goertzel, tone
from tests.media.simulated import Simulation

VOICE_HZ, SPEECH_HZ = 450.0, 1250.0
"""Whole periods in 20 ms, so that neither is seen in the other."""
DUCK_DB = 6.0


def ulaw(pcm: Pcm) -> bytes:
    return g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes()


def levels(pcm: Pcm, hertz: float) -> list[float]:
    """Of each 20 ms, in dB full scale."""
    return [20 * np.log10(max(1e-6, goertzel(pcm[at : at + 160], 8000, hertz))) for at in range(0, pcm.size - 159, 160)]


def talked_over(duck_db: float) -> tuple[list[float], list[float]]:
    """Leg 0 speaks for 4 s; from 1 s to 2 s leg 1 is told something. Levels of the voice and of what is told."""
    simulation = Simulation(2)
    simulation.command("hear", 1, 0, 1.0, gain(-duck_db))
    said = ulaw(tone(VOICE_HZ, 4.0, 8000))
    for number in range(200):
        simulation.arrives(0.02 * number + 0.005, 0, number, said[number * 160 :][:160])
    simulation.run(1.0)
    simulation.command("play", 1, "x", StreamAudio("mulaw", 8000, ulaw(tone(SPEECH_HZ, 1.0, 8000))), simulation.now)
    simulation.run(4.0)
    heard = simulation.heard(1)
    return levels(heard, VOICE_HZ), levels(heard, SPEECH_HZ)


def test_it_steps_back_while_the_translation_speaks_and_comes_back_slowly() -> None:
    voice, speech = talked_over(DUCK_DB)
    loud = [number for number, level in enumerate(speech) if level > -20]
    first, last = loud[0], loud[-1]
    assert len(loud) in (50, 51)
    assert all(abs(level + 12) < 0.5 for level in voice[10 : first - 1]), "as loud as wished before"
    assert all(abs(level + 12 + DUCK_DB) < 0.5 for level in voice[first + 3 : last]), "and quieter after 60 ms"
    rising = voice[last + 1 : last + 30]
    assert all(0 <= later - earlier < 0.5 for earlier, later in itertools.pairwise(rising)), "no jump"
    assert all(abs(level + 12) < 0.5 for level in voice[last + 30 : -5]), "back within 600 ms"


def test_without_ducking_it_stays_as_loud() -> None:
    voice, speech = talked_over(0.0)
    assert max(speech) > -13
    assert all(abs(level + 12) < 0.5 for level in voice[10:-5])


@pytest.mark.parametrize("silent", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("wait", [0.0, 2.0])
def test_whoever_has_the_place_of_a_party_that_left_is_heard(silent: float, wait: float) -> None:
    """Also when the one before had said nothing for a while, or is still fading out."""
    simulation = Simulation(2)
    simulation.command("hear", 0, 1, 0.5)
    sound = ulaw(tone(VOICE_HZ, 1.0, 8000))
    for number in range(50):
        simulation.arrives(0.02 * number + 0.005, 1, number, sound[number * 160 :][:160])
    simulation.run(1.0 + silent)
    left, begins = simulation.now, simulation.now + wait
    simulation.commands([("close", 1)])
    simulation.command("hear", 0, 1, 0.0)
    simulation.run(begins)
    assert wait == 0.0 or not simulation.plane._speak.speech[0].voices
    simulation.again(1)
    simulation.command("hear", 0, 1, 0.5)
    before = len(simulation.heard(0))
    for number in range(50):
        simulation.arrives(begins + 0.02 * number + 0.005, 1, 5000 + number, sound[number * 160 :][:160], ssrc=77)
    simulation.run(begins + 1.0)
    assert begins >= left
    heard = levels(simulation.heard(0)[before:], VOICE_HZ)
    assert all(abs(level + 12 + 6) < 0.5 for level in heard[12:-2])


def test_voices_switched_on_and_off_leave_nothing() -> None:
    simulation = Simulation(2)
    sound = ulaw(tone(VOICE_HZ, 1.0, 8000))
    for number in range(500):
        simulation.arrives(0.02 * number + 0.005, 1, number, sound[number % 50 * 160 :][:160])
    for turn in range(9):
        simulation.command("hear", 0, 1, 0.5 * (turn % 2 == 0))
        simulation.run(0.2 * turn + 0.2)
        taps = simulation.plane._listen._taps
        assert [len(taps.get(1, [])), simulation.plane.legs.tapped[1]] == ([1, True] if turn % 2 == 0 else [0, False])
    simulation.commands([("close", 0)])
    simulation.run(3.0)
    assert not taps
    assert not simulation.plane.legs.tapped[1]


def played(samples_a_frame: int, frames: int = 200) -> tuple[HeardVoice, Pcm]:
    """A tone at full gain whose sender says it has `samples_a_frame` where we play 160."""
    voice = HeardVoice(8000, 1.0)
    said = tone(431.0, samples_a_frame * frames / 8000, 8000)
    heard = []
    for number in range(frames):
        voice.put(said[number * samples_a_frame : (number + 1) * samples_a_frame])
        frame = voice.next()
        if frame is not None:
            heard.append(frame)
    return voice, np.concatenate(heard)


@pytest.mark.parametrize("samples_a_frame", [157, 163, 170])
def test_a_clock_that_goes_differently_makes_no_click(samples_a_frame: int) -> None:
    """What is too much is overlapped, what is missing is made up; nothing is cut."""
    _, heard = played(samples_a_frame)
    usual = np.abs(np.diff(tone(431.0, 0.1, 8000).astype(int))).max()
    assert heard.size > 190 * 160
    assert np.abs(np.diff(heard[320:].astype(int))).max() < 1.3 * usual


def test_a_voice_that_is_too_fast_never_lags_far_behind() -> None:
    voice, _ = played(170)
    left = 0
    while (frame := voice.next()) is not None and frame.any():
        left += 1
    assert left <= 5 + 3, "at most five frames wait; the rest is the fade of what is made up"


def test_after_a_pause_two_frames_are_waited_for_again_so_that_the_first_word_does_not_stumble() -> None:
    voice = HeardVoice(8000, 1.0)
    frame = tone(431.0, 0.02, 8000)
    voice.put(frame)
    assert voice.next() is None
    voice.put(frame)
    assert voice.next() is not None
    assert voice.next() is not None, "once begun, one frame is enough"
    while (made_up := voice.next()) is not None:
        assert made_up.size == 160
    voice.put(frame)
    assert voice.next() is None
    voice.put(frame)
    assert voice.next() is not None


def test_ducking_takes_some_frames_down_and_many_up() -> None:
    """A voice that is pulled away at once, or comes back in each short pause, is heard as a fault."""
    voice = HeardVoice(8000, 1.0, duck=0.25)
    loud = np.full(160, 10000, dtype=np.int16)

    def ducked(frames: int, *, under: bool) -> list[float]:
        found = []
        for _ in range(frames):
            voice.put(loud)
            frame = voice.next(under=under)
            found.append(0.0 if frame is None else round(float(frame[-1]) / 10000, 2))
        return found

    assert ducked(4, under=False)[-1] == 1.0
    assert ducked(4, under=True) == [0.75, 0.5, 0.25, 0.25]
    assert ducked(3, under=False) == [0.27, 0.29, 0.31]
    assert ducked(60, under=False)[-1] == 1.0
