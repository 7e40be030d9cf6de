"""New inputs from old ones: bits, bytes, numbers at their limits, pieces repeated, removed, moved, and joined with other seeds."""

from __future__ import annotations

import random
from collections.abc import Callable

LIMITS = (b"0", b"-1", b"65536", b"4294967296", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"9" * 400)
NASTY = (
    b"\0", b"\r\n", b"\n\n", b"\xff", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"%s%n", b"${EVAL(1)}", b"&", b"|", b",", b";",
    b"'", b'"', b"\\", b"\\u0000", b"\\ud800", b"<!DOCTYPE a>", b"../" * 8, b"=", b":", b"@", b"A" * 5000,
)  # fmt: skip
LONGEST = 20_000

Mutation = Callable[[bytearray, random.Random, list[bytes]], None]


def _at(data: bytearray, rng: random.Random) -> tuple[int, int]:
    """A piece."""
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + rng.choice((1, 1, 2, 4, 8, 16, 64)))


def _bit(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _remove(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    begin, end = _at(data, rng)
    del data[begin:end]


def _cut(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    begin, end = _at(data, rng)
    data[begin:begin] = bytes(data[begin:end]) * rng.choice((1, 2, 50))


def _put(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    begin, end = _at(data, rng)
    data[begin : rng.choice((begin, end))] = rng.choice(NASTY + LIMITS)


def _value(data: bytearray, rng: random.Random, _: list[bytes]) -> None:
    """What stands between two marks becomes something else."""
    marks = [at for at, byte in enumerate(data) if byte in b':,="{}[] \n']
    if len(marks) > 1:
        at = rng.randrange(len(marks) - 1)
        data[marks[at] + 1 : marks[at + 1]] = rng.choice(LIMITS + NASTY)


def _join(data: bytearray, rng: random.Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


_ALL: tuple[Mutation, ...] = (_bit, _byte, _remove, _cut, _repeat, _put, _value, _value, _join)


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """A seed with one to five changes; now and then nothing but noise."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        rng.choice(_ALL)(data, rng, seeds)
    return bytes(data[:LONGEST])
