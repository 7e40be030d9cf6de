"""What the speakers of one session share: the engines, the languages, and where results go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kallglot_ari.calls.model import AGENT, CUSTOMER, StreamAudio, TranscriptTurn, of_customer
from kallglot_ari.clock import Clock
from kallglot_ari.interpreter import languages
from kallglot_ari.interpreter.chain import Chain
from kallglot_ari.interpreter.languages import AUTO
from kallglot_ari.interpreter.protocols import Recogniser, Recognition, VoiceActivity
from kallglot_ari.interpreter.protocols import Voice as VoiceProtocol
from kallglot_ari.metrics import Metrics

SURE = 0.6
"""Probability from which a detected language is remembered..."""
SURE_SECONDS = 1.0
"""...if the turn was at least this long."""
ALONE = ("ai_agent", "help_chat_voice")
ASSISTIVE = "assistive_translation"


class Sink(Protocol):
    """Where a session's results go; the server's own."""

    def transcript(self, turn: TranscriptTurn) -> None: ...

    def speech(self, speaker: str, audio: StreamAudio) -> None: ...

    def problem(self, code: str, message: str) -> None: ...


@dataclass(slots=True)
class Engines:
    """The four parts, shared by every session."""

    voice_activity: Callable[[int], VoiceActivity]
    recogniser: Recogniser
    chain: Chain
    voice: VoiceProtocol


@dataclass(slots=True)
class Context:
    """One session's."""

    session_id: str
    mode: str
    source_language: str
    target_language: str
    metadata: Mapping[str, str]
    engines: Engines
    sink: Sink
    clock: Clock
    metrics: Metrics
    timings: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=200))
    """The last turns' stages in milliseconds: hangover, recognise, translate, speak, total."""
    _detected: dict[str, str] = field(default_factory=dict)
    _problems: set[tuple[str, str]] = field(default_factory=set)

    @property
    def voice_activity(self) -> Callable[[int], VoiceActivity]:
        return self.engines.voice_activity

    @property
    def recogniser(self) -> Recogniser:
        return self.engines.recogniser

    @property
    def chain(self) -> Chain:
        return self.engines.chain

    @property
    def voice(self) -> VoiceProtocol:
        return self.engines.voice

    def language(self, speaker: str) -> str:
        """What `speaker` speaks: by the session's metadata `language.SPEAKER`, by the session, or as detected; else `auto`."""
        own = self.metadata.get(f"language.{speaker}", "")
        code = languages.base(own or (self.source_language if of_customer(speaker) else self.target_language))
        return self._detected.get(speaker, AUTO) if code == AUTO else code

    def target(self, speaker: str) -> str:
        """What the others want to hear; `auto` while nobody knows."""
        if self.mode in ALONE or of_customer(speaker):
            code = languages.base(self.target_language)
            if code != AUTO:
                return code
            return next((found for other, found in self._detected.items() if not of_customer(other)), AUTO)
        return self.language(CUSTOMER)

    def spoken(self, speaker: str) -> bool:
        """In assistive translation the agent reads, and only the customer listens."""
        return not (self.mode == ASSISTIVE and of_customer(speaker))

    def remember(self, speaker: str, found: Recognition, seconds: float) -> None:
        """Keep a language that was detected with some certainty."""
        if (
            self.language(speaker) == AUTO
            and found.text
            and found.language_probability >= SURE
            and seconds >= SURE_SECONDS
        ):
            self._detected[speaker] = found.language

    def transcript(self, turn: TranscriptTurn) -> None:
        self.sink.transcript(turn)

    def speech(self, speaker: str, audio: StreamAudio) -> None:
        """Where the caller is alone, the answer is the agent's, so that the caller hears it."""
        self.sink.speech(AGENT if self.mode in ALONE else speaker, audio)

    def own_voice(self, speaker: str, audio: StreamAudio) -> None:
        """`speaker` as they are, untranslated, for the others; not for somebody who is alone, and not where the others hear them anyway."""
        if self.mode not in ALONE and self.spoken(speaker):
            self.sink.speech(speaker, audio)

    def problem(self, code: str, message: str) -> None:
        """Each problem is told once."""
        if (code, message) not in self._problems:
            self._problems.add((code, message))
            self.sink.problem(code, message)
