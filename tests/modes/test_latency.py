"""The wait of a listener: from the end of speech to its translation's first audio, once a turn."""

from __future__ import annotations

import math

import pytest

from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.modes.latency import LONGEST, TURN_GAP, TurnLatency


def tone(dbfs: float) -> StreamAudio:
    """100 ms of a sine at an RMS level of `dbfs`, 16-bit PCM."""
    peak = 32767 * math.sqrt(2) * 10 ** (dbfs / 20)
    samples = (round(peak * math.sin(2 * math.pi * 400 * n / 8000)) for n in range(800))
    return StreamAudio("pcm_16", 8000, b"".join(s.to_bytes(2, "little", signed=True) for s in samples))


LOUD, QUIET = tone(-20), tone(-60)
MULAW_SILENCE = StreamAudio("mulaw", 8000, b"\xff" * 800)


class Seen:
    """A histogram that keeps its values."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def observe(self, amount: float) -> None:
        self.values.append(round(amount, 6))


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def latency(seen: Seen) -> TurnLatency:
    return TurnLatency(seen)


def test_from_the_last_loud_chunk_to_the_first_translated_one(latency: TurnLatency, seen: Seen) -> None:
    for now, audio in ((1.0, LOUD), (1.1, LOUD), (1.2, QUIET), (1.3, MULAW_SILENCE)):
        latency.spoke("customer", audio, now)
    for now in (2.0, 2.1, 2.2):
        latency.translated("customer", now)
    assert seen.values == [0.9]


def test_silence_is_no_speech(latency: TurnLatency, seen: Seen) -> None:
    latency.spoke("customer", QUIET, 1.0)
    latency.spoke("customer", MULAW_SILENCE, 1.1)
    latency.translated("customer", 2.0)
    assert seen.values == []


def test_each_turn_counts_once(latency: TurnLatency, seen: Seen) -> None:
    latency.spoke("customer", LOUD, 1.0)
    latency.translated("customer", 2.0)
    latency.spoke("customer", LOUD, 3.0)
    latency.translated("customer", 3.4)
    assert seen.values == [1.0, 0.4]


def test_a_pause_within_a_translation_is_no_second_turn(latency: TurnLatency, seen: Seen) -> None:
    latency.spoke("customer", LOUD, 1.0)
    latency.translated("customer", 2.0)
    latency.translated("customer", 2.0 + 3 * TURN_GAP)
    assert seen.values == [1.0]


def test_while_the_translation_goes_on_new_speech_is_no_new_turn(latency: TurnLatency, seen: Seen) -> None:
    latency.spoke("customer", LOUD, 1.0)
    latency.translated("customer", 2.0)
    latency.spoke("customer", LOUD, 2.1)
    latency.translated("customer", 2.0 + TURN_GAP)
    assert seen.values == [1.0]


def test_speakers_are_apart(latency: TurnLatency, seen: Seen) -> None:
    latency.spoke("customer", LOUD, 1.0)
    latency.translated("agent", 1.5)
    assert seen.values == []
    latency.translated("customer", 1.7)
    assert seen.values == [0.7]


def test_audio_without_speech_long_before_it_is_not_its_translation(latency: TurnLatency, seen: Seen) -> None:
    latency.spoke("customer", LOUD, 1.0)
    latency.translated("customer", 1.0 + LONGEST)
    assert seen.values == []


def test_audio_that_came_in_before_the_last_chunk_went_up_is_no_negative_time(latency: TurnLatency, seen: Seen) -> None:
    latency.spoke("customer", LOUD, 1.0)
    latency.translated("customer", 0.9)
    assert seen.values == [0.0]


def test_speakers_whom_only_the_server_knows_are_not_remembered(latency: TurnLatency) -> None:
    for number in range(1000):
        latency.translated(f"nobody-{number}", 1.0)
    assert latency._translated == {}
