"""How long a listener waits: from the end of somebody's speech to the first audio of its translation."""

from __future__ import annotations

import math
from typing import Protocol

from kallglot_ari.audio.codecs.registry import loud_share
from kallglot_ari.calls.model import StreamAudio

VOICE_SHARE = 0.125
"""A chunk with so many loud samples is speech, for this figure's purposes: noise of -45 dBFS has them."""
TURN_GAP = 0.5
"""Translated audio after a pause of this many seconds begins a new turn."""
LONGEST = 30.0


class Observes(Protocol):
    """A histogram."""

    def observe(self, amount: float) -> None: ...


class TurnLatency:
    """Watches one call; times are monotonic seconds."""

    __slots__ = ("_histogram", "_translated", "_voice")

    def __init__(self, histogram: Observes) -> None:
        self._histogram = histogram
        self._voice: dict[str, float] = {}
        self._translated: dict[str, float] = {}
        """Only of those who have spoken: whom else the server names, and how many, is its own affair."""

    def spoke(self, speaker: str, audio: StreamAudio, now: float) -> None:
        """A chunk of `speaker` went up."""
        if loud_share(audio.encoding, audio.payload) >= VOICE_SHARE:
            self._voice[speaker] = now
            if speaker not in self._translated:
                self._translated[speaker] = -math.inf

    def translated(self, speaker: str, now: float) -> None:
        """Translated audio of `speaker` came down."""
        before = self._translated.get(speaker)
        if before is None:
            return
        self._translated[speaker] = now
        spoken = self._voice.get(speaker)
        if spoken is not None and now - before > TURN_GAP and now - spoken < LONGEST:
            del self._voice[speaker]  # a pause within the translation is no second turn
            self._histogram.observe(max(0.0, now - spoken))
