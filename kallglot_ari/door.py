"""The connections of a server: what asks for nothing must not take the descriptors that calls need."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import web

from kallglot_ari import log

_log = log.get(__name__)

ASK_WITHIN = 10.0
"""Seconds that a client may take for its first request."""
SILENT_MAX = 200
"""Connections that have not asked yet; of more the oldest is dropped."""
CONNECTIONS_MAX = 2000
"""Connections at once; further ones are dropped."""


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
