"""A session with made-up engines: what goes out when all is well, and when something is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.clock import ManualClock
from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.chain import Chain
from kallglot_ari.interpreter.context import Context, Engines
from kallglot_ari.interpreter.engine import OfflineSession
from kallglot_ari.interpreter.languages import shipped
from kallglot_ari.interpreter.protocols import Recognition, Sound
from kallglot_ari.metrics import Metrics
from tests.interpreter.support import Recorder

pytestmark = pytest.mark.real_time

LOUD = b"\x00"  # mu-law's loudest
QUIET = b"\xff"


class Loudness:
    """Voice activity: anything loud is speech."""

    window = 256

    def probability(self, window: NDArray[np.float32]) -> float:
        return float(np.abs(window).max() > 0.1)


@dataclass
class Ears:
    """Recognises whatever it is told to, after `gate` opens."""

    text: str = "Guten Tag."
    gate: asyncio.Event | None = None
    error: str = ""
    asked: list[tuple[str, bool]] = field(default_factory=list)

    async def recognise(self, sound: Sound, language: str, *, partial: bool = False) -> Recognition | None:
        self.asked.append((language, partial))
        if partial:
            return None
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise InterpreterError(self.error)
        return Recognition(self.text, "de" if language == "auto" else language, 0.9)


@dataclass
class Words:
    answer: str = "Good afternoon."
    error: str = ""
    name: str = "words"
    asked: list[str] = field(default_factory=list)

    def supports(self, source: str, target: str) -> bool:
        return source != target

    async def prepare(self, source: str, target: str) -> None:
        if self.error:
            raise InterpreterError(self.error)

    async def translate(self, text: str, source: str, target: str) -> str:
        self.asked.append(text)
        if self.error:
            raise InterpreterError(self.error)
        return self.answer


@dataclass
class Mouth:
    name: str = "mouth"
    error: str = ""

    def supports(self, language: str) -> bool:
        return True

    async def prepare(self, language: str) -> None: ...

    async def speak(self, text: str, language: str) -> Sound:
        if self.error:
            raise InterpreterError(self.error)
        return Sound(np.full(4000, 1000, dtype=np.int16), 8000)


@dataclass
class Stage:
    ears: Ears = field(default_factory=Ears)
    words: Words = field(default_factory=Words)
    mouth: Mouth = field(default_factory=Mouth)
    sink: Recorder = field(default_factory=Recorder)
    metrics: Metrics = field(default_factory=Metrics)
    at: dict[str, int] = field(default_factory=dict)
    opened: list[OfflineSession] = field(default_factory=list)

    def open(
        self, mode: str = "bidirectional_translation", source: str = "de", target: str = "en", **metadata: str
    ) -> OfflineSession:
        chain = Chain([self.words], shipped(), self.metrics)
        engines = Engines(lambda rate: Loudness(), self.ears, chain, self.mouth)
        session = OfflineSession(
            Context("s", mode, source, target, metadata, engines, self.sink, ManualClock(), self.metrics)
        )
        self.opened.append(session)
        return session

    def feed(self, session: OfflineSession, speaker: str, sample: bytes, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            at = self.at.get(speaker, 0)
            session.feed(speaker, StreamAudio("mulaw", 8000, sample * 800), at)
            self.at[speaker] = at + 100

    def turn(self, session: OfflineSession, speaker: str = "customer") -> None:
        self.feed(session, speaker, LOUD, 1.0)
        self.feed(session, speaker, QUIET, 1.0)

    def dropped(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("kallglot_interpreter_dropped_total", {"reason": reason}) or 0.0


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    it = Stage()
    yield it
    for session in it.opened:
        await session.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_turn_is_recognised_translated_and_spoken(stage: Stage) -> None:
    session = stage.open()
    stage.turn(session)
    await until(lambda: bool(stage.sink.finals("customer")))
    turn = stage.sink.finals("customer")[0]
    assert (turn.language, turn.text, turn.translation_language, turn.translation) == (
        "de",
        "Guten Tag.",
        "en",
        "Good afternoon.",
    )
    assert {who for _, who, _ in stage.sink.spoken} == {"customer"}
    assert stage.sink.heard("customer").size == 4000
    assert stage.sink.problems == []
    assert {"hangover_ms", "recognise_ms", "translate_ms", "speak_ms", "total_ms"} <= set(session.context.timings[0])


async def test_translation_begins_before_the_turn_has_ended_and_is_thrown_away_if_it_goes_on(stage: Stage) -> None:
    stage.ears.text = "Guten Tag und"  # no whole sentence: the hangover is not cut short
    session = stage.open()
    stage.feed(session, "customer", LOUD, 1.0)
    stage.feed(session, "customer", QUIET, 0.2)
    await until(lambda: bool(stage.words.asked))
    await asyncio.sleep(0.01)
    assert stage.sink.finals("customer") == []
    assert stage.sink.spoken == []
    stage.ears.text = "Guten Tag und auf Wiedersehen."
    stage.feed(session, "customer", LOUD, 1.0)
    stage.feed(session, "customer", QUIET, 0.7)
    await until(lambda: bool(stage.sink.finals("customer")))
    assert stage.words.asked == ["Guten Tag und", "Guten Tag und auf Wiedersehen."]
    assert [turn.text for turn in stage.sink.finals("customer")] == ["Guten Tag und auf Wiedersehen."]
    assert stage.sink.heard("customer").size == 4000


async def test_a_turn_that_fails_while_the_own_voice_is_only_just_heard_is_heard_whole(stage: Stage) -> None:
    stage.words.error = "the model is missing"
    session = stage.open()
    stage.turn(session)  # before the engine has said that it cannot
    await until(lambda: bool(stage.sink.finals("customer")))
    assert stage.sink.heard("customer").size > 8000


async def test_one_speaker_does_not_wait_for_the_other(stage: Stage) -> None:
    stage.ears.gate = asyncio.Event()
    session = stage.open()
    stage.turn(session, "customer")
    await asyncio.sleep(0)
    stage.ears.gate = None
    stage.turn(session, "agent")
    await until(lambda: bool(stage.sink.finals("agent")))
    assert stage.sink.finals("customer") == []


async def test_a_full_backlog_leaves_out_the_oldest_and_says_so(stage: Stage) -> None:
    stage.ears.gate = asyncio.Event()
    session = stage.open()
    stage.turn(session)
    await asyncio.sleep(0.01)  # the first is being worked on
    for _ in range(4):
        stage.turn(session)
    assert stage.dropped("backlog") == 1
    left_out = stage.sink.finals("customer")
    assert [turn.id for turn in left_out] == ["customer-2"]
    assert "left out" in left_out[0].text
    assert stage.sink.problems[0][0] == "interpreter_overloaded"
    stage.ears.gate.set()
    await until(lambda: len(stage.sink.finals("customer")) == 5)
    assert [t.id for t in stage.sink.finals("customer")[1:]] == ["customer-1", "customer-3", "customer-4", "customer-5"]


@pytest.mark.parametrize("part", ["ears", "words", "mouth"])
async def test_when_an_engine_fails_the_own_voice_is_heard_until_a_turn_succeeds(stage: Stage, part: str) -> None:
    session = stage.open()
    await asyncio.sleep(0)
    broken = getattr(stage, part)
    broken.error = "the model is missing"
    stage.turn(session)
    await until(lambda: bool(stage.sink.finals("customer")))
    assert "own voice: " in stage.sink.finals("customer")[0].text
    assert "the model is missing" in stage.sink.finals("customer")[0].text
    assert any("the model is missing" in message for _, message in stage.sink.problems)
    assert np.abs(stage.sink.heard("customer").astype(int)).max() > 30000
    before = len(stage.sink.spoken)
    stage.feed(session, "customer", LOUD, 0.1)
    assert stage.sink.spoken[before][2].payload == LOUD * 800
    broken.error = ""
    stage.feed(session, "customer", QUIET, 1.0)
    stage.turn(session)
    await until(lambda: any(turn.translation for turn in stage.sink.finals("customer")))
    before = len(stage.sink.spoken)
    stage.feed(session, "customer", LOUD, 0.1)
    assert len(stage.sink.spoken) == before


@pytest.mark.parametrize(("part", "method"), [("ears", "recognise"), ("words", "translate"), ("mouth", "speak")])
async def test_a_fault_that_nobody_expected_costs_one_turn_and_no_more(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, part: str, method: str
) -> None:
    async def fault(*args: object, **more: object) -> None:
        raise OSError(24, "Too many open files")

    session = stage.open()
    await asyncio.sleep(0)
    with monkeypatch.context() as patched:
        patched.setattr(getattr(stage, part), method, fault)
        stage.turn(session)
        await until(lambda: bool(stage.sink.finals("customer")))
    assert "own voice: OSError" in stage.sink.finals("customer")[0].text
    assert np.abs(stage.sink.heard("customer").astype(int)).max() > 30000
    stage.turn(session)
    await until(lambda: any(turn.translation for turn in stage.sink.finals("customer")))


async def test_a_fault_while_the_engines_are_made_ready_is_told_and_the_own_voice_is_heard(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fault(*args: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(stage.mouth, "prepare", fault)
    session = stage.open()
    await until(lambda: bool(stage.sink.problems))
    assert stage.sink.problems[0][0] == "interpreter_unavailable"
    stage.feed(session, "customer", LOUD, 0.1)
    assert len(stage.sink.spoken) == 1


async def test_an_unknown_language_is_one_clear_line(stage: Stage) -> None:
    session = stage.open(source="tlh")
    await until(lambda: bool(stage.sink.problems))
    stage.feed(session, "customer", LOUD, 0.1)
    assert "unknown language 'tlh'" in stage.sink.problems[0][1]
    assert len(stage.sink.spoken) == 1


async def test_a_detected_language_is_remembered_and_answered_in(stage: Stage) -> None:
    session = stage.open(source="auto")
    stage.turn(session)
    await until(lambda: bool(stage.sink.finals("customer")))
    stage.turn(session)
    await until(lambda: len(stage.sink.finals("customer")) == 2)
    finals = [language for language, partial in stage.ears.asked if not partial]
    assert finals[0] == "auto"
    assert finals[-1] == "de"
    assert session.context.target("agent") == "de"


async def test_in_assistive_translation_the_customer_is_read_not_spoken(stage: Stage) -> None:
    session = stage.open("assistive_translation")
    stage.turn(session, "customer")
    stage.turn(session, "agent")
    await until(lambda: bool(stage.sink.finals("customer") and stage.sink.finals("agent")))
    assert {who for _, who, _ in stage.sink.spoken} == {"agent"}


async def test_alone_the_caller_hears_the_agent_and_never_themselves(stage: Stage) -> None:
    session = stage.open("ai_agent")
    stage.turn(session)
    await until(lambda: bool(stage.sink.finals("customer")))
    stage.ears.error = "broken"
    stage.turn(session)
    await until(lambda: len(stage.sink.finals("customer")) == 2)
    assert {who for _, who, _ in stage.sink.spoken} == {"agent"}
    assert np.abs(stage.sink.heard("agent").astype(int)).max() < 2000


async def test_metadata_sets_the_language_of_one_leg(stage: Stage) -> None:
    session = stage.open(**{"language.party-3": "fr"})
    assert session.context.language("party-3") == "fr"
    assert session.context.language("agent") == "en"


async def test_closing_drops_what_is_under_way(stage: Stage) -> None:
    stage.ears.gate = asyncio.Event()
    session = stage.open()
    stage.turn(session)
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await session.close()
    before = len(stage.sink.turns)
    stage.ears.gate.set()
    await asyncio.sleep(0.01)
    assert len(stage.sink.turns) == before


async def test_bad_audio_is_said_and_survived(stage: Stage) -> None:
    session = stage.open()
    session.feed("customer", StreamAudio("pcm_16", 16000, b"\0"), 0)
    assert stage.sink.problems[0][0] == "invalid_audio_format"
    stage.turn(session)
    await until(lambda: bool(stage.sink.finals("customer")))


async def test_a_stream_that_stops_in_mid_turn_ends_the_turn(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kallglot_ari.interpreter.speaker.STALLED_SECONDS", 0.02)
    session = stage.open()
    stage.feed(session, "customer", LOUD, 1.0)
    await until(lambda: bool(stage.sink.finals("customer")))
