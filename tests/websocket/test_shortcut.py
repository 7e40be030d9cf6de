"""Whoever listens by the shortcut hears what aiohttp alone would have given, in the same order, however the bytes come."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from aiohttp._websocket.reader_py import WebSocketReader
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.websocket import shortcut
from kallglot_ari.websocket.frames import BINARY, PING, PONG, TEXT, client_frame
from kallglot_ari.websocket.frames import server_frame as frame
from kallglot_ari.websocket.shortcut import Shortcut

CLOSE = 0x88


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

    def __init__(
        self,
        seen: bytes = b"",
        *,
        heartbeat: bool = False,
        listening: bool = True,
        first: int = TEXT,
        masked: bool = False,
    ) -> None:
        self.inner = Inner()
        self.inner.data_received(seen)
        self.shortcut = Shortcut(self.inner, seen, heartbeat=heartbeat, masked=masked)
        self.first = first
        self.told: list[tuple[str, Any]] = []
        self.heard = 0
        if listening and first == TEXT:
            self.shortcut.listen(self.hear)
        elif listening:
            self.shortcut.listen_binary(self.hear)

    def hear(self, said: str | bytes) -> None:
        self.receive()
        self.told.append(("TEXT" if self.first == TEXT else "BINARY", said))
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


SIZES = st.integers(0, 70_000)
TEXTS = st.one_of(st.text(max_size=300), SIZES.map(lambda size: "x" * size)).map(str.encode)
DATA = st.one_of(st.binary(max_size=300), SIZES.map(bytes))
KINDS = st.tuples(st.sampled_from([TEXT, BINARY]), st.booleans())


def frames(first: int, *, masked: bool) -> st.SearchStrategy[list[Callable[[], bytes]]]:
    """Frames of all kinds, mostly what is heard; made when they are called, since masks are random."""
    own, other = (client_frame, frame) if masked else (frame, client_frame)
    payloads, others = (TEXTS, DATA) if first == TEXT else (DATA, TEXTS)
    return st.lists(
        st.one_of(
            payloads.map(lambda said: partial(own, first, said)),
            payloads.map(lambda said: partial(own, first, said)),
            payloads.map(lambda said: partial(other, first, said)),
            others.map(lambda said: partial(own, TEXT + BINARY - first, said)),
            st.binary(max_size=125).map(lambda data: partial(own, PING, data)),
            st.binary(max_size=125).map(lambda data: partial(own, PONG, data)),
            st.binary(min_size=1, max_size=30).map(
                lambda data: lambda: own(0x02, data) + own(PING, b"between") + own(0x00, data) + own(0x80, data)
            ),
        ),
        min_size=1,
        max_size=30,
    )


SEEN = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(0, 40))
"""Most handshakes come alone: what follows one in part is aiohttp's for good, and nothing would be heard by the shortcut."""


@given(st.data(), KINDS, st.lists(st.booleans(), max_size=8), SEEN)
def test_however_it_comes_it_is_told_in_order(
    drawn: st.DataObject, kind: tuple[int, bool], received: list[bool], seen: int
) -> None:
    first, masked = kind
    made = [make() for make in drawn.draw(frames(first, masked=masked))]
    data, ends = b"".join(made), list(itertools.accumulate(map(len, made)))
    near = st.sampled_from(ends).flatmap(lambda end: st.integers(end - 6, end + 6))
    cuts = drawn.draw(st.lists(st.one_of(near, near, st.integers(0, len(data))), max_size=12))
    seen = min(seen, len(data))
    edges = sorted({seen, len(data), *(cut for cut in cuts if seen <= cut <= len(data))})
    both = Both(data[:seen], first=first, masked=masked)
    both.receive()
    for number, (a, b) in enumerate(itertools.pairwise(edges)):
        both.feed(data[a:b], receive=number >= len(received) or received[number])
    both.receive()
    assert both.told == alone(data)[0]


def test_what_is_aiohttps_keeps_its_place_before_and_after_what_is_heard() -> None:
    """A ping that is lost is a connection that the server gives up, in the middle of a call."""
    both = Both()
    said = [frame(PING, b"1"), text("one"), frame(PONG, b"2"), frame(PING, b"3"), text("two"), frame(BINARY, b"4")]
    both.feed(b"".join(said))
    assert both.heard == 2
    assert both.told == alone(b"".join(said))[0]
    parts = frame(0x01, b"a") + frame(PING, b"5") + frame(0x80, b"b") + text("not before they are received")
    both.feed(parts, receive=False)
    assert both.heard == 2
    both.receive()
    both.feed(text("three"))
    assert both.heard == 3


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


@pytest.mark.parametrize("first", [TEXT, BINARY])
@pytest.mark.parametrize("masked", [False, True])
def test_a_message_that_comes_alone_is_not_shown_to_aiohttp(first: int, masked: bool) -> None:
    both = Both(first=first, masked=masked)
    for size in (0, 1, 125, 126, 1100, 65_535):
        both.feed((client_frame if masked else frame)(first, b"x" * size))
    assert (both.heard, both.inner.shown) == (6, 0)
    assert [len(said) for _, said in both.told] == [0, 1, 125, 126, 1100, 65_535]


def test_what_is_not_masked_as_it_should_be_is_aiohttps() -> None:
    one, other = Both(masked=True), Both()
    one.feed(text("a server's"))
    other.feed(client_frame(TEXT, b"a client's"))
    assert (one.heard, other.heard) == (0, 0)
    assert one.told + other.told == [("TEXT", "a server's"), ("TEXT", "a client's")]


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


def test_a_flood_that_came_with_the_handshake_is_not_looked_at_again() -> None:
    both = Both(text("x") * shortcut._FRAMES)
    both.receive()
    both.feed(text("y"))
    assert both.heard == 1
    both = Both(text("x") * (shortcut._FRAMES + 1))
    both.receive()
    both.feed(text("y"))
    both.receive()
    assert both.heard == 0
    assert len(both.told) == shortcut._FRAMES + 2


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
