"""Time that passes only when nobody has anything to do, and chance that does not depend on who asks first."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class _Selector(selectors.SelectSelector):
    """Nobody outside the story sends anything: instead of waiting, it says that the time has passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the story stands still: nobody waits for a time")
        self.passed += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose hours take as long as what is done in them."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.passed


class VirtualClock:
    """The loop's time, for who is given a clock."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now())


class Dice:
    """A story's chance. Each thing that happens has its own, by its name and how often it has happened: two that happen at the same
    moment have the same fate in whatever order they come.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._thrown: Counter[str] = Counter()

    def of(self, *what: object) -> random.Random:
        name = " ".join(map(str, what))
        self._thrown[name] += 1
        return random.Random(f"{self._seed} {name} {self._thrown[name]}")


def some(chance: random.Random, *seconds: float) -> float:
    """One of these times, and a little of its own, so that no two things fall together by rounding."""
    return chance.choice(seconds) + chance.random() * 1e-4
