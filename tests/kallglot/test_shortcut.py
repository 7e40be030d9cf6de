"""Whoever listens by the shortcut hears what aiohttp alone would have given, in the same order, however the bytes come."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from typing import Any

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.helpers import websocket_mask
from aiohttp._websocket.reader_py import WebSocketReader
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.kallglot import shortcut, socket
from kallglot_ari.kallglot.shortcut import Shortcut

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


def frame(first: int, payload: bytes, *, masked: bool = False) -> bytes:
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        header = struct.pack("!BB", first, bit | size)
    elif size < 1 << 16:
        header = struct.pack("!BBH", first, bit | 126, size)
    else:
        header = struct.pack("!BBQ", first, bit | 127, size)
    return header + (bytes(4) if masked else b"") + payload  # a mask of zeros leaves all as it is


def text(said: str) -> bytes:
    return frame(TEXT, said.encode())


class Queue:
    """What aiohttp's parser feeds."""

    _size, _limit = 0, 1 << 30
    _stalled_reader = None

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.failed: BaseException | None = None

    def feed_data(self, message: Any, size: int) -> None:
        self.messages.append(message)

    def set_exception(self, exc: BaseException, *_: Any) -> None:
        self.failed = exc


class Inner(asyncio.Protocol):
    """aiohttp's side: parses what it is shown."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.parser = WebSocketReader(self.queue, 1 << 22, compress=False, decode_text=True)  # type: ignore[arg-type]
        self.shown = 0

    def data_received(self, data: bytes) -> None:
        self.shown += len(data)
        self.parser.feed_data(data)

    def take(self) -> list[tuple[str, Any]]:
        taken = [(message.type.name, message.data) for message in self.queue.messages]
        self.queue.messages.clear()
        return taken


class Both:
    """The shortcut and aiohttp behind it; `told` is what came of both, in order."""

    def __init__(self, seen: bytes = b"", *, heartbeat: bool = False, listening: bool = True) -> None:
        self.inner = Inner()
        self.inner.data_received(seen)
        self.shortcut = Shortcut(self.inner, seen, heartbeat=heartbeat)
        self.told: list[tuple[str, Any]] = []
        self.heard = 0
        if listening:
            self.shortcut.listen(self.hear)

    def hear(self, said: str) -> None:
        self.receive()
        self.told.append(("TEXT", said))
        self.heard += 1

    def receive(self) -> None:
        """As the task does that receives of aiohttp."""
        for message in self.inner.take():
            self.shortcut.owed -= message[0] in ("TEXT", "BINARY")
            self.told.append(message)

    def feed(self, data: bytes, *, receive: bool = True) -> None:
        self.shortcut.data_received(data)
        if receive:
            self.receive()


def alone(data: bytes) -> tuple[list[tuple[str, Any]], bool]:
    inner = Inner()
    inner.data_received(data)
    return inner.take(), inner.queue.failed is not None


PAYLOADS = st.one_of(st.text(max_size=300), st.integers(0, 70_000).map(lambda size: "x" * size))
FRAMES = st.one_of(
    PAYLOADS.map(text),
    PAYLOADS.map(text),
    PAYLOADS.map(lambda said: frame(TEXT, said.encode(), masked=True)),
    st.binary(max_size=300).map(lambda data: frame(BINARY, data)),
    st.binary(max_size=125).map(lambda data: frame(PING, data)),
    st.binary(max_size=125).map(lambda data: frame(PONG, data)),
    st.binary(min_size=1, max_size=30).map(
        lambda data: frame(0x02, data) + frame(PING, b"between") + frame(0x00, data) + frame(0x80, data)
    ),
)


@given(
    st.lists(FRAMES, max_size=30), st.lists(st.integers(0, 1 << 20), max_size=12), st.lists(st.booleans()), st.integers(0, 40)
)  # fmt: skip
def test_however_it_comes_it_is_told_in_order(
    frames: list[bytes], cuts: list[int], received: list[bool], seen: int
) -> None:
    data = b"".join(frames)
    seen = min(seen, len(data))
    edges = sorted({seen, len(data), *(seen + cut % (len(data) - seen + 1) for cut in cuts)})
    both = Both(data[:seen])
    both.receive()
    for number, (a, b) in enumerate(itertools.pairwise(edges)):
        both.feed(data[a:b], receive=number >= len(received) or received[number])
    both.receive()
    assert both.told == alone(data)[0]


@pytest.mark.parametrize(
    "fault",
    [
        frame(0xC1, b"rsv1"), frame(0x83, b"unknown"), frame(0x8B, b"unknown"), frame(0x80, b"continues nothing"),
        frame(TEXT, b"\xff\xfe"), frame(TEXT, b"\xff" * 200), frame(0x09, b"a ping in parts"), frame(PING, b"x" * 126),
        frame(CLOSE, struct.pack("!H", 1000)), frame(CLOSE, b""), frame(CLOSE, b"x"),
    ],
)  # fmt: skip
def test_nothing_is_heard_after_the_end_or_a_fault(fault: bytes) -> None:
    both = Both()
    for data in (text("before"), fault, text("after" * 100), text("after")):
        both.feed(data)
    assert both.heard == 1
    assert (both.inner.queue.failed is not None) == alone(fault)[1]


def test_a_message_that_comes_alone_is_not_shown_to_aiohttp() -> None:
    both = Both()
    for size in (0, 1, 125, 126, 1100, 65_535):
        both.feed(text("x" * size))
    assert (both.heard, both.inner.shown) == (6, 0)


def test_a_message_in_pieces_is_heard_when_it_is_whole_and_a_huge_one_is_aiohttps() -> None:
    both = Both()
    whole = text("x" * 5000)
    for at in range(0, len(whole), 1448):
        both.feed(whole[at : at + 1448])
    assert (both.heard, both.inner.shown) == (1, 0)
    huge = text("x" * 100_000)
    for at in range(0, len(huge), 16_384):
        both.feed(huge[at : at + 16_384])
    both.feed(text("next"))
    assert (both.heard, both.inner.shown, len(both.told)) == (2, len(huge), 3)


def test_of_a_flood_so_many_are_heard_in_a_row_and_the_rest_is_received() -> None:
    both = Both()
    flood = [text(f"message {number}") for number in range(50)]
    both.feed(b"".join(flood), receive=False)
    assert both.heard == shortcut._IN_A_ROW
    both.feed(text("the next waits its turn"), receive=False)
    assert both.heard == shortcut._IN_A_ROW
    both.receive()
    both.feed(text("now"))
    assert both.heard == shortcut._IN_A_ROW + 1
    assert both.told == alone(b"".join([*flood, text("the next waits its turn"), text("now")]))[0]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 500])
def test_what_came_with_the_handshake_is_gone_on_from(size: int) -> None:
    first = text("x" * 1000)
    both = Both(first[:size])
    both.feed(first[size:])
    both.feed(text("next"))
    assert both.told == [("TEXT", "x" * 1000), ("TEXT", "next")]


def test_aiohttps_heartbeat_sees_that_something_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    both = Both(heartbeat=True)
    for _ in range(30):
        both.feed(text("x" * 200))
        now += 0.1
    assert both.heard == 27
    assert len(both.told) == 30


def test_all_is_aiohttps_until_somebody_listens() -> None:
    both = Both(listening=False)
    both.feed(text("ready")[:3])
    both.feed(text("ready")[3:], receive=False)
    both.shortcut.listen(both.hear)
    both.feed(text("next"), receive=False)
    assert both.heard == 0
    both.receive()
    both.feed(text("heard"))
    assert both.told == [("TEXT", "ready"), ("TEXT", "next"), ("TEXT", "heard")]
    assert both.heard == 1


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1100, 65_535, 65_536, 100_001])
def test_a_frame_of_ours_is_what_a_server_reads(size: int) -> None:
    said = ("ä" * (size // 2) + "x" * (size % 2)).encode()
    inner = Inner()
    inner.data_received(socket.text_frame(said) + socket.text_frame(b"next"))
    assert inner.take() == [(WSMsgType.TEXT.name, said.decode()), (WSMsgType.TEXT.name, "next")]


@given(st.binary(min_size=4, max_size=4), st.binary(max_size=70))
def test_the_masks_are_the_same(mask: bytes, data: bytes) -> None:
    one, other = bytearray(data), bytearray(data)
    websocket_mask(mask, one)
    socket._mask_slowly(mask, other)
    assert one == other
