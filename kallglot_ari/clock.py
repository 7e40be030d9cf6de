"""Time as an argument: the shell asks a clock, the core is told."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the shell takes its time from."""

    def now(self) -> float:
        """Monotonic seconds: deadlines, ages, latencies."""
        ...

    def wall(self) -> datetime:
        """Aware UTC: what people read and other systems are sent."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> datetime:
        return datetime.now(UTC)


class ManualClock:
    """A clock that tests move by hand."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._epoch = datetime(2026, 1, 1, tzinfo=UTC).timestamp() - start

    def now(self) -> float:
        return self._now

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self._epoch + self._now, UTC)

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`, which may not be negative."""
        if seconds < 0:
            raise ValueError(f"time runs forwards: expected seconds >= 0, found {seconds}")
        self._now += seconds
