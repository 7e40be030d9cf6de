"""What a transport read in one go, handled in portions with everybody's turn between them.

A loop reads up to 256 kB at once. Full of frames or chunks of a few bytes each, that is 50,000 of them: tens of milliseconds in which no call
is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HELD_MAX = 4 << 20
"""Bytes held back at most; a peer that gets more of them in is cut off."""


class Portions:
    """Holds back what came beyond a portion; meanwhile `transport` reads no more.

    `reader` may let it read again all the same, a read at a time: so hold back after it was given its portion, when it has done that.

    :param give: told the bytes when it is their turn; it may hold back of them again.
    :param reader: aiohttp's protocol, which stops the transport for reasons of its own.
    """

    __slots__ = ("_give", "_held", "_loop", "_reader", "_transport")

    def __init__(self, transport: asyncio.Transport, give: Callable[[bytes], None], reader: object) -> None:
        self._transport = transport
        self._give = give
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._held = b""

    def __bool__(self) -> bool:
        """Whether something is held back: what comes now is for `hold`."""
        return bool(self._held)

    def take(self, data: bytes) -> None:
        """What the transport has just read: its turn is now, or behind what is held."""
        if self._held:
            self.hold(data)
        else:
            self._give(data)

    def hold(self, data: bytes) -> None:
        """Keep `data` behind what is held already."""
        if not data:
            return
        if not self._held:
            self._loop.call_soon(self._next)
        self._held += data
        if self._transport.is_closing():
            return
        if len(self._held) > HELD_MAX:
            self._transport.abort()
        else:
            self._transport.pause_reading()

    def drop(self) -> None:
        """The connection is over."""
        self._held = b""

    def _next(self) -> None:
        data, self._held = self._held, b""
        if not data:
            return
        self._give(data)
        if not self._held and not self._transport.is_closing() and not self._stopped():
            self._transport.resume_reading()

    def _stopped(self) -> bool:
        return any(getattr(self._reader, name, False) for name in ("_reading_paused", "_buffer_paused"))
