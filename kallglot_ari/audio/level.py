"""Decibels: what silence is called in dBFS, and gains as factors."""

from __future__ import annotations

FLOOR_DBFS = -96.0
"""What silence is called: below the smallest 16-bit step."""


def gain(db: float) -> float:
    """The factor of `db` decibels."""
    return float(10.0 ** (db / 20.0))
