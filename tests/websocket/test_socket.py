"""Both ends over a real connection: what is heard at once, and what aiohttp keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kallglot_ari.websocket.frames import BINARY, TEXT, client_frame
from kallglot_ari.websocket.socket import ServerSocket, Socket


@asynccontextmanager
async def served(handler: Any) -> AsyncIterator[int]:
    """The port of a server with one route."""
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def until(values: list[Any], count: int) -> list[Any]:
    async with asyncio.timeout(5):
        while len(values) < count:
            await asyncio.sleep(0.01)
    return values


async def test_both_ends_hear_binary_at_once_and_receive_the_rest() -> None:
    heard: list[bytes] = []
    received: list[Any] = []

    async def accept(request: web.Request) -> ServerSocket:
        socket = ServerSocket()
        await socket.prepare(request)
        plain = socket.plain
        assert plain is not None
        socket.listen_binary(lambda data: plain.write(socket.frame(BINARY, data[::-1])))
        await socket.send_str("ready")
        received.append((await socket.receive(5)).data)
        plain.write(socket.frame(TEXT, b"bye"))
        return socket

    said = [bytes([7]) * (size - 1) + b"x" for size in (1, 125, 126, 640, 60_000)]
    async with (
        served(accept) as port,
        aiohttp.ClientSession(ws_response_class=Socket) as session,
        session.ws_connect(f"http://127.0.0.1:{port}/") as socket,
    ):
        assert isinstance(socket, Socket)
        assert socket.plain is not None
        socket.listen_binary(heard.append)
        assert (await socket.receive(5)).data == "ready"
        for count, data in enumerate(said, 1):
            socket.plain.write(socket.frame(BINARY, data))
            await until(heard, count)
        await socket.send_str("enough")
        assert (await socket.receive(5)).data == "bye"
    assert heard == [data[::-1] for data in said]
    assert received == ["enough"]


async def test_a_handshake_that_is_refused_leaves_the_connection_as_it_was() -> None:
    async def accept(request: web.Request) -> web.StreamResponse:
        if "Upgrade" not in request.headers:
            return web.Response(text="plain")
        socket = ServerSocket()
        await socket.prepare(request)
        return socket

    async with served(accept) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        bad = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive\r\n\r\n"
        plain = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(bad.encode())
        assert b"400" in await asyncio.wait_for(reader.readline(), 5)
        writer.write(plain.encode())
        async with asyncio.timeout(5):
            assert b"plain" in (await reader.readuntil(b"plain"))
        writer.close()


@pytest.mark.parametrize("whole", [True, False])
async def test_who_talks_before_the_handshake_is_answered_is_heard_by_aiohttp(whole: bool) -> None:
    heard: list[bytes] = []
    received: list[Any] = []

    async def accept(request: web.Request) -> ServerSocket:
        await asyncio.sleep(0.1)
        socket = ServerSocket()
        await socket.prepare(request)
        socket.listen_binary(heard.append)
        for _ in range(2):
            received.append((await socket.receive(5)).data)
        return socket

    early = client_frame(BINARY, b"early" * 50)
    cut = len(early) if whole else 100
    async with served(accept) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        writer.write(request.encode() + early[:cut])
        assert b"101" in await asyncio.wait_for(reader.readline(), 5)
        writer.write(early[cut:] + client_frame(BINARY, b"late" * 50))
        await until(received, 2)
        writer.close()
    assert received == [b"early" * 50, b"late" * 50]
    assert heard == []
