"""A TCP proxy that does to a connection what networks do: reset it, swallow it, slow it down, cut it."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Self

from kallglot_ari.tasks import Tasks


class Proxy:
    """Listens on loopback and passes everything on to `host:port`, until it is told otherwise.

    The faults hold for connections that are open and for new ones, until `heal`.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self.port = listen
        self.accepted = 0
        self.delay = 0.0
        """Seconds each piece is held back, in both directions."""
        self.bytes_per_second = 0.0
        """Rate of each direction; 0 = as fast as it goes."""
        self.refusing = False
        """New connections are reset at once."""
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks = Tasks("proxy")
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await self._tasks.close()

    @property
    def open_connections(self) -> int:
        return len(self._writers) // 2

    def black_hole(self) -> None:
        """Pass on nothing more, in either direction, and keep everything open."""
        self._flowing.clear()

    def slow(self, *, delay: float = 0.0, bytes_per_second: float = 0.0) -> None:
        """Hold back every piece by `delay` seconds, and pass on at most `bytes_per_second`."""
        self.delay, self.bytes_per_second = delay, bytes_per_second

    def reset(self, *, refuse: bool = False) -> None:
        """TCP reset on every open connection; with `refuse` new ones meet the same, until `heal`."""
        self.refusing = self.refusing or refuse
        for writer in list(self._writers):
            _reset(writer)

    def cut(self) -> None:
        """Close every open connection in the ordinary way, in mid-stream."""
        for writer in list(self._writers):
            writer.close()

    def heal(self) -> None:
        """No faults from now on; what a black hole held back goes on its way."""
        self.refusing = False
        self.slow()
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        self._writers |= {writer, far_writer}
        up = self._tasks.spawn(self._pump(reader, far_writer), name=f"up-{self.accepted}")
        down = self._tasks.spawn(self._pump(far_reader, writer), name=f"down-{self.accepted}")
        try:
            await asyncio.wait({up, down})
        finally:
            self._writers -= {writer, far_writer}
            writer.close()
            far_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(16384):
                await self._flowing.wait()
                wait = self.delay + (len(data) / self.bytes_per_second if self.bytes_per_second else 0.0)
                if wait:
                    await asyncio.sleep(wait)
                writer.write(data)
                await writer.drain()
            await self._flowing.wait()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
