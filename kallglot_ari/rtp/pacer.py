"""When to send: absolute deadlines."""

from __future__ import annotations

from math import floor


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
