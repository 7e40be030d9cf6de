"""Both ends of a WebSocket: aiohttp's, which also hear messages at once and say how much of what was sent still waits."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from kallglot_ari.websocket.frames import client_frame, server_frame
from kallglot_ari.websocket.shortcut import Shortcut

_MESSAGES = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
_FAIR = 64
"""Pings in a row, after which others have a turn: aiohttp would answer all that are there without a pause."""


class Direct:
    """What both ends have. Frames for the transport are made by `frame`."""

    transport: asyncio.Transport | None = None
    frame: Callable[[int, bytes], bytes] = staticmethod(client_frame)
    _shortcut: Shortcut | None = None
    _bare = False
    """Whether a message is sent as it is: nothing was agreed that would change it."""
    _pings = 0

    def listen(self, hear: Callable[[str], None]) -> None:
        """Tell `hear` what text messages can be told as they come in; `receive` has the others, and everything else."""
        if self._shortcut is not None:
            self._shortcut.listen(hear)

    def listen_binary(self, hear: Callable[[bytes], None]) -> None:
        """As `listen` does, of binary messages."""
        if self._shortcut is not None:
            self._shortcut.listen_binary(hear)

    @property
    def plain(self) -> asyncio.Transport | None:
        """The transport, if whole frames may be written to it; None where something was agreed that would change them."""
        return self.transport if self._bare else None

    @property
    def backlog(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def keep_short(self, size: int) -> None:
        """Let the kernel take no more than about `size` bytes that the network has not."""
        raw = None if self.transport is None else self.transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, size)

    async def _is_ping(self, message: aiohttp.WSMessage, pong: Callable[[bytes], Awaitable[None]]) -> bool:
        """Whether it is a ping, which is answered, or the answer to one."""
        if message.type is aiohttp.WSMsgType.PING:
            await pong(message.data)
        elif message.type is not aiohttp.WSMsgType.PONG:
            return False
        self._pings += 1
        if self._pings % _FAIR == 0:
            await asyncio.sleep(0)
        return True

    def _received(self, message: aiohttp.WSMessage) -> aiohttp.WSMessage:
        if self._shortcut is not None and message.type in _MESSAGES:
            self._shortcut.owed -= 1
        return message


class Socket(Direct, aiohttp.ClientWebSocketResponse):
    """A client's end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        response = next(a for a in (*args, *kwargs.values()) if isinstance(a, aiohttp.ClientResponse))
        connection = response.connection
        if connection is None or connection.transport is None or connection.protocol is None:
            return
        self.transport = connection.transport
        self._bare = not self.compress
        seen = getattr(connection.protocol, "_tail", None)  # it came with the answer to the handshake
        if self._bare and isinstance(seen, bytes):
            heartbeat = kwargs.get("heartbeat") is not None
            self._shortcut = Shortcut(connection.protocol, seen, heartbeat=heartbeat, transport=self.transport)
            self.transport.set_protocol(self._shortcut)

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        while await self._is_ping(message := await super().receive(timeout), self.pong):
            pass
        return self._received(message)


class ServerSocket(Direct, web.WebSocketResponse):
    """A server's end, without compression and heartbeat."""

    frame = staticmethod(server_frame)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(compress=False, autoping=False, **kwargs)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        transport, protocol = request.transport, request.protocol
        if transport is None or getattr(protocol, "_message_tail", None) != b"":
            # frames before the handshake was answered: where one begins is not known
            return await super().prepare(request)
        shortcut = Shortcut(protocol, b"", masked=True, transport=transport)
        transport.set_protocol(shortcut)
        try:
            writer = await super().prepare(request)
        except BaseException:
            transport.set_protocol(protocol)
            raise
        self.transport, self._shortcut, self._bare = transport, shortcut, True
        return writer

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        while await self._is_ping(message := await super().receive(timeout), self.pong):
            pass
        return self._received(message)
