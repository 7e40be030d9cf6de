"""Digits leave holes that are no losses: a phone sends telephone events (RFC 4733) in the place of sound, and Asterisk keeps them but not their numbers."""

from __future__ import annotations

import math

from kallglot_ari.media.legs import Legs
from kallglot_ari.rtp.playout import PACKET

_END_PACKETS = 3
"""Packets that say that a digit has ended (RFC 4733 §2.5.1.4)."""
_WAIT = 1.0
"""Seconds until the hole must have been seen: it is as soon as there is sound again, after the last of some digits."""


class Digits:
    """How many packets may be missing from a row since a digit, for a second after the last one."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[float, int, int]] = {}
        """By row: until when, how many were lost before, how many were not lost."""

    def pressed(self, row: int, seconds: float, lost_before: int, now: float) -> None:
        """A digit of that length has ended; `lost_before` were missing shortly before."""
        _, before, packets = self._open.get(row, (0.0, lost_before, 0))
        self._open[row] = now + _WAIT, before, packets + math.ceil(seconds / PACKET) + _END_PACKETS

    def settle(self, legs: Legs, now: float, row: int | None = None) -> None:
        """Take what is missing since for what it is, where that time is over, or for one row that ends."""
        for each, (until, before, packets) in list(self._open.items()):
            if each == row or until <= now:
                del self._open[each]
                missing = int(legs.expected[each] - legs.received[each]) - before
                legs.expected[each] -= max(0, min(missing, packets))
