"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubling waits with jitter, so that many services do not come back at the same moment."""

    def __init__(
        self, first: float = 0.1, longest: float = 5.0, *, jitter: Callable[[], float] = random.random
    ) -> None:
        """:param first: and `longest`: seconds. :param jitter: returns 0 ≤ x < 1."""
        self._first, self._longest, self._jitter = first, longest, jitter
        self._step = first

    def next(self) -> float:
        """Seconds to wait: between half and the whole of the current step, which then doubles."""
        step = self._step
        self._step = min(self._longest, step * 2)
        return step * (0.5 + self._jitter() / 2)

    def reset(self) -> None:
        """Begin again with the first step: the connection has held."""
        self._step = self._first
