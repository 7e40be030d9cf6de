"""When somebody's turn begins, pauses and ends: a pure machine over the voice activity of 32 ms windows.

The hangover, the silence that ends a turn, adapts to the speaker between 300 and 600 ms: it is a little longer than the pauses
this speaker makes inside a turn, and the shortest one when what was recognised so far is a whole sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

WINDOW_MS = 32
SPEECH = 0.5
"""Probability from which a window is speech..."""
SILENCE = 0.35
"""...and below which it is not; in between it is what the one before was."""
START_MS = 64
"""Speech this long begins a turn: a click does not."""
PAUSE_MS = 128
"""Silence after which what was said so far is worth recognising."""
HANGOVER_MIN_MS = 300
HANGOVER_MAX_MS = 600
HANGOVER_START_MS = 450
MARGIN_MS = 120
"""The hangover is this much longer than the speaker's usual longest pause."""
REOPENED_MS = 900
"""Speech again this soon after an end: the end came too early."""
CLAUSE_PAUSE_MS = 190
CLAUSE_AFTER_MS = 4000
"""In a turn longer than this, every pause of `CLAUSE_PAUSE_MS` is taken for the end of a clause, and ends a piece."""
CUT_AFTER_MS = 10000
"""Without any pause, a piece is cut at its quietest place at this length."""
CUT_SEARCH_MS = 2000


class Kind(Enum):
    """What happened."""

    STARTED = auto()
    PAUSED = auto()
    RESUMED = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """`window` counts from the first window ever stepped."""

    kind: Kind
    window: int
    """STARTED: first window of speech. PAUSED, ENDED: one past the last window of speech."""
    silence_ms: int = 0
    """ENDED: how long it has been silent. 0 when a piece was cut off in mid-speech."""


class TurnDetector:
    """One speaker's turns. `step` takes a window's probability, and never looks ahead."""

    def __init__(self) -> None:
        self._now = 0
        self._speech = False
        self._run = 0  # windows of speech in a row, before a turn
        self._start: int | None = None
        self._last = 0  # one past the last window of speech
        self._paused = False
        self._complete = False
        self._pause_ms = float(HANGOVER_START_MS - MARGIN_MS)
        self._ended_at: int | None = None
        self._quiet: list[tuple[float, int]] = []

    @property
    def open(self) -> bool:
        """A turn is under way."""
        return self._start is not None

    @property
    def hangover_ms(self) -> int:
        """The silence that would end the turn now."""
        if self._start is not None and (self._last - self._start) * WINDOW_MS >= CLAUSE_AFTER_MS:
            return CLAUSE_PAUSE_MS
        if self._complete:
            return HANGOVER_MIN_MS
        return round(min(HANGOVER_MAX_MS, max(HANGOVER_MIN_MS, self._pause_ms + MARGIN_MS)))

    def hint(self, complete: bool) -> None:
        """What was recognised up to the present pause is (or is not) a whole sentence."""
        if self._paused:
            self._complete = complete

    def step(self, probability: float) -> list[TurnEvent]:
        """Take the next window; what follows from it, in order."""
        at = self._now
        self._now += 1
        if probability >= SPEECH:
            self._speech = True
        elif probability < SILENCE:
            self._speech = False
        if self._start is None:
            return self._outside(at)
        self._quiet.append((probability, at))
        return self._talking(at) if self._speech else self._silent(at)

    def flush(self) -> list[TurnEvent]:
        """No more sound comes: end the turn that is under way."""
        return [] if self._start is None else [self._end((self._now - self._last) * WINDOW_MS)]

    def _outside(self, at: int) -> list[TurnEvent]:
        self._run = self._run + 1 if self._speech else 0
        if self._run * WINDOW_MS < START_MS:
            return []
        start = at + 1 - self._run
        if self._ended_at is not None and (gap := (start - self._ended_at) * WINDOW_MS) < REOPENED_MS:
            self._learn(gap)
        self._start, self._last, self._run = start, at + 1, 0
        self._paused = self._complete = False
        self._quiet = []
        return [TurnEvent(Kind.STARTED, start)]

    def _talking(self, at: int) -> list[TurnEvent]:
        events = []
        if self._paused:
            self._learn((at - self._last) * WINDOW_MS)
            self._paused = self._complete = False
            events.append(TurnEvent(Kind.RESUMED, at))
        self._last = at + 1
        assert self._start is not None
        if (self._last - self._start) * WINDOW_MS >= CUT_AFTER_MS:
            events += self._cut()
        return events

    def _silent(self, at: int) -> list[TurnEvent]:
        silence = (at + 1 - self._last) * WINDOW_MS
        events = []
        if not self._paused and silence >= PAUSE_MS:
            self._paused = True
            events.append(TurnEvent(Kind.PAUSED, self._last))
        if silence >= self.hangover_ms:
            events.append(self._end(silence))
        return events

    def _end(self, silence: int) -> TurnEvent:
        self._start = None
        self._run = 0
        self._ended_at = self._last
        self._pause_ms += (HANGOVER_MIN_MS - MARGIN_MS - self._pause_ms) * 0.15
        return TurnEvent(Kind.ENDED, self._last, silence)

    def _cut(self) -> list[TurnEvent]:
        """End a piece at the quietest of the last windows; what follows it is the next piece's beginning."""
        recent = [entry for entry in self._quiet if entry[1] >= self._last - CUT_SEARCH_MS // WINDOW_MS]
        place = min(recent)[1]
        self._start = place
        self._quiet = [entry for entry in self._quiet if entry[1] > place]
        return [TurnEvent(Kind.ENDED, place), TurnEvent(Kind.STARTED, place)]

    def _learn(self, pause_ms: int) -> None:
        """A pause that ended nothing: the hangover has to be longer than those."""
        self._pause_ms = max(self._pause_ms, min(float(pause_ms), float(HANGOVER_MAX_MS)))
