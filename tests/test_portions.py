"""What is held back for the next turn: in order, and bounded."""

from __future__ import annotations

import asyncio
from typing import cast

from kallglot_ari.portions import HELD_MAX, Portions


class Line:
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def is_closing(self) -> bool:
        return "abort" in self.done

    def pause_reading(self) -> None:
        self.done.append("pause")

    def resume_reading(self) -> None:
        self.done.append("resume")

    def abort(self) -> None:
        self.done.append("abort")


class Reader:
    _reading_paused = False


async def test_what_is_held_comes_in_its_order_and_then_the_transport_reads_again() -> None:
    line, given = Line(), bytearray()

    def give(data: bytes) -> None:
        given.extend(data[:2])
        portions.hold(data[2:])

    portions = Portions(cast("asyncio.Transport", line), give, Reader())
    portions.hold(b"abcd")
    assert portions
    portions.hold(b"ef")
    for _ in range(5):
        await asyncio.sleep(0)
    assert given == b"abcdef"
    assert not portions
    assert line.done[-1] == "resume"
    assert line.done.count("resume") == 1


async def test_a_reader_that_has_enough_is_not_made_to_read() -> None:
    line, reader = Line(), Reader()
    reader._reading_paused = True
    portions = Portions(cast("asyncio.Transport", line), lambda data: None, reader)
    portions.hold(b"abcd")
    await asyncio.sleep(0)
    assert line.done == ["pause"]


async def test_a_peer_that_gets_too_much_in_is_cut_off() -> None:
    line = Line()
    portions = Portions(cast("asyncio.Transport", line), lambda data: None, Reader())
    for _ in range(HELD_MAX // 1_000_000 + 1):
        portions.hold(bytes(1_000_000))
    assert line.done[-1] == "abort"
    portions.drop()
    assert not portions
