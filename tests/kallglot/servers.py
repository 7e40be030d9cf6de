"""Small servers that misbehave on purpose, and a client to try them on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from kallglot_ari.calls.interfaces import StreamEvent
from kallglot_ari.calls.model import Session, StreamAudio, UplinkChunk
from kallglot_ari.clock import SystemClock
from kallglot_ari.kallglot import stream
from kallglot_ari.kallglot.breaker import RetryPolicy
from kallglot_ari.kallglot.client import KallglotClient
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import KallglotSettings, TrunkSettings

KEY = "sk_test_secret_key"
QUICK = RetryPolicy(deadline=2.0, base=0.01, cap=0.05)


def created(session_id: str = "sess_1", url: str = "ws://127.0.0.1:1/x?token=kst_t") -> dict[str, Any]:
    """An answer to POST /sessions."""
    return {"id": session_id, "status": "created", "mode": "m", "stream": {"url": url, "token": "kst_t"}}


def problem(status: int, code: str, headers: dict[str, str] | None = None, **more: Any) -> web.Response:
    body = orjson.dumps({"error": {"type": "t", "code": code, "message": "why", **more}})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def ok(data: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(data), content_type="application/json")


@dataclass
class Seen:
    """A request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Answer = web.StreamResponse | Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Scripted:
    """Answers one after another; the last one again and again. Probes are answered 404 and not noted."""

    answers: list[Answer] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    probes: int = 0
    probe_status: int = 404
    connections: set[Any] = field(default_factory=set)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        if request.method == "GET" and "sess_0000" in request.path:
            self.probes += 1
            return problem(self.probe_status, "session_not_found")
        body = await request.read()
        self.seen.append(
            Seen(request.method, request.raw_path, dict(request.headers), orjson.loads(body) if body else None)
        )
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, web.Response):
            copy = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
            return copy
        assert not isinstance(answer, web.StreamResponse)
        return await answer(request)


@contextlib.asynccontextmanager
async def serving(*answers: Answer, port: int = 0) -> AsyncIterator[Scripted]:
    """A scripted server on loopback."""
    script = Scripted(list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    script.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield script
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def talking(
    converse: Callable[[web.WebSocketResponse, web.Request], Awaitable[None]], **options: Any
) -> AsyncIterator[str]:
    """A WebSocket server; yields its ws:// URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(**options)
        await socket.prepare(request)
        with contextlib.suppress(ConnectionError):
            await converse(socket, request)
        return socket

    async with serving(answer) as server:
        yield server.url.replace("http://", "ws://")


@contextlib.asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """Takes connections and never says anything."""
    held: list[asyncio.StreamWriter] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def client(*urls: str, **settings: Any) -> AsyncIterator[KallglotClient]:
    """A started client for `urls`, quick to retry."""
    policy = settings.pop("policy", QUICK)
    metrics = settings.pop("metrics", None) or Metrics()
    clock = settings.pop("clock", None) or SystemClock()
    made = KallglotClient(
        KallglotSettings(**{"failover_timeout_ms": 300} | settings),
        TrunkSettings(),
        metrics,
        clock,
        urls=urls,
        api_key=settings.pop("api_key", KEY),
        policy=policy,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def session(url: str, token: str = "kst_token") -> Session:
    return Session(id="sess_1", mode="m", stream_url=url, stream_token=token, expires_at=None)


def chunk(at: int = 0, received: float | None = None, payload: bytes = b"\x10" * 800) -> UplinkChunk:
    return UplinkChunk(StreamAudio("mulaw", 8000, payload), at, SystemClock().now() if received is None else received)


class Heard(list[StreamEvent]):
    """A sink that keeps what it is told."""

    def __call__(self, event: StreamEvent) -> None:
        self.append(event)

    async def until(
        self, count: int = 1, kind: type[Any] | tuple[type[Any], ...] = object, within: float = 3.0
    ) -> list[Any]:
        """Wait for `count` events of `kind`."""
        async with asyncio.timeout(within):
            while len(found := [event for event in self if isinstance(event, kind)]) < count:
                await asyncio.sleep(0.002)
        return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """A metric's value, 0 when it has none."""
    return metrics.registry.get_sample_value(name, labels or None) or 0.0


READY = '{"type":"session.ready","session_id":"sess_1"}'


async def gone(ws: web.WebSocketResponse) -> list[Any]:
    """Read until the client is gone; what it said."""
    return [orjson.loads(message.data) async for message in ws if message.type is aiohttp.WSMsgType.TEXT]


@contextlib.asynccontextmanager
async def opened(converse: Any, sink: Any, **settings: Any) -> AsyncIterator[stream.Stream]:
    options = settings.pop("server", {})
    async with talking(converse, **options) as url, client("http://127.0.0.1:1", **settings) as api:
        made = await api.open_stream(session(url), sink)
        yield made
        await made.close()


def noting(got: list[Any]) -> Any:
    """The far end of a stream: ready, and notes what it is told."""

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        got.extend(await gone(ws))

    return converse


def refused() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def late(answer: web.Response, seconds: float) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return answer

    return handler


def said(number: int) -> str:
    """A partial transcript."""
    return orjson.dumps(
        {"type": "transcript.partial", "speaker": "customer", "language": "de", "text": str(number)}
    ).decode()
