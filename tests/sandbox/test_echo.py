from __future__ import annotations

import numpy as np
import pytest

from kallglot_ari.calls.model import StreamAudio, TranscriptTurn
from kallglot_ari.sandbox.echo import Echo, EchoSession, loudest


class Kept:
    """An engine sink that keeps what it is given."""

    def __init__(self) -> None:
        self.turns: list[TranscriptTurn] = []
        self.said: list[tuple[str, StreamAudio]] = []

    def transcript(self, turn: TranscriptTurn) -> None:
        self.turns.append(turn)

    def speech(self, speaker: str, audio: StreamAudio) -> None:
        self.said.append((speaker, audio))

    def problem(self, code: str, message: str) -> None:
        raise AssertionError(code)


def engine(mode: str = "bidirectional_translation", source: str = "de") -> tuple[EchoSession, Kept]:
    kept = Kept()
    made = Echo()(session_id="s", mode=mode, source_language=source, target_language="en", metadata={}, sink=kept)
    return made, kept


def tone(start: int = 0, ms: int = 100, dbfs: float = -20.0, rate: int = 16000) -> StreamAudio:
    at = np.arange(start * rate // 1000, (start + ms) * rate // 1000)
    wave = np.sin(2 * np.pi * 440 * at / rate) * 32767 * np.sqrt(2) * 10 ** (dbfs / 20)
    return StreamAudio("pcm_16", rate, np.clip(wave, -32768, 32767).astype("<i2").tobytes())


QUIET = StreamAudio("pcm_16", 16000, bytes(3200))
MULAW_QUIET = StreamAudio("mulaw", 8000, b"\xff" * 800)


def test_a_steady_tone_of_a_minute_comes_back_whole_chunk_by_chunk() -> None:
    made, kept = engine()
    chunks = [tone(at) for at in range(0, 60_000, 100)]
    for number, audio in enumerate(chunks):
        made.feed("customer", audio, number * 100)
        assert len(kept.said) == number + 1, "at once"
    assert [audio for _, audio in kept.said] == chunks
    assert {speaker for speaker, _ in kept.said} == {"customer"}


def test_silence_is_not_said_and_gives_no_transcript() -> None:
    made, kept = engine()
    for at in range(0, 2000, 100):
        made.feed("customer", QUIET, at)
        made.feed("agent", MULAW_QUIET, at)
    assert kept.said == []
    assert kept.turns == []


def test_partials_while_somebody_speaks_and_a_final_after_half_a_second() -> None:
    made, kept = engine()
    for at in range(0, 1200, 100):
        made.feed("customer", tone(at), at)
    assert [turn.final for turn in kept.turns] == [False] * 3
    for at in range(1200, 1600, 100):
        made.feed("customer", QUIET, at)
    assert not kept.turns[-1].final
    made.feed("customer", QUIET, 1600)
    text = "[heard 1.2 s of speech]"
    assert kept.turns[-1] == TranscriptTurn("customer-0", "customer", "de", text, True, "en", text)
    assert {turn.id for turn in kept.turns} == {"customer-0"}
    assert len(kept.said) == 17, "the pause is said, what follows is not"
    made.feed("customer", QUIET, 1700)
    assert len(kept.said) == 17
    made.feed("customer", tone(0), 1800)
    assert kept.turns[-1].id == "customer-1"


def test_pauses_within_speech_are_said_so_that_it_keeps_its_rhythm() -> None:
    made, kept = engine()
    script = [tone(), QUIET, QUIET, QUIET, QUIET, tone()]
    for number, audio in enumerate(script):
        made.feed("customer", audio, number * 100)
    assert [audio for _, audio in kept.said] == script
    assert not any(turn.final for turn in kept.turns)


def test_a_jump_in_time_ends_the_utterance() -> None:
    made, kept = engine()
    made.feed("agent", tone(), 0)
    made.feed("agent", tone(), 700)
    assert [(turn.id, turn.final) for turn in kept.turns] == [("agent-0", False), ("agent-0", True), ("agent-1", False)]


def test_the_agent_speaks_the_other_language() -> None:
    made, kept = engine()
    made.feed("agent", tone(), 0)
    made.feed("agent", tone(), 5000)
    assert (kept.turns[1].language, kept.turns[1].translation_language) == ("en", "de")


async def test_what_is_being_said_is_finished_at_the_end() -> None:
    made, kept = engine(source="auto")
    made.feed("customer", tone(), 0)
    made.feed("agent", QUIET, 0)
    await made.close()
    assert [(turn.speaker, turn.final, turn.language) for turn in kept.turns] == [
        ("customer", False, "und"),
        ("customer", True, "und"),
    ]


@pytest.mark.parametrize(
    ("mode", "speaker", "heard_as"),
    [
        ("bidirectional_translation", "customer", "customer"),
        ("bidirectional_translation", "party-3", "party-3"),
        ("assistive_translation", "customer", None),
        ("assistive_translation", "agent", "agent"),
        ("ai_agent", "customer", "agent"),
        ("help_chat_voice", "customer", "agent"),
    ],
)
def test_who_hears_it_depends_on_the_mode(mode: str, speaker: str, heard_as: str | None) -> None:
    made, kept = engine(mode)
    made.feed(speaker, tone(), 0)
    assert [said for said, _ in kept.said] == ([heard_as] if heard_as else [])
    assert kept.turns[0].speaker == speaker


@pytest.mark.parametrize("dbfs", [-54.0, -30.0, -3.1])
def test_levels_of_pcm(dbfs: float) -> None:
    assert loudest(tone(ms=200, dbfs=dbfs)) == pytest.approx(dbfs, abs=0.3)


def test_levels_of_8_bit_codes() -> None:
    # ITU-T G.711: 0x80 and 0x00 are the largest mu-law codes, 0xFF and 0x7F zero; 0x2A and 0xAA the largest A-law codes.
    assert loudest(StreamAudio("mulaw", 8000, b"\x80" * 160)) == pytest.approx(-0.17, abs=0.05)
    assert loudest(StreamAudio("mulaw", 8000, b"\x00" * 160)) == pytest.approx(-0.17, abs=0.05)
    assert loudest(StreamAudio("mulaw", 8000, b"\xff\x7f" * 80)) == -120.0
    assert loudest(StreamAudio("alaw", 8000, b"\x2a" * 160)) == pytest.approx(-0.14, abs=0.05)
    assert loudest(StreamAudio("alaw", 8000, b"\xd5\x55" * 80)) < -70
    assert loudest(StreamAudio("pcm_8", 8000, b"\x80" * 160)) == -120.0
    assert loudest(StreamAudio("pcm_8", 8000, b"\x00" * 160)) == 0.0
    assert loudest(StreamAudio("mulaw", 8000, b"")) == -120.0


def test_a_short_sound_in_a_long_chunk_counts() -> None:
    audio = StreamAudio("pcm_16", 16000, bytes(3200 * 5) + tone(ms=20, dbfs=-40).payload)
    assert loudest(audio) == pytest.approx(-40, abs=0.5)
