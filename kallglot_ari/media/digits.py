"""Digits leave holes that are no losses: a phone sends telephone events (RFC 4733) in the place of sound, and Asterisk keeps them but not their numbers."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.media.legs import Legs
from kallglot_ari.rtp.playout import PACKET

_END_PACKETS = 3
"""Packets that say that a digit has ended (RFC 4733 §2.5.1.4)."""
_WAIT = 1.0
"""Seconds until the hole must have been seen: it is as soon as there is sound again, after the last of some digits."""
_KEPT = 10
"""Times that what was missing is kept of: Asterisk tells a digit when it has ended, which takes a while where it or we are busy."""


class Digits:
    """How many packets may be missing from a row because of digits: from a second before one is told until a second after the last one."""

    def __init__(self) -> None:
        self._missing: deque[NDArray[np.int64]] = deque(maxlen=_KEPT)
        """Of all rows, the last times."""
        self._open: dict[int, tuple[float, int, int]] = {}
        """By row: until when, how many were lost before, how many were not lost."""

    def note(self, legs: Legs) -> None:
        """Keep how many are missing now: call every 100 ms."""
        self._missing.append(legs.expected - legs.received)

    def pressed(self, row: int, seconds: float, now: float) -> None:
        """A digit of that length has ended, a second ago at most."""
        lost_before = min((int(missing[row]) for missing in self._missing if row < missing.size), default=0)
        _, before, packets = self._open.get(row, (0.0, lost_before, 0))
        self._open[row] = now + _WAIT, before, packets + math.ceil(seconds / PACKET) + _END_PACKETS

    def settle(self, legs: Legs, now: float, row: int | None = None) -> None:
        """Take what is missing since for what it is, where that time is over, or for one row that ends."""
        for each, (until, before, packets) in list(self._open.items()):
            if each == row or until <= now:
                del self._open[each]
                missing = int(legs.expected[each] - legs.received[each]) - before
                taken = max(0, min(missing, packets))
                legs.expected[each] -= taken
                for kept in self._missing:
                    if each < kept.size and kept[each] > before:
                        kept[each] = max(before, kept[each] - taken)
