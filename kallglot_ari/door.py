"""The connections of a server: what asks for nothing must not take the descriptors that calls need."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from kallglot_ari import log
from kallglot_ari.tasks import Tasks

_log = log.get(__name__)

ASK_WITHIN = 10.0
"""Seconds that a client may take for its first request."""
SILENT_MAX = 200
"""Connections that have not asked yet; of more the oldest is dropped."""
CONNECTIONS_MAX = 2000
"""Connections at once; further ones are dropped."""
_NOTHING_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_AGAIN = 1.0
"""Seconds until connections are taken again after one of these."""


class Door:
    """The connections there are."""

    def __init__(
        self, *, full: str, ask_within: float = ASK_WITHIN, most: int = CONNECTIONS_MAX, silent: int = SILENT_MAX
    ) -> None:
        """:param full: what the log says when there are more than `most`. :param silent: as many may not have asked yet."""
        self._told = full
        self._ask_within = ask_within
        self._most = most
        self._silent_most = silent
        self._open: set[asyncio.BaseTransport] = set()
        self._silent: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        """Those that have not asked yet, the oldest first."""
        self._strangers: dict[asyncio.BaseTransport, None] = {}
        """Those that have asked, and for nothing that needs a credential, the oldest first."""
        self._full = False

    def enters(self, transport: asyncio.Transport) -> bool:
        """A new connection; False for one too many. Before that, strangers have to leave: they would keep out whoever may ask."""
        full = len(self._open) >= self._most
        if full and not self._full:
            _log.warning(self._told, connections=len(self._open))
        self._full = full
        if full:
            if not self._strangers:
                return False
            oldest = next(iter(self._strangers))
            self.leaves(oldest)
            cast("asyncio.Transport", oldest).abort()
        self._open.add(transport)
        loop = asyncio.get_running_loop()
        self._silent[transport] = loop.call_later(self._ask_within, transport.abort)
        if len(self._silent) > self._silent_most:
            oldest = next(iter(self._silent))
            self.asked(oldest)
            cast("asyncio.Transport", oldest).abort()
        return True

    def asked(self, transport: asyncio.BaseTransport, *, stranger: bool = False) -> None:
        """Its first request is there. :param stranger: nothing says yet that it may ask."""
        timer = self._silent.pop(transport, None)
        if timer is not None:
            timer.cancel()
            if stranger:
                self._strangers[transport] = None

    def known(self, transport: asyncio.BaseTransport) -> None:
        """It has shown that it may ask."""
        self._strangers.pop(transport, None)

    def leaves(self, transport: asyncio.BaseTransport) -> None:
        self.asked(transport)
        self.known(transport)
        self._open.discard(transport)


class Port:
    """A TCP port that is listened on, with or without TLS.

    asyncio's own server begins as many handshakes as come, each with 300 kB of buffers, and tells nobody before they are over.
    """

    def __init__(self, *, handshakes: int = SILENT_MAX) -> None:
        """:param handshakes: as many may be under way; of more the oldest is dropped."""
        self.number = 0
        self._most = handshakes
        self._server: asyncio.Server | None = None
        self._sockets: list[socket.socket] = []
        self._begun: dict[asyncio.Task[None], None] = {}
        """Handshakes that are under way, the oldest first."""
        self._tasks = Tasks("port")

    async def open(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        backlog: int,
    ) -> None:
        """:raises OSError: it cannot be listened on."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, host, port, backlog=backlog, start_serving=tls is None)
        self.number = server.sockets[0].getsockname()[1]
        if tls is None:
            self._server = server
            return
        self._sockets = [socket.socket(fileno=os.dup(bound.fileno())) for bound in server.sockets]
        server.close()
        try:
            for bound in self._sockets:
                bound.setblocking(False)
                bound.listen(backlog)
        except OSError:
            await self.close()
            raise
        for bound in self._sockets:
            self._tasks.spawn(self._accept(bound, factory, tls), name="accept")

    async def close(self) -> None:
        """Listen no more; connections that are there stay."""
        if self._server is not None:
            self._server.close()
        await self._tasks.close()
        for bound in self._sockets:
            bound.close()

    async def _accept(self, bound: socket.socket, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(bound)
            except OSError as error:  # else the client left meanwhile
                await asyncio.sleep(_AGAIN if error.errno in _NOTHING_LEFT else 0)
                continue
            if len(self._begun) >= self._most:
                oldest = next(iter(self._begun))
                self._ended(oldest)
                oldest.cancel()
            task = self._tasks.spawn(self._begin(connection, factory, tls), name="handshake")
            self._begun[task] = None
            task.add_done_callback(self._ended)
            await asyncio.sleep(0)  # who waits to be taken is taken without a pause

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._begun.pop(task, None)

    async def _begin(
        self, connection: socket.socket, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(factory, connection, ssl=tls, ssl_handshake_timeout=ASK_WITHIN)
        except OSError:  # it is no TLS, takes too long, or is gone
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise


class Guest(web.RequestHandler):
    """A connection to us; who does not say whose it is, is dropped."""

    __slots__ = ("_door",)

    def __init__(self, *args: Any, door: Door, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast("asyncio.Transport", transport)  # uvloop's is none by name
        if self._door.enters(connection):
            super().connection_made(transport)
        else:
            connection.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.transport is not None:
            self._door.leaves(self.transport)
            super().connection_lost(exc)
