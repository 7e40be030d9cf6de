"""One speaker in one session: what is heard becomes turns, and each turn a transcript, a translation and translated speech.

Recognition, and then translation and speech of the first sentence, begin at the first sign of a pause, while the hangover still runs; they are
thrown away if the speaker goes on. Turns of one speaker are worked off in order, those of different speakers side by side. Whatever fails, the others hear the speaker's own voice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import soxr

from kallglot_ari import log
from kallglot_ari.audio.codecs.registry import pcm_to_stream, stream_to_pcm
from kallglot_ari.audio.resample import Resampler
from kallglot_ari.calls.model import StreamAudio, TranscriptTurn
from kallglot_ari.errors import InterpreterError, MediaError
from kallglot_ari.interpreter.chain import sentences
from kallglot_ari.interpreter.context import Context
from kallglot_ari.interpreter.ears import GAP_MS, Ears, Heard
from kallglot_ari.interpreter.languages import AUTO
from kallglot_ari.interpreter.pool import Overloaded
from kallglot_ari.interpreter.protocols import Recognition, Sound
from kallglot_ari.interpreter.turns import Kind
from kallglot_ari.tasks import Tasks

BACKLOG_TURNS = 3
"""Turns of one speaker that may wait; the oldest goes, counted."""
PARTIAL_MS = 1000
STALLED_SECONDS = 0.7
"""No chunk for this long in mid-turn (mute, hold, a lost line): the turn is over."""
PIECE_MS = 400
"""Length of a message of translated speech."""
LONG_SOUND = 2.0
"""Seconds from which a sound is resampled off the event loop."""
T = TypeVar("T")
_log = log.get(__name__)


@dataclass(slots=True)
class Utterance:
    """A turn on its way."""

    id: str
    sound: Sound | None = None
    recognition: asyncio.Task[Recognition | InterpreterError | None] | None = None
    ahead: asyncio.Task[Rendered | InterpreterError] | None = None
    """The first sentence in the listener's language, begun before we knew that the turn had ended."""
    covers: int = -1
    ended_at: float = 0.0
    """Monotonic seconds at which the speech ended."""
    decided_at: float = 0.0
    """When we knew."""
    partial_at: int = 0
    partial_text: str = ""
    closed: bool = False
    live: bool = False
    """The others heard it as it was said, in the speaker's own voice."""
    done: dict[str, float] = field(default_factory=dict)
    """When each stage on the way to the first sound was done."""
    work: dict[str, float] = field(default_factory=dict)
    """Seconds that it took, whether or not anybody waited for it."""

    def stages(self) -> dict[str, float]:
        """How long the listener waited for each stage, which add up to `total`; `…_work` also counts what ran inside the hangover."""
        found, before = {"hangover": self.decided_at - self.ended_at}, self.decided_at
        for stage, at in self.done.items():
            found[stage] = max(0.0, at - before)
            before = max(before, at)
        if "speak" in self.done:
            found["total"] = before - self.ended_at
        return found | {f"{stage}_work": seconds for stage, seconds in self.work.items()}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A sentence for the listener."""

    text: str
    sound: Sound | None
    """None where nobody listens."""


class Speaker:
    """One party."""

    def __init__(self, name: str, context: Context, *, own_voice: bool = False) -> None:
        self.name = name
        self._context = context
        self._tasks = Tasks(f"interpreter.{name}")
        self._ears: Ears | None = None
        self._resampler: Resampler | None = None
        self._format = StreamAudio("mulaw", 8000, b"")
        self._expected_ms: int | None = None
        self._count = 0
        self._current: Utterance | None = None
        self._waiting: deque[Utterance] = deque()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.own_voice = own_voice
        """The others hear this speaker as they are, because the last turn could not be translated."""

    # --- listening (synchronous, on the event loop) -----------------------------------------------------------------------

    def feed(self, audio: StreamAudio, timestamp_ms: int) -> None:
        """Take a chunk; about 0.15 ms for each 32 ms of sound."""
        try:
            pcm = stream_to_pcm(audio.encoding, audio.payload)
        except MediaError as error:
            self._context.problem("invalid_audio_format", str(error))
            return
        if self.own_voice:
            self._context.own_voice(self.name, audio)
        known = (self._format.encoding, self._format.sample_rate)
        if (self._ears is None or (audio.encoding, audio.sample_rate) != known) and not self._open(audio):
            return
        self._format = audio
        assert self._ears is not None
        gap = timestamp_ms - self._expected_ms if self._expected_ms is not None else 0
        self._expected_ms = timestamp_ms + round(pcm.size * 1000 / audio.sample_rate)
        heard = self._ears.missing(gap) if gap >= GAP_MS else []
        heard += self._ears.hear(self._resampler.process(pcm) if self._resampler else pcm)
        for event in heard:
            self._on(event)
        self._maybe_partial()
        self._watch()

    def _open(self, audio: StreamAudio) -> bool:
        rate = 8000 if audio.sample_rate <= 8000 else 16000
        try:
            self._ears = Ears(self._context.voice_activity(rate), rate)
            self._resampler = Resampler(audio.sample_rate, rate) if audio.sample_rate != rate else None
        except (InterpreterError, ValueError) as error:
            if not self.own_voice:
                self.own_voice = True
                self._context.own_voice(self.name, audio)
                self._note(self._next_id(), str(error))
            return False
        return True

    def _on(self, heard: Heard) -> None:
        if heard.kind is Kind.STARTED:
            self._current = Utterance(self._next_id(), live=self.own_voice)
            return
        turn = self._current
        if turn is None:
            return
        if heard.kind is Kind.RESUMED:
            self._forget_recognition(turn)
        elif heard.kind is Kind.PAUSED and heard.sound is not None:
            self._begin_recognition(turn, heard.sound, heard.last)
        elif heard.kind is Kind.ENDED and heard.sound is not None:
            self._current = None
            now = self._context.clock.now()
            turn.sound, turn.decided_at, turn.ended_at = heard.sound, now, now - heard.silence_ms / 1000
            if turn.recognition is None or turn.covers != heard.last:
                self._begin_recognition(turn, heard.sound, heard.last)
            self._queue(turn)

    def _next_id(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    def _begin_recognition(self, turn: Utterance, sound: Sound, last: int) -> None:
        self._forget_recognition(turn)
        turn.covers = last
        turn.recognition = self._tasks.spawn(
            _outcome(partial(self._recognise, turn, sound)), name=f"recognise-{turn.id}"
        )

    def _forget_recognition(self, turn: Utterance) -> None:
        if turn.recognition is not None:
            turn.recognition.cancel()
            turn.recognition, turn.covers = None, -1
        if turn.ahead is not None:
            turn.ahead.cancel()
            turn.ahead = None
        turn.done.clear()
        turn.work.clear()

    def _queue(self, turn: Utterance) -> None:
        if len(self._waiting) >= BACKLOG_TURNS:
            lost = self._waiting.popleft()
            self._forget_recognition(lost)
            self._left_out(lost)
        self._waiting.append(turn)
        self._wake.set()
        if self._worker is None:
            self._worker = self._tasks.spawn(self._work(), name="turns")

    def _left_out(self, turn: Utterance) -> None:
        turn.closed = True
        self._context.metrics.interpreter_dropped.labels("backlog").inc()
        self._context.problem(
            "interpreter_overloaded", "more speech than this machine can translate; a turn was left out"
        )
        self._transcript(
            turn, self._context.language(self.name), f"{turn.partial_text} [left out: too much to translate]".strip()
        )

    def _maybe_partial(self) -> None:
        turn, ears = self._current, self._ears
        if turn is None or ears is None or turn.recognition is not None:
            return
        if ears.said_ms - turn.partial_at >= PARTIAL_MS and ears.said_ms <= 9000:
            turn.partial_at = ears.said_ms
            self._tasks.spawn(self._partial(turn, ears.so_far()), name=f"partial-{turn.id}")

    def _watch(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self._ears is not None and self._ears.detector.open:
            self._stalled = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._stall)

    def _stall(self) -> None:
        if self._ears is not None:
            for event in self._ears.flush():
                self._on(event)

    # --- recognising ------------------------------------------------------------------------------------------------------

    async def _recognise(self, turn: Utterance, sound: Sound) -> Recognition | None:
        context, began = self._context, self._context.clock.now()
        if (language := context.language(self.name)) != AUTO:
            context.chain.need(language)
        found = await context.recogniser.recognise(sound, language)
        _stage(turn, "recognise", began, context.clock.now())
        if found is not None:
            context.remember(self.name, found, sound.seconds)
            target = context.target(self.name)
            if found.text and target not in (AUTO, found.language):
                first = partial(self._render, turn, sentences(found.text)[0], found.language, target)
                turn.ahead = self._tasks.spawn(_outcome(first), name=f"translate-{turn.id}")
            if self._ears is not None and self._current is turn:
                self._ears.detector.hint(found.text.endswith((".", "!", "?")))
        return found

    async def _partial(self, turn: Utterance, sound: Sound) -> None:
        try:
            found = await self._context.recogniser.recognise(sound, self._context.language(self.name), partial=True)
        except InterpreterError:
            return  # the turn itself will say so
        if found is None:
            self._context.metrics.interpreter_dropped.labels("partial").inc()
        elif found.text and not turn.closed:
            turn.partial_text = found.text
            self._transcript(turn, found.language, found.text, final=False)

    # --- turns, in order --------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            turn = self._waiting.popleft()
            try:
                await self._turn(turn)
            except Overloaded:
                self._left_out(turn)
            except InterpreterError as error:
                self._failed(turn, turn.partial_text, str(error))
            except Exception as error:  # noqa: BLE001 - boundary: one turn's fault must not silence the speaker for good
                _log.error("turn_crashed", session=self._context.session_id, speaker=self.name, exc_info=error)
                self._failed(turn, turn.partial_text, f"{type(error).__name__}, see the log")
            finally:
                turn.closed = True

    async def _turn(self, turn: Utterance) -> None:
        context = self._context
        assert turn.recognition is not None
        found = _got(await turn.recognition)
        if found is None or not found.text:
            context.metrics.interpreter_dropped.labels("not_recognised").inc()
            return
        turn.partial_text = found.text
        target = context.target(self.name)
        if target in (AUTO, found.language):
            self._transcript(turn, found.language, found.text)
            if not turn.live and turn.sound is not None:
                self._pieces(turn.sound, context.own_voice)
            return
        said: list[str] = []
        for number, sentence in enumerate(sentences(found.text)):
            ahead = turn.ahead if number == 0 else None
            rendered = _got(await ahead) if ahead else await self._render(turn, sentence, found.language, target)
            said.append(rendered.text)
            if rendered.sound is not None:
                await self._say(rendered.sound)
        self._transcript(turn, found.language, found.text, translation_language=target, translation=" ".join(said))
        self.own_voice = False
        self._report(turn)

    async def _render(self, turn: Utterance, sentence: str, source: str, target: str) -> Rendered:
        context, clock = self._context, self._context.clock
        began = clock.now()
        text = await context.chain.sentence(sentence, source, target)
        translated = clock.now()
        _stage(turn, "translate", began, translated)
        if not context.spoken(self.name):
            return Rendered(text, None)
        sound = await context.voice.speak(text, target)
        _stage(turn, "speak", translated, clock.now())
        return Rendered(text, sound)

    def _failed(self, turn: Utterance, text: str, reason: str) -> None:
        """The others hear the speaker's own voice: this turn's now, and from here on at once, until a turn succeeds again."""
        self._context.metrics.interpreter_dropped.labels("failed").inc()
        _log.warning("turn_failed", session=self._context.session_id, speaker=self.name, reason=reason)
        self.own_voice = True
        if not turn.live and turn.sound is not None:
            self._pieces(turn.sound, self._context.own_voice)
        turn.closed = True
        self._note(turn.id, reason, text)

    def _note(self, turn_id: str, reason: str, text: str = "") -> None:
        self._context.problem("interpreter_unavailable", reason)
        note = f"{text} [not translated, own voice: {reason}]".strip()
        self._context.transcript(
            TranscriptTurn(turn_id, self.name, self._context.language(self.name), note, final=True)
        )

    def _report(self, turn: Utterance) -> None:
        found = turn.stages()
        for component, seconds in found.items():
            self._context.metrics.stage_latency.labels(component).observe(seconds)
        stages = {f"{component}_ms": round(seconds * 1000) for component, seconds in found.items()}
        self._context.timings.append({"turn": turn.id, **stages})
        _log.info(
            "turn_translated", session=self._context.session_id, turn=turn.id,
            said_ms=round(turn.sound.seconds * 1000) if turn.sound else 0, **stages,
        )  # fmt: skip

    # --- what goes out ----------------------------------------------------------------------------------------------------

    def _transcript(
        self,
        turn: Utterance,
        language: str,
        text: str,
        *,
        final: bool = True,
        translation_language: str = "",
        translation: str = "",
    ) -> None:
        self._context.transcript(
            TranscriptTurn(turn.id, self.name, language, text, final, translation_language, translation)
        )

    async def _say(self, sound: Sound) -> None:
        if sound.seconds > LONG_SOUND:
            sound = await asyncio.to_thread(_resample, sound, self._format.sample_rate)
        self._pieces(sound, self._context.speech)

    def _pieces(self, sound: Sound, put: Callable[[str, StreamAudio], None]) -> None:
        encoding, rate = self._format.encoding, self._format.sample_rate
        pcm = _resample(sound, rate).pcm
        step = rate * PIECE_MS // 1000
        for start in range(0, pcm.size, step):
            put(self.name, StreamAudio(encoding, rate, pcm_to_stream(encoding, pcm[start : start + step])))

    async def close(self) -> None:
        """Drop what is under way."""
        if self._stalled is not None:
            self._stalled.cancel()
        await self._tasks.close()


async def _outcome(work: Callable[[], Coroutine[Any, Any, T]]) -> T | InterpreterError:
    """What a task ends with that is begun before anybody waits for it: its failure is told when somebody does."""
    try:
        return await work()
    except InterpreterError as error:
        return error


def _got(outcome: T | InterpreterError) -> T:
    if isinstance(outcome, InterpreterError):
        raise outcome
    return outcome


def _stage(turn: Utterance, stage: str, began: float, now: float) -> None:
    """The first sentence's; those after it keep nobody waiting for a first sound."""
    if stage not in turn.done:
        turn.done[stage], turn.work[stage] = now, now - began


def _resample(sound: Sound, rate: int) -> Sound:
    if sound.sample_rate == rate:
        return sound
    return Sound(np.asarray(soxr.resample(sound.pcm, sound.sample_rate, rate), dtype=np.int16), rate)
