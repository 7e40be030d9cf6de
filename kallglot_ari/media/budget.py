"""A bound to dear work on the tick's thread. Pure.

What one leg needs now and then, a made-up sound say, all legs need at once after a stall or when a network stumbles. Done for all it makes the next tick
late, which is a stall again. So much of it is done in a turn, and the rest gets something cheaper; beats that are made good in one turn share its budget.
"""

from __future__ import annotations


class Budget:
    """How often something may be done in one turn of the tick."""

    __slots__ = ("_turn", "left", "most")

    def __init__(self, most: int) -> None:
        self.most = self.left = most
        self._turn = -1.0

    def begin(self, now: float) -> None:
        """A beat of the turn that began at `now`: the whole budget if it is the turn's first."""
        if now != self._turn:
            self._turn = now
            self.left = self.most

    def take(self) -> bool:
        """Whether it may be done once more in this turn; counts it if so."""
        if self.left <= 0:
            return False
        self.left -= 1
        return True
