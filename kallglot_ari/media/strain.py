"""Whether the machine keeps up: how late the media's beats are, over the last moments. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

WINDOW = 2.0
"""Seconds that are looked back on."""
WAITS_WINDOW = 5.0
"""The same for waits, which are fewer and may be long."""
LEAST = 100
"""Beats below which nothing is said: those that are made good after a single stall must be less than a tenth, and that is no strain."""
SHARE = 0.1
"""Of the beats, that has to be late."""


class _Lately:
    """Values with the times they came at, for `window` seconds."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, values: Iterable[float], now: float) -> None:
        self._seen.extend((now, value) for value in values)
        self._forget(now)

    def values(self, now: float) -> list[float]:
        self._forget(now)
        return [value for _, value in self._seen]

    def _forget(self, now: float) -> None:
        while self._seen and self._seen[0][0] <= now - self._window:
            self._seen.popleft()


class Strain:
    """Fed with how late each beat was; tells by how much the latest tenth of them was."""

    def __init__(self) -> None:
        self._beats = _Lately(WINDOW)

    def seen(self, lateness: Sequence[float], now: float) -> None:
        """:param lateness: seconds, of the beats since the last call. :param now: monotonic seconds."""
        self._beats.add(lateness, now)

    def late(self, now: float) -> float:
        """Seconds by which a tenth of the last beats was late, or more; 0.0 when there were too few to say."""
        ordered = sorted(self._beats.values(now))
        return ordered[int(len(ordered) * (1 - SHARE))] if len(ordered) >= LEAST else 0.0


class Waits:
    """Fed with how long what was handed over waited; tells how long anything that came in the last moments had to, on average.

    The longest wait does not count: whatever it was, it is over. One stall after the other is another matter.
    """

    def __init__(self) -> None:
        self._waits = _Lately(WAITS_WINDOW)

    def seen(self, waited: float, now: float) -> None:
        """:param waited: seconds since the time before, or since the first thing that waited came. :param now: monotonic seconds."""
        self._waits.add((waited,), now)

    def mean(self, now: float) -> float:
        """Seconds. What comes at any moment of a wait of w waits w / 2, and such moments are w of the window."""
        waits = self._waits.values(now)
        squares = sum(waited * waited for waited in waits) - max(waits, default=0.0) ** 2
        return squares / 2 / WAITS_WINDOW
