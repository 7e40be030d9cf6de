"""Translation that comes faster than it can be heard: how far it falls behind, and what is left of it. In made-up time."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest

from kallglot_ari.audio.codecs import g711
from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media.native import LIBRARY, Native
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

    def __init__(self, **settings: Any) -> None:
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
        self.simulation.command("play", 0, source, StreamAudio("mulaw", 8000, ulaw(pcm)), now)

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

    def sent(self) -> bytes:
        """Everything that was heard, as it was sent."""
        return b"".join(packet[12:] for packet in self.simulation.wire.sent[0])


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


def test_pauses_go_first_and_speech_stays_as_it_was() -> None:
    """Words and pauses, a tenth too fast: leaving out of the pauses is enough."""
    listener = Listener()
    word = tone(601.0, 0.6, 8000)
    listener.says(np.concatenate([word, silence(3200)] * 20), 1.1)
    heard = listener.rest()
    assert BOUND / 2 < max(listener.lags) < BOUND * 2 / 3 + 0.1
    words = [len(list(run)) for loud, run in groupby(loudest(heard)) if loud]
    assert len(words) == 20
    assert all(29 <= frames <= 31 for frames in words), "no word is shorter"


def test_what_is_not_behind_goes_out_byte_for_byte() -> None:
    """A long answer that comes at once is not behind: nothing waits for its end."""
    listener = Listener()
    answer = speech_like(8000, 8.0)
    listener.play(answer)
    listener.rest()
    assert ulaw(answer) in listener.sent()
    assert max(listener.lags) < 0.1


@pytest.mark.parametrize("library", [pytest.param(LIBRARY, id="native"), pytest.param(None, id="numpy")])
@pytest.mark.parametrize("event", ["another is cut off", "another speaks"])
def test_long_speech_that_comes_just_in_time_is_not_behind_because_of_another(
    library: Native | None, event: str
) -> None:
    """What was said is taken back as far as it is not sent, and nothing of it is left out as if all that was said had been waiting."""
    listener = Listener(library=library)
    speech = speech_like(8000, 12.0)
    size, start = int(PIECE * 8000), listener.simulation.now
    for number, at in enumerate(range(0, speech.size, size)):
        listener.run(start + number * PIECE - (0.02 if number else 0.0))
        listener.play(speech[at : at + size])
        if event == "another is cut off" and number == 60:
            listener.simulation.command("flush", 0, "another")
        if event == "another speaks" and 60 <= number < 80:
            listener.play(tone(601.0, PIECE, 8000), "another")
    listener.rest()
    assert max(listener.lags) < 0.1
    assert max(listener.simulation.lags) < 0.1
    assert (ulaw(speech) in listener.sent()) == (event == "another is cut off")


def test_sentences_that_come_at_once_are_caught_up_with_and_then_left_alone() -> None:
    """Four sentences of 3 s that come within 2 s; then one a while later."""
    listener = Listener()
    for number in range(4):
        listener.play(tone(TONES[number], 3.0, 8000))
        listener.run(listener.simulation.now + 0.5)
    heard = listener.rest()
    frames = {hz: len(list(run)) for hz, run in groupby(loudest(heard)) if hz}
    assert list(frames) == list(TONES[:4])
    assert 12.0 / 1.16 < sum(frames.values()) * 0.02 < 12.0 / 1.10
    calm = speech_like(8000, 3.0)
    listener.says(calm, 1.0)
    listener.rest()
    assert ulaw(calm) in listener.sent()


def test_each_speaker_is_caught_up_with_by_itself() -> None:
    listener = Listener(format="slin16")
    for pace in (1.0, 1.3):
        listener.says(tone(601.0, 6.0, 8000), pace, source=f"at {pace}")
    listener.run(listener.simulation.now + 0.1)
    listener.simulation.command("flush", 0, None)
    listener.run(listener.simulation.now + 0.1)
    assert listener.simulation.quality(0).backlog_ms == listener.simulation.quality(0).lag_ms == 0


def test_every_talkspurt_says_once_how_far_it_was_behind() -> None:
    listener = Listener()
    listener.play(tone(601.0, 1.0, 8000))
    listener.run(listener.simulation.now + 1.2)
    for _ in range(2):
        listener.play(tone(601.0, 1.0, 8000))
        listener.run(listener.simulation.now + 0.3)
    listener.rest()
    assert [round(lag, 1) for lag in listener.simulation.lags] == [0.0, 0.7]
