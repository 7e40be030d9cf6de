"""Audio over Asterisk's chan_websocket, in the place of the UDP socket: each connection is a leg, each message a frame.

The tick sees packets either way: what comes is given an RTP header, what goes loses it. Connections live on the event loop; the tick puts
its frames there and takes from a queue what has come.

Either we connect to Asterisk's HTTP server (`/media/CONNECTION_ID`), or Asterisk connects to ours with a connection of its websocket_client.conf.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import socket
import ssl
import struct
import time
from collections import deque
from functools import partial
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from kallglot_ari import certificates
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.door import ASK_WITHIN, Door, Guest, Port
from kallglot_ari.errors import ConfigError, MediaError, cannot_listen_at
from kallglot_ari.media.leg_socket import Connection, parse_event
from kallglot_ari.media.legs import RTP_HEADER
from kallglot_ari.media.udp import NAME_BYTES, STRIDE, Block, Outbox
from kallglot_ari.settings import MediaSettings
from kallglot_ari.tasks import Tasks
from kallglot_ari.websocket.socket import ServerSocket, Socket

log = logging.getLogger(__name__)

PROTOCOL = "media"
ATTACH_SECONDS = 5.0
"""How long a connection may take from the channel's creation to `MEDIA_START`."""
_INCOMING = 20_000
"""Frames that may wait for the tick: 20 ms of 20,000 legs."""
_CONNECTIONS_MAX, _SILENT_MAX = 20_000, 1_000
"""Connections at once, and of those the ones that have not said yet whose they are: after a restart all of Asterisk's come together."""
_MESSAGE_MAX = 65_500
"""Asterisk takes no longer message."""
_NAME = 16
"""Bytes of a leg's name."""

Frame = tuple[bytes, float, bytes]
"""Name of the leg, time of arrival (monotonic), packet; of one that is too long, nothing."""


def leg_name(number: int) -> bytes:
    """What stands for a leg's address: laid out like a sockaddr_in of 0.0.0.0/8."""
    return struct.pack("=H", socket.AF_INET) + struct.pack("!HI", 1 + (number >> 24), number & 0xFFFFFF) + bytes(8)


class WebSocketMedia:
    """Implements `media.udp.Socket` for the tick, and attaches legs for the event loop.

    `asterisk_url` and `asterisk_ca` are ARI's: its HTTP server is the one that serves `/media`.
    """

    def __init__(
        self, settings: MediaSettings, receive: Codec, silence: bytes, *, asterisk_url: str, asterisk_ca: str
    ) -> None:
        self._settings = settings
        self._codec = receive
        self._silence = silence
        self._url = asterisk_url.rstrip("/")
        self._ca = asterisk_ca
        self._incoming: deque[Frame] = deque()
        self._by_name: dict[bytes, Connection] = {}
        self._arrived: dict[str, asyncio.Future[Connection]] = {}
        self._early: dict[str, Connection] = {}
        self._number = 0
        self._tasks = Tasks("media-websocket")
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | bool = True
        self._runner: web.AppRunner | None = None
        self._listening: Port | None = None
        self._door = Door(
            full="media_connections_full", ask_within=ASK_WITHIN, most=_CONNECTIONS_MAX, silent=_SILENT_MAX
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self.dropped = 0
        self.port = 0

    @property
    def listens(self) -> bool:
        """Whether Asterisk connects to us."""
        return bool(self._settings.websocket_client)

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """:raises ListenError: the address cannot be had. :raises ConfigError: the certificate."""
        self._loop = asyncio.get_running_loop()
        if not self.listens:
            if self._url.startswith("https:"):
                self._tls = await asyncio.to_thread(self._client_tls)  # it may read every certificate there is
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), ws_response_class=Socket)
            return
        app = web.Application()
        app.router.add_get("/{path:.*}", self._accept)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
        await runner.setup()
        try:
            tls, server, listening = self._server_tls(), runner.server, Port(handshakes=_SILENT_MAX)
            await listening.open(
                lambda: Guest(server, loop=self._loop, door=self._door, access_log=None, lingering_time=0),
                self._settings.bind, self._settings.port, tls=tls, backlog=1024,
            )  # fmt: skip
        except OSError as error:
            await runner.cleanup()
            raise cannot_listen_at("media", self._settings.bind, self._settings.port, error) from None
        self._runner, self._listening = runner, listening
        self.port = listening.number

    async def stop(self) -> None:
        await self._tasks.close()
        for connection in list(self._by_name.values()):
            await connection.socket.close()
        if self._session is not None:
            await self._session.close()
        if self._listening is not None:
            await self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def close(self) -> None:
        """Nothing is left to close after `stop`."""

    def _server_tls(self) -> ssl.SSLContext | None:
        certificate, key = self._settings.websocket_certificate, self._settings.websocket_key
        return certificates.serving(certificate, key, ("media.websocket_certificate", "media.websocket_key"))

    def _client_tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ari.ca_file: expected a PEM file of certificates, found {self._ca}: {error}") from None

    # --- legs, on the event loop ------------------------------------------------------------------------------------

    async def attach(self, channel_id: str, connection_id: str) -> bytes:
        """Wait for a channel's connection; the name of its leg. :raises MediaError: when it does not come about."""
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                connection = await (self._expect(channel_id) if self.listens else self._connect(connection_id))
        except TimeoutError:
            raise MediaError(f"media websocket: expected Asterisk's connection within {ATTACH_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise MediaError(f"media websocket: cannot connect to Asterisk: {error}") from None
        self._number += 1
        connection.name = leg_name(self._number)
        self._by_name[connection.name] = connection
        return connection.name

    async def _expect(self, channel_id: str) -> Connection:
        early = self._early.pop(channel_id, None)
        if early is not None:
            return early
        arrival: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._arrived[channel_id] = arrival
        try:
            return await arrival
        finally:
            self._arrived.pop(channel_id, None)

    async def _connect(self, connection_id: str) -> Connection:
        assert self._session is not None
        if not connection_id:
            raise MediaError("media websocket: expected MEDIA_WEBSOCKET_CONNECTION_ID of the channel, found none")
        socket = await self._session.ws_connect(
            f"{self._url}/media/{connection_id}",
            protocols=(PROTOCOL,),
            ssl=self._tls,
            autoping=False,
            max_msg_size=_MESSAGE_MAX,
        )
        try:
            connection = await self._begin(socket)
        except BaseException:
            await socket.close()
            raise
        self._tasks.spawn(self._serve(connection), name="leg")
        return connection

    async def _accept(self, request: web.Request) -> web.WebSocketResponse:
        """Asterisk connects to us."""
        if not self._known(request.headers.get("Authorization", "")):
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="media"'})
        socket = ServerSocket(protocols=(PROTOCOL,), max_msg_size=_MESSAGE_MAX)
        await socket.prepare(request)
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                connection = await self._begin(socket)
        except (TimeoutError, MediaError):
            await socket.close()
            return socket
        if request.transport is not None:
            self._door.asked(request.transport)
        arrival = self._arrived.get(connection.channel_id)
        if arrival is not None and not arrival.done():
            arrival.set_result(connection)
        else:
            before = self._early.get(connection.channel_id)
            self._early[connection.channel_id] = connection
            if before is not None:  # Asterisk's last one counts
                self._tasks.spawn(before.socket.close(), name="close")
            self._tasks.spawn(self._wait_for_leg(connection), name="early")
        try:
            await self._serve(connection)
        finally:
            self._no_longer_early(connection)
        return socket

    async def _wait_for_leg(self, connection: Connection) -> None:
        """A connection that came before its leg: where none comes it is nobody's."""
        await asyncio.sleep(ATTACH_SECONDS)
        if self._no_longer_early(connection):
            log.warning("media_websocket_unknown", extra={"channel": connection.channel_id[:80]})
            await connection.socket.close()

    def _no_longer_early(self, connection: Connection) -> bool:
        """Forget that it waits for its leg; False if it does not."""
        if self._early.get(connection.channel_id) is not connection:
            return False
        del self._early[connection.channel_id]
        return True

    def _known(self, authorization: str) -> bool:
        s = self._settings
        if not s.websocket_username:
            return True
        expected = f"{s.websocket_username}:{s.websocket_password.get_secret_value()}".encode()
        return hmac.compare_digest(authorization.encode("utf-8", "replace"), b"Basic " + base64.b64encode(expected))

    async def _begin(self, socket: Any) -> Connection:
        """The first message says whose connection it is."""
        message = await socket.receive()
        event = parse_event(message.data) if message.type is aiohttp.WSMsgType.TEXT else {}
        channel_id = event.get("channel_id")
        if event.get("event") != "MEDIA_START" or not isinstance(channel_id, str):
            raise MediaError(f"media websocket: expected MEDIA_START, found {message.type.name}")
        return Connection(channel_id, socket, self._codec, as_json=message.data.lstrip().startswith("{"))

    async def _serve(self, connection: Connection) -> None:
        """Until the connection ends."""
        writing = self._tasks.spawn(self._write(connection), name="write")
        connection.socket.listen_binary(partial(self._take, connection))
        try:
            async for message in connection.socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._take(connection, message.data)
                elif message.type is aiohttp.WSMsgType.TEXT:
                    connection.event(parse_event(message.data))
        finally:
            writing.cancel()
            self._by_name.pop(connection.name, None)

    @staticmethod
    async def _write(connection: Connection) -> None:
        try:
            await connection.write()
        except (ConnectionError, aiohttp.ClientError, RuntimeError):  # it is closing: the reader ends as well
            log.debug("media_websocket_closing")

    def _take(self, connection: Connection, payload: bytes) -> None:
        if not payload or not connection.name:
            return
        now = time.monotonic()
        for packet in connection.packets(payload, now):
            if len(self._incoming) >= _INCOMING:
                self.dropped += 1
            else:
                self._incoming.append((connection.name, now, packet if len(packet) <= STRIDE else b""))

    def flush(self, name: bytes) -> None:
        """Let Asterisk drop what it has of a leg's sound."""
        connection = self._by_name.get(name)
        if connection is not None:
            connection.flush()

    def detach(self, name: bytes) -> None:
        """The leg is closed."""
        connection = self._by_name.pop(name, None)
        if connection is not None:
            self._tasks.spawn(connection.socket.close(), name="close")

    def _put(self, frames: list[tuple[bytes, bytes]]) -> None:
        now = time.monotonic()
        for name, payload in frames:
            connection = self._by_name.get(name)
            if connection is not None:
                before = connection.dropped
                connection.put(payload, now, silent=payload == self._silence)
                self.dropped += connection.dropped - before

    # --- for the tick -----------------------------------------------------------------------------------------------

    def receive(self, block: Block, now: float) -> int:
        count = min(len(self._incoming), len(block.length))
        if not count:
            return 0
        names, arrivals, packets = zip(*(self._incoming.popleft() for _ in range(count)), strict=True)
        block.name[:count] = 0
        block.name[:count, :_NAME] = np.frombuffer(b"".join(names), dtype=np.uint8).reshape(count, _NAME)
        block.arrival[:count] = np.minimum(arrivals, now)
        lengths = block.length[:count]
        lengths[:] = [len(packet) for packet in packets]
        size = int(lengths[0])
        if (lengths == size).all():
            block.data[:count, :size] = np.frombuffer(b"".join(packets), dtype=np.uint8).reshape(count, size)
            return count
        for row, packet in enumerate(packets):
            block.data[row, : len(packet)] = np.frombuffer(packet, dtype=np.uint8)
        return count

    def send(self, outbox: Outbox, rows: NDArray[np.int64]) -> int:
        names = outbox.name[rows].tobytes()
        size = outbox.data.shape[1]
        data = outbox.data[rows].tobytes()
        frames = [
            (names[i * NAME_BYTES : i * NAME_BYTES + _NAME], data[i * size + RTP_HEADER : (i + 1) * size])
            for i in range(len(rows))
        ]
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._put, frames)
        except RuntimeError:  # the loop is closed: the service is going down
            return 0
        return len(rows)
