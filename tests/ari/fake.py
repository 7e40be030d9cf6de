"""An Asterisk made of aiohttp, for what a real one does only rarely: errors, drops, slowness and nonsense."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType

import orjson
from aiohttp import web

from kallglot_ari.ari.socket import SocketEvent
from kallglot_ari.settings import AriSettings

PASSWORD = "s3cret-of-the-test"
Answer = tuple[int, object]
Behaviour = Answer | Callable[[web.Request], Awaitable[web.StreamResponse]]


def channel(channel_id: str, **more: object) -> dict[str, object]:
    """A channel as 16.28 sends it: without the fields that came later."""
    party = {"name": "", "number": ""}
    return {
        "id": channel_id,
        "name": f"PJSIP/{channel_id}",
        "state": "Up",
        "caller": party,
        "connected": party,
        "accountcode": "",
        "dialplan": {"context": "c", "exten": "s", "priority": 1},
        "creationtime": "2026-11-24T04:57:53.930+0000",
        "language": "en",
        **more,
    }


def event(kind: str, **more: object) -> dict[str, object]:
    return {"type": kind, "application": "kallglot", "timestamp": "2026-11-24T04:57:53.930+0000", **more}


@dataclass
class Seen:
    method: str
    url: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeAsterisk:
    """`async with FakeAsterisk() as fake`; `answers` by method and path overrides what it says."""

    version: str = "22.10.1~dfsg-1"
    answers: dict[tuple[str, str], Behaviour] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    greeting: list[dict[str, object]] = field(default_factory=list)
    """Events sent as soon as the socket opens."""
    port: int = 0
    tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> FakeAsterisk:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        for socket in self.sockets:
            await socket.close()
        await self._runner.cleanup()

    def settings(self, password: str = PASSWORD) -> AriSettings:
        return AriSettings.model_validate({"url": f"http://127.0.0.1:{self.port}", "password": password})

    async def send(self, *documents: dict[str, object] | str) -> None:
        for document in documents:
            await self.sockets[-1].send_str(document if isinstance(document, str) else orjson.dumps(document).decode())

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(Seen(request.method, str(request.raw_path), dict(request.headers), await request.read()))
        path = request.path.removeprefix("/ari")
        behaviour = self.answers.get((request.method, path)) or self._default(request.method, path)
        expected = "Basic " + base64.b64encode(f"kallglot:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != expected:
            behaviour = (401, {"message": "Authentication required"})
        if path == "/events" and isinstance(behaviour, tuple) and behaviour[0] == 200:
            return await self._events(request)
        if not isinstance(behaviour, tuple):
            return await behaviour(request)
        status, document = behaviour
        if isinstance(document, bytes):
            return web.Response(status=status, body=document)
        return web.json_response(document, status=status) if document is not None else web.Response(status=status)

    def _default(self, method: str, path: str) -> Answer:
        if method == "GET" and path == "/asterisk/info":
            return 200, {"system": {"version": self.version, "entity_id": "00"}}
        if method == "GET" and path == "/applications/kallglot":
            return 200, {"name": "kallglot", "channel_ids": ["one"]}
        if method == "GET" and path == "/channels":
            return 200, [channel("one")]
        if method == "GET" and path in ("/bridges", "/events"):
            return 200, []
        if method == "GET" and path == "/asterisk/ping":
            return 200, {"asterisk_id": "00", "ping": "pong", "timestamp": ""}
        return 404, {"message": "Channel not found"}

    async def _events(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        await self.send(*self.greeting)
        async for _ in socket:
            pass
        return socket


class Heard:
    """A sink that remembers, and can be waited on."""

    def __init__(self) -> None:
        self.events: list[SocketEvent] = []
        self._more = asyncio.Event()

    def __call__(self, event: SocketEvent) -> None:
        self.events.append(event)
        self._more.set()

    async def until(self, count: int) -> list[SocketEvent]:
        async with asyncio.timeout(10):
            while len(self.events) < count:
                self._more.clear()
                await self._more.wait()
        return self.events
