"""What was said in a call: told to listeners at once, and kept in the store."""

from __future__ import annotations

from collections import deque

from kallglot_ari.calls.interfaces import CallStore, Hub
from kallglot_ari.calls.model import TranscriptTurn
from kallglot_ari.clock import Clock
from kallglot_ari.errors import StoreError
from kallglot_ari.log import get
from kallglot_ari.tasks import Tasks

TURNS_WAITING = 200
"""Final turns of a call that may wait for the store; beyond it the oldest is lost to the store, not to the listeners."""
CONTEXT_MAX = 500
"""Characters of a metadata value."""


class Transcripts:
    """One call's turns."""

    def __init__(self, call_id: str, store: CallStore, hub: Hub, clock: Clock, tasks: Tasks) -> None:
        self._call_id = call_id
        self._store = store
        self._hub = hub
        self._clock = clock
        self._tasks = tasks
        self._waiting: deque[tuple[TranscriptTurn, float]] = deque()
        self._writing = False
        self._lost = 0
        """Turns that the store was too slow for, since it last had all."""
        self._log = get(__name__).bind(call=call_id)
        self.said: deque[TranscriptTurn] = deque(maxlen=TURNS_WAITING)
        """The last final turns."""

    def context(self) -> str:
        """The end of what was said, as the metadata of a session can hold it."""
        return "\n".join(f"{turn.speaker}: {turn.text}" for turn in self.said)[-CONTEXT_MAX:]

    def take(self, turn: TranscriptTurn) -> None:
        data = {
            "id": turn.id, "speaker": turn.speaker, "language": turn.language, "text": turn.text,
            "translation": {"language": turn.translation_language, "text": turn.translation} if turn.translation else None,
        }  # fmt: skip
        self._hub.publish("transcript.final" if turn.final else "transcript.partial", self._call_id, data)
        if not turn.final:
            return
        self.said.append(turn)
        if len(self._waiting) == TURNS_WAITING:
            oldest, _ = self._waiting.popleft()
            if not self._lost:
                self._log.warning("transcript_not_kept", turn=oldest.id)
            self._lost += 1
        self._waiting.append((turn, self._clock.wall().timestamp()))
        if not self._writing:
            self._writing = True
            self._tasks.spawn(self._write(), name="transcript")

    async def _write(self) -> None:
        try:
            while self._waiting:
                turn, at = self._waiting.popleft()
                try:
                    await self._store.add_turn(self._call_id, turn, at)
                except StoreError as error:
                    self._log.error("transcript_not_saved", turn=turn.id, error=str(error))
        finally:
            self._writing = False
            if self._lost:
                self._log.warning("transcript_incomplete", turns=self._lost)
                self._lost = 0
