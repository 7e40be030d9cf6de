"""A leg's WebSocket whose other end stands still, over a real one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from kallglot_ari.audio.codecs import registry
from kallglot_ari.media import leg_socket
from kallglot_ari.media.leg_socket import Connection
from kallglot_ari.tasks import Tasks
from kallglot_ari.websocket.socket import Socket

pytestmark = pytest.mark.real_time


async def test_of_what_the_network_does_not_take_little_lies_where_it_cannot_be_dropped() -> None:
    heard: list[int] = []
    taken = asyncio.Event()

    async def stands_still(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        request.transport.pause_reading()
        await taken.wait()
        request.transport.resume_reading()
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                heard.append(int.from_bytes(message.data[:4], "big"))
        return socket

    async with asyncio.timeout(20), AsyncExitStack() as stack:
        app = web.Application()
        app.router.add_get("/", stands_still)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.callback(taken.set)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        http = await stack.enter_async_context(aiohttp.ClientSession(ws_response_class=Socket))
        socket = await http.ws_connect(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        assert isinstance(socket, Socket)
        socket.keep_short(8192)
        connection = Connection("leg", socket, registry.get("ulaw"), as_json=True)
        tasks = Tasks("leg")
        stack.push_async_callback(tasks.close)
        tasks.spawn(connection.write(), name="write")
        sent = most = 0
        while connection.dropped < 200:
            connection.put(sent.to_bytes(4, "big") * 40, sent * 0.02, silent=False)
            sent += 1
            await asyncio.sleep(0)
            most = max(most, socket.backlog)
            assert most < leg_socket._BACKLOG + 1000

        taken.set()
        while len(heard) < sent - connection.dropped:
            await asyncio.sleep(0.01)
        assert heard == sorted(heard)
        assert heard[-1] == sent - 1, "the oldest of those that waited went"
        await socket.close()
