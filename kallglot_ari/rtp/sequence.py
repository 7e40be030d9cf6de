"""Numbers that wrap: 16-bit sequence numbers and 32-bit timestamps (RFC 3550 §5.1)."""

from __future__ import annotations

SEQUENCE_BITS = 16
TIMESTAMP_BITS = 32


def signed_distance(new: int, old: int, bits: int) -> int:
    """How far `new` is ahead of `old` (negative: behind), the shorter way round a circle of 2**bits."""
    half = 1 << (bits - 1)
    return ((new - old + half) & ((1 << bits) - 1)) - half
