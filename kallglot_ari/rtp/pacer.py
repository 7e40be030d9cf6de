"""When to send, and with which numbers: absolute deadlines, continuous timestamps, marker bits."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor


@dataclass(frozen=True, slots=True)
class Slot:
    """The header figures of one packet to send."""

    sequence: int
    timestamp: int
    marker: bool


class Deadlines:
    """A beat of `period` seconds, counted from the start and not from the last beat, so that errors never add up.

    After a stall at most `catch_up` beats are made good at once; the rest is skipped.
    """

    def __init__(self, period: float, start: float, *, catch_up: int = 3) -> None:
        if period <= 0:
            raise ValueError(f"period: expected more than 0 s, found {period}")
        if catch_up < 1:
            raise ValueError(f"catch_up: expected at least 1, found {catch_up}")
        self._period = period
        self._start = start
        self._catch_up = catch_up
        self._beat = 0
        self.skipped = 0
        """Beats that were given up, since the start."""

    @property
    def next(self) -> float:
        """When the next beat is due."""
        return self._start + self._beat * self._period

    def due(self, now: float) -> tuple[int, int]:
        """(beats to run now, beats skipped before them). Call it as often as you like; a beat is given out once."""
        behind = floor((now - self._start) / self._period + 1e-9) + 1 - self._beat
        if behind <= 0:
            return 0, 0
        skipped = max(0, behind - self._catch_up)
        self._beat += behind
        self.skipped += skipped
        return behind - skipped, skipped


class Numbering:
    """Sequence number and timestamp of one sent stream: wrap as RFC 3550 §5.1 has them, never jump but by time skipped."""

    def __init__(self, sequence: int, timestamp: int, step: int) -> None:
        if step < 1:
            raise ValueError(f"step: expected at least 1, found {step}")
        self._sequence = sequence & 0xFFFF
        self._timestamp = timestamp & 0xFFFFFFFF
        self._step = step
        self._speaking = False

    def next(self, *, speech: bool) -> Slot:
        """The figures of the next packet; the marker is set on the first packet of a talkspurt (RFC 3551 §4.1)."""
        slot = Slot(self._sequence, self._timestamp, speech and not self._speaking)
        self._speaking = speech
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._timestamp = (self._timestamp + self._step) & 0xFFFFFFFF
        return slot

    def skip(self, frames: int) -> None:
        """Time that passed unsent: the timestamp moves on, the sequence number does not."""
        self._timestamp = (self._timestamp + frames * self._step) & 0xFFFFFFFF
