"""What each leg was told last: so that it can be said again, and so that an interrupted answer stays interrupted. Pure."""

from __future__ import annotations

from collections import deque

from kallglot_ari.calls.interfaces import StreamSpeech

REPEAT_MAX = 20 * 16000
"""Bytes of the last translation that are kept for being said again: 20 s of 8 kHz, 10 s of 16 kHz PCM."""
ANSWER_GAP = 0.3
"""Seconds without speech after which what comes from Kallglot is a new answer."""


class _Kept:
    """What one leg was told last."""

    __slots__ = ("at", "bytes", "pieces")

    def __init__(self) -> None:
        self.pieces: deque[StreamSpeech] = deque()
        self.bytes = 0
        self.at = 0.0


class Answers:
    """Of all legs of a call. Times are the clock's seconds."""

    __slots__ = ("_cut_off", "_last")

    def __init__(self) -> None:
        self._last: dict[str, _Kept] = {}
        self._cut_off: dict[str, float] = {}
        """Leg → when it was last sent speech of an answer that it interrupted."""

    def keep(self, leg: str, speech: StreamSpeech) -> None:
        kept = self._last.get(leg)
        at = speech.received_at
        if kept is None or at - kept.at > ANSWER_GAP:
            kept = self._last[leg] = _Kept()
        kept.at = at
        kept.pieces.append(speech)
        kept.bytes += len(speech.audio.payload)
        while kept.bytes > REPEAT_MAX and len(kept.pieces) > 1:
            kept.bytes -= len(kept.pieces.popleft().audio.payload)

    def last(self, leg: str) -> tuple[StreamSpeech, ...]:
        return tuple(self._last[leg].pieces) if leg in self._last else ()

    def interrupted(self, leg: str, now: float) -> None:
        """The party spoke into its answer: what follows at once is the rest of that."""
        self._cut_off[leg] = now

    def cut_off(self, leg: str, at: float) -> bool:
        """Whether speech received `at` belongs to an answer that was interrupted: it does until none has come for a moment."""
        last = self._cut_off.get(leg)
        if last is None:
            return False
        if at - last > ANSWER_GAP:
            del self._cut_off[leg]
            return False
        self._cut_off[leg] = at
        return True
