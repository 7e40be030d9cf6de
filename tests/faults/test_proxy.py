"""The proxy passes everything on unharmed, and each fault is the fault it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import Proxy

pytestmark = pytest.mark.real_time


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as running:
        yield running
    server.close()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def test_it_passes_everything_on_and_the_end_too(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    assert proxy.open_connections == 1
    data = bytes(range(256)) * 2000
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


async def test_reset_and_refuse(proxy: Proxy) -> None:
    reader, _ = await connect(proxy)
    proxy.reset(refuse=True)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await connect(proxy)
    proxy.heal()
    _, writer = await connect(proxy)
    assert proxy.accepted == 3
    writer.close()


async def test_cut_is_an_ordinary_end(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.cut()
    assert await reader.read() == b""
    writer.close()


async def test_black_hole_and_heal(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.black_hole()
    writer.write(b"lost?")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    proxy.heal()
    assert await reader.readexactly(5) == b"lost?"
    writer.close()


@pytest.mark.parametrize("fault", [{"delay": 0.05}, {"bytes_per_second": 100.0}])
async def test_slow(proxy: Proxy, fault: dict[str, float]) -> None:
    reader, writer = await connect(proxy)
    proxy.slow(**fault)
    start = time.monotonic()
    writer.write(b"slow!")
    assert await reader.readexactly(5) == b"slow!"
    assert 0.09 <= time.monotonic() - start < 1
    writer.close()


async def test_a_target_that_is_not_there_is_a_reset() -> None:
    async with Proxy("127.0.0.1", 1) as proxy:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await connect(proxy)
