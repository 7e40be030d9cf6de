"""A client's connection until a handler sees a request of it: how long it may take, and what aiohttp answers by itself."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import web

from kallglot_ari.door import Door
from kallglot_ari.portions import Portions
from kallglot_ari.web.problem import of_http_error, of_status

PORTION = 2048
"""Bytes of a request that are looked at before everybody else has a turn."""
_IN_A_ROW = 16
"""Requests of one client that are answered before everybody else has a turn: from Python 3.12 on, aiohttp would answer all that are there without a pause."""
LINGER = 2.0
"""Seconds in which the rest of a body is still taken, and thrown away, when the answer was given without it."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "kallglot-ari",
}
"""Of every answer; all but `Server` may be another's."""


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("_answered", "_door", "_entered", "_portions")

    def __init__(self, *args: Any, door: Door, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door
        self._entered: asyncio.Transport | None = None
        self._portions: Portions | None = None
        self._answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast("asyncio.Transport", transport)  # uvloop's is none by name
        if self._door.enters(connection):
            self._entered = connection
            self._portions = Portions(connection, self._look_at, self)
            super().connection_made(transport)
        else:
            connection.abort()

    def data_received(self, data: bytes) -> None:
        if self._portions is not None:
            self._portions.take(data)

    def _look_at(self, data: bytes) -> None:
        super().data_received(data[:PORTION])
        if self._portions is not None:
            self._portions.hold(data[PORTION:])

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._portions is not None:
            self._portions.drop()
        if self._entered is not None:
            self._door.leaves(self._entered)
            super().connection_lost(exc)

    def asked(self) -> None:
        """A request is there whole, but for its body, which has a deadline of its own."""
        if self._entered is not None:
            self._door.asked(self._entered, stranger=True)

    def known(self) -> None:
        """A request of it was let through by what it knows, or by where it comes from."""
        if self._entered is not None:
            self._door.known(self._entered)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP (400), and what failed outside of every handler."""
        super().handle_error(request, status, exc, message)  # logs it; its text would show the client aiohttp's words
        response = of_status(400 if isinstance(exc, UnicodeEncodeError) else status).response()
        response.headers.update(HEADERS)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """An `Expect` that nobody knows is refused by the router, before the middlewares."""
        self.asked()
        if isinstance(resp, web.HTTPException):
            resp = of_http_error(resp, request.path).response()
        finished = await super().finish_response(request, resp, start_time)
        if "Content-Encoding" in request.headers and not request.content.is_eof():
            # to throw the rest away aiohttp would unpack it, a thousand times as much, while everybody else stands still
            self.force_close()
        self._answered += 1
        if self._answered % _IN_A_ROW == 0:
            await asyncio.sleep(0)
        return finished
