"""What all parts of a story share: its dice, its weather, and the story itself, line by line."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from kallglot_ari.tasks import Tasks
from tests.stories.clock import Dice, VirtualClock


@dataclass
class Weather:
    """Which faults there are now."""

    fair: bool = False
    """Nothing is lost or refused by chance any more, and all answer soon."""
    line_cut: bool = False
    """No event socket can be opened."""
    asterisk_silent: bool = False
    """Asterisk's HTTP server answers nothing."""
    kallglot_away: bool = False
    store_fails: bool = False
    since: float = 0.0
    """When one of them ended last."""
    store_since: float = -1000.0
    """When the store began to work again."""


@dataclass
class World:
    """One story."""

    seed: int
    weather: Weather = field(default_factory=Weather)
    lines: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Promises that were broken, in order."""
    serial: int = 0

    def __post_init__(self) -> None:
        self.dice = Dice(self.seed)
        self.unavailable = self.dice.of("settings").choice(["continue", "passthrough", "hangup"])
        """`service.on_unavailable`."""
        self.clock = VirtualClock()
        self.tasks = Tasks("world")
        self.tell("service.on_unavailable =", self.unavailable)

    def _now(self) -> float:
        try:
            return self.clock.now()
        except RuntimeError:  # it has not begun
            return 0.0

    def tell(self, *words: object) -> None:
        self.lines.append(f"{self._now():9.3f}  {' '.join(map(str, words))}")

    def breaks(self, promise: str) -> None:
        """A promise is broken here."""
        if promise not in self.broken:
            self.broken.append(promise)
        self.tell("!!!", promise)

    def number(self) -> int:
        self.serial += 1
        return self.serial

    def does(self, what: Coroutine[Any, Any, None], name: str = "does") -> None:
        """Something goes on by itself."""
        self.tasks.spawn(what, name=name)


class Life:
    """A process that may be killed: what it waits for then never comes."""

    def __init__(self) -> None:
        self.over = False
        self._never: list[asyncio.Future[None]] = []

    async def passes(self, seconds: float) -> None:
        """That much of its time, if it has it."""
        await asyncio.sleep(seconds)
        if self.over:
            never = asyncio.get_running_loop().create_future()
            self._never.append(never)  # or who waits for it would be taken for garbage
            await never
