"""Numbers that wrap: 16-bit sequence numbers and 32-bit timestamps made into ones that only grow (RFC 3550 §5.1)."""

from __future__ import annotations

SEQUENCE_BITS = 16
TIMESTAMP_BITS = 32


def signed_distance(new: int, old: int, bits: int) -> int:
    """How far `new` is ahead of `old` (negative: behind), the shorter way round a circle of 2**bits."""
    half = 1 << (bits - 1)
    return ((new - old + half) & ((1 << bits) - 1)) - half


class Unwrapper:
    """Turns a wrapping counter into one that does not wrap.

    The first value is taken as it is. Reordering across the wrap is no trouble: a value from just before it comes out as smaller, down to
    negative numbers where the stream began near 0.
    """

    __slots__ = ("_bits", "last")

    def __init__(self, bits: int) -> None:
        if bits < 2:
            raise ValueError(f"bits: expected at least 2, found {bits}")
        self._bits = bits
        self.last: int | None = None
        """The furthest value so far, unwrapped; None before the first."""

    def peek(self, value: int) -> int:
        """`value` unwrapped, without remembering it."""
        if self.last is None:
            return value & ((1 << self._bits) - 1)
        return self.last + signed_distance(value, self.last, self._bits)

    def unwrap(self, value: int) -> int:
        """`value` unwrapped; the furthest value is remembered."""
        result = self.peek(value)
        if self.last is None or result > self.last:
            self.last = result
        return result
