"""How many calls there are, of all kinds together, and whether one more is taken."""

from __future__ import annotations

from collections.abc import Callable

from kallglot_ari.metrics import Metrics


class Load:
    """Every mode says how many calls it has; here they are one number."""

    def __init__(self, metrics: Metrics, max_calls: int = 0) -> None:
        """:param max_calls: 0 for no limit."""
        self._max = max_calls
        self._counts: list[Callable[[], int]] = []
        metrics.calls_active.set_function(self.__len__)

    def add(self, count: Callable[[], int]) -> None:
        """:param count: how many calls of one kind are up or being set up."""
        self._counts.append(count)

    def __len__(self) -> int:
        return sum(count() for count in self._counts)

    @property
    def full(self) -> bool:
        """Whether there are as many calls as there may be."""
        return 0 < self._max <= len(self)
