"""How long the event loop works before it gives others a turn, and a peer that sends as fast as it can."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


async def longest_turn(seconds: float) -> float:
    """The most processor time, in seconds, that the loop's thread took between two turns: of three spells the least, for a host that is slow for a moment.

    What other threads and processes take is not counted.
    """
    gc.collect()
    gc.disable()  # as the service does
    try:
        return min([await _longest_turn(seconds / 3) for _ in range(3)])
    finally:
        gc.enable()


async def _longest_turn(seconds: float) -> float:
    until, before, longest = time.monotonic() + seconds, time.thread_time(), 0.0
    while time.monotonic() < until:
        await asyncio.sleep(0.001)
        now = time.thread_time()
        before, longest = now, max(longest, now - before)
    return longest


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
            peer.sendall(upgraded + accept + b"\r\n\r\n" + bytes([0x81, len(ready)]) + ready)
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
