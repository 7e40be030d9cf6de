"""How much the event loop does before it gives others a turn, and a peer that sends as fast as it can."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NamedTuple

import pytest
from aiohttp.http_parser import DeflateBuffer


class Work(NamedTuple):
    """What was done in a turn of the event loop."""

    calls: int
    """Functions called, of Python and built in."""
    octets: int
    """Octets given to a library that reads all of them before it returns."""


MOST_CALLS = 40_000
"""In a turn: some milliseconds of a machine of today. A read of 256 kB that is handled in one go makes 80,000 to 800,000."""
MOST_OCTETS = 16_384
_READERS = ("aiohttp.", "panoramisk.")


async def busiest_turn(seconds: float) -> Work:
    """The most that the event loop did in one turn, before others had theirs, within `seconds`.

    Work is counted, not timed: how long a turn takes is the machine's affair, and that of whatever else runs on it.
    """
    calls = octets = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls, octets
        if event in ("call", "c_call"):
            calls += 1
            code = frame.f_code
            if event == "call" and code.co_name == "data_received" and frame.f_globals["__name__"].startswith(_READERS):
                octets += len(frame.f_locals["data"])

    most = Work(0, 0)
    until = time.monotonic() + seconds
    sys.setprofile(note)
    try:
        while time.monotonic() < until:
            calls = octets = 0
            await asyncio.sleep(0)
            most = Work(max(most.calls, calls), max(most.octets, octets))
    finally:
        sys.setprofile(None)
    return most


def calls_of(function: Callable[[], object]) -> int:
    """How many functions it calls, of Python and built in."""
    calls = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@contextmanager
def flooding(port: int, first: bytes, again: bytes) -> Iterator[None]:
    """Connects to `port` of this machine, sends `first`, and then `again` over and over."""
    over = threading.Event()

    def flood() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as peer, suppress(OSError):
            peer.sendall(first)
            while not over.is_set():
                peer.sendall(again)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


@contextmanager
def flooding_streams(ready: bytes, again: bytes, *, patience: float = 3.0) -> Iterator[str]:
    """A WebSocket server for one client, told `ready` in a message and then `again`, which is frames, over and over; yields its URL.

    :param patience: seconds for which nothing more may be taken of it.
    """
    over, listening = threading.Event(), socket.create_server(("127.0.0.1", 0))
    listening.settimeout(5)

    def serve() -> None:
        with suppress(OSError), listening.accept()[0] as peer:
            peer.settimeout(patience)
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += peer.recv(4096)
            found = re.search(rb"(?i)sec-websocket-key: *(\S+)", asked)
            assert found
            accept = base64.b64encode(hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            upgraded = b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            # in one go: what a client has of it when the upgrade is answered takes another way than what comes later
            peer.sendall(upgraded + accept + b"\r\n\r\n" + bytes([0x81, len(ready)]) + ready + again)
            while not over.is_set():
                peer.sendall(again)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        over.set()
        listening.close()
        thread.join(10)


BOMB = gzip.compress(bytes(16 << 20), 9)
"""16 MB of nothing, which are 16 kB on the line."""
MOST_PIECES = 100
"""Pieces of 64 kB that may be unpacked of it."""


def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each piece that aiohttp unpacks of a body from now on."""
    pieces: list[None] = []
    feed = DeflateBuffer.feed_data

    def noted(buffer: DeflateBuffer, *args: Any) -> Any:
        pieces.append(None)
        return feed(buffer, *args)

    monkeypatch.setattr(DeflateBuffer, "feed_data", noted)
    return pieces
