"""What stands behind the sandbox: an engine that hears speech and answers with transcripts and translated speech.

An engine lives below the sandbox in the layers and cannot import this module; it fits these protocols by their shape alone.
They use nothing but plain types and `calls.model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kallglot_ari.calls.model import StreamAudio, TranscriptTurn


class EngineSink(Protocol):
    """Where an engine session puts what it has. Called on the event loop only; returns at once and never raises.

    After `EngineSession.close` has returned, or the session has ended, whatever comes is ignored.
    """

    def transcript(self, turn: TranscriptTurn) -> None:
        """A partial (`final` False) or final transcript; a final carries its translation.

        All turns of an utterance have the same `id`, which is unique within the session.
        """
        ...

    def speech(self, speaker: str, audio: StreamAudio) -> None:
        """Translated speech of `speaker`, for every other party to hear: any length, faster than real time if it likes.

        It must have the encoding and sample rate of what was fed last. Where the caller is alone with the session
        (`ai_agent`, `help_chat_voice`) the answer's speaker is ``agent``, so that the caller hears it.
        """
        ...

    def problem(self, code: str, message: str) -> None:
        """Something went wrong that the client should know (`session.error`); the session goes on."""
        ...


class EngineSession(Protocol):
    """The engine's side of one session."""

    def feed(self, speaker: str, audio: StreamAudio, timestamp_ms: int) -> None:
        """Take a chunk of `speaker`, mono, usually 20 to 200 ms; speakers may be new at any time.

        Called on the event loop in each speaker's order; must neither block nor raise. `timestamp_ms` is where the chunk
        starts in the speaker's time; a jump means that audio is missing (loss, hold, mute).
        """
        ...

    async def close(self) -> None:
        """The session is over: finish or drop what is under way within a second, then free everything. Called once."""
        ...


class EngineFactory(Protocol):
    """Makes the engine's side of a session; what is shared between sessions (models, workers) it holds itself.

    Called once per session, when its first stream opens. May raise `InterpreterError`, which becomes a `session.error`.
    """

    def __call__(
        self,
        *,
        session_id: str,
        mode: str,
        source_language: str,
        target_language: str,
        metadata: Mapping[str, str],
        sink: EngineSink,
    ) -> EngineSession:
        """`source_language` is that of the speakers `customer` and `customer-…`, `target_language` everybody else's; either may be ``auto``.

        `mode` is the API's. In `assistive_translation` only what is said to the customer is spoken; what the customer
        says comes as transcripts. `metadata` is the session's, as the client sent it.
        """
        ...


class Engine(EngineFactory, Protocol):
    """A factory with the models and workers that all its sessions share."""

    async def warm(self, *directions: tuple[str, str]) -> None:
        """Load what is large before the first call needs it. :raises InterpreterError: for what cannot be had."""
        ...

    async def close(self) -> None: ...
