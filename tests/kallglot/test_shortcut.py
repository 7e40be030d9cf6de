"""Text messages that are heard without aiohttp: in whatever pieces they come, each once and in order, and all else is aiohttp's."""

from __future__ import annotations

import asyncio
import random
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kallglot_ari.kallglot.shortcut import Shortcut

TEXT, BINARY, MORE, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(opcode: int, payload: bytes, *, final: bool = True, reserved: int = 0) -> bytes:
    size = len(payload)
    first = opcode | (0x80 if final else 0) | reserved
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


@dataclass
class Inner(asyncio.Protocol):
    """What aiohttp would make of what it is shown."""

    data: bytes = b""
    messages: list[bytes] = field(default_factory=list)
    begun: bytes = b""
    controls: list[int] = field(default_factory=list)
    lost: bool = False

    def data_received(self, data: bytes) -> None:
        self.data += data
        while len(self.data) >= 2:
            size, begin = self.data[1] & 0x7F, 2
            if size >= 126:
                begin += 2 if size == 126 else 8
                size = int.from_bytes(self.data[2:begin], "big")
            if len(self.data) < begin + size:
                return
            first, payload, self.data = self.data[0], self.data[begin : begin + size], self.data[begin + size :]
            if first & 0x08:
                self.controls.append(first & 0x0F)
                continue
            self.begun += payload
            if first & 0x80:
                self.messages.append(self.begun)
                self.begun = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Line:
    """A shortcut whose owner receives what aiohttp has, now and then."""

    def __init__(self, seen: bytes = b"", *, heartbeat: bool = False) -> None:
        self.inner = Inner()
        self.inner.data_received(seen)
        self.shortcut = Shortcut(self.inner, seen, heartbeat=heartbeat)
        self.told: list[bytes] = []
        self.heard = 0

    def listen(self) -> None:
        self.shortcut.listen(self._hear)

    def _hear(self, text: str) -> None:
        self.heard += 1
        self.told.append(text.encode())

    def receive(self, count: int) -> None:
        for message in self.inner.messages[:count]:
            self.told.append(message)
            self.shortcut.owed -= 1
        del self.inner.messages[:count]


def some(number: int, size: int) -> bytes:
    return (f"{number}:" + "é" * size)[: max(1, size)].encode()


sizes = st.sampled_from([1, 60, 130, 1400, 70_000])
pieces = st.one_of(
    st.tuples(st.just("text"), sizes),
    st.tuples(st.just("text"), sizes),
    st.tuples(st.sampled_from(["binary", "fragments", "ping", "pong"]), sizes),
)


@given(
    sent=st.lists(pieces, max_size=30), seed=st.integers(0, 2**32), heartbeat=st.booleans(), seen=st.integers(0, 200)
)
@settings(max_examples=300, deadline=None)
def test_each_message_is_told_once_and_in_order(
    sent: list[tuple[str, int]], seed: int, heartbeat: bool, seen: int
) -> None:
    rng = random.Random(seed)
    stream, expected, controls = b"", [], []
    for number, (kind, size) in enumerate(sent):
        message = some(number, size)
        match kind:
            case "ping" | "pong":
                opcode = PING if kind == "ping" else PONG
                stream += frame(opcode, message[:100])
                controls.append(opcode)
            case "fragments":
                cut = rng.randrange(len(message) + 1)
                stream += frame(TEXT, message[:cut], final=False)
                if rng.random() < 0.5:
                    stream += frame(PING, b"")
                    controls.append(PING)
                stream += frame(MORE, message[cut:])
                expected.append(message)
            case _:
                stream += frame(TEXT if kind == "text" else BINARY, message)
                expected.append(message)
    line = Line(stream[:seen], heartbeat=heartbeat)
    at = min(seen, len(stream))
    if rng.random() < 0.9:
        line.listen()
    while at < len(stream):
        size = rng.choice((1, 3, 50, 1000, 5000, 100_000))
        line.shortcut.data_received(stream[at : at + size])
        at += size
        line.receive(rng.choice((0, 0, 1, 100)))
    line.receive(len(line.inner.messages))
    assert line.told == expected
    assert line.inner.controls == controls
    assert line.inner.data == line.inner.begun == b""
    assert line.shortcut._over or line.shortcut.owed == 0


def test_usual_messages_never_reach_aiohttp() -> None:
    line = Line()
    line.listen()
    messages = [some(number, 1400) for number in range(50)]
    for message in messages:
        line.shortcut.data_received(frame(TEXT, message))
    assert line.told == messages
    assert line.heard == 50
    assert line.inner == Inner()


def test_a_flood_leaves_others_a_turn() -> None:
    """Past a few in one piece the rest goes by the queue."""
    line = Line()
    line.listen()
    messages = [some(number, 200) for number in range(100)]
    line.shortcut.data_received(b"".join(frame(TEXT, message) for message in messages))
    assert line.heard <= 16
    line.shortcut.data_received(frame(TEXT, b"behind them"))
    assert line.told == messages[: line.heard]
    line.receive(1000)
    line.shortcut.data_received(frame(TEXT, b"heard again"))
    assert line.told == [*messages, b"behind them", b"heard again"]


@pytest.mark.parametrize(
    "end",
    [
        frame(CLOSE, struct.pack("!H", 1000)),
        frame(3, b"reserved opcode, not control") + frame(11, b"reserved"),
        frame(PING, b"x" * 126),
        frame(PING, b"not whole", final=False),
        frame(TEXT, b"a bit that means nothing here", reserved=0x40) + frame(CLOSE, b""),
    ],
)
def test_after_the_end_or_a_fault_all_is_aiohttps(end: bytes) -> None:
    line = Line()
    line.listen()
    line.shortcut.data_received(frame(TEXT, b"before"))
    line.shortcut.data_received(end + frame(TEXT, b"after it"))
    line.shortcut.data_received(frame(TEXT, b"and later"))
    assert line.told == [b"before"]


def test_text_that_is_no_utf_8_is_aiohttps_to_refuse() -> None:
    line = Line()
    line.listen()
    for size in (3, 200):
        line.shortcut.data_received(frame(TEXT, b"\xff" * size))
        assert line.inner.messages.pop() == b"\xff" * size
    assert line.told == []


def test_the_rest_of_the_protocol_is_passed_on() -> None:
    line = Line()
    line.listen()
    line.shortcut.connection_lost(None)
    assert line.inner.lost
    line.shortcut.data_received(frame(TEXT, b"too late"))
    assert line.told == []
