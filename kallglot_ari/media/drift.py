"""By how much the clock of each leg's sender and ours go differently."""

from __future__ import annotations

import numpy as np

from kallglot_ari.media.legs import Legs

_WINDOW = 5.0
"""Seconds over which the least delay is taken."""
_PATH_CHANGE = 0.010
"""A least delay that moves by more than this between two windows is another path, not another clock."""


def begin_anew(legs: Legs, row: int) -> None:
    """Positions stand elsewhere than before against the sender's time: delays before and after are not compared."""
    legs.transit[row] = legs.drift_from[row] = np.nan
    legs.window_min[row] = np.inf


def measure(legs: Legs, now: float) -> None:
    """Compare least delays a window apart; parts per million, to `legs.drift`."""
    rows = np.flatnonzero(legs.started & (legs.window_end <= now))
    if not rows.size:
        return
    least = legs.window_min[rows]
    valid = np.isfinite(least)
    since, origin = legs.drift_since[rows], legs.drift_from[rows]
    expected = origin + legs.drift[rows] * 1e-6 * (now - since)
    fresh = valid & (np.isnan(origin) | (np.abs(least - expected) > _PATH_CHANGE))
    legs.drift_from[rows[fresh]] = least[fresh]
    legs.drift_since[rows[fresh]] = now
    going = valid & ~fresh & (now - since >= _WINDOW)
    # a sender whose clock is fast arrives earlier and earlier against its own timestamps
    legs.drift[rows[going]] = -(least[going] - origin[going]) / (now - since[going]) * 1e6
    legs.window_min[rows] = np.inf
    legs.window_end[rows] = now + _WINDOW
