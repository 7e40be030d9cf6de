"""The WebSocket of a session. A slow or dead server costs chunks, never time: `Stream.send` only ever appends to a bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from collections import deque
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import aiohttp

from kallglot_ari.calls.interfaces import StreamEnd, StreamEvent, StreamProblem, StreamReady, StreamSink
from kallglot_ari.calls.model import Session, UplinkChunk
from kallglot_ari.clock import Clock
from kallglot_ari.errors import StreamClosed, StreamRefused
from kallglot_ari.kallglot.protocol import Decoded, Pong, Unused, decoder, encoder
from kallglot_ari.log import get, redact
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import KallglotSettings
from kallglot_ari.tasks import Tasks

MESSAGE_LIMIT = 2 * 1024 * 1024
"""The longest message that is taken, in bytes: half a minute of 16-bit PCM at 24 kHz."""
_QUEUE_MS = 2000
_BACKLOG_MS = 500
"""Audio that may lie in the transport: what is there can no longer be dropped when it is stale."""
_PING_EVERY = 4.0
"""Seconds between pings, and how long an answer may take."""
_END_WITHIN = 1.0
_FAIR = 16
"""Messages handled in a row before everybody else has a turn."""

_log = get("kallglot_ari.kallglot.stream")


class Socket(aiohttp.ClientWebSocketResponse):
    """aiohttp's WebSocket, which also says how much of what was sent still waits in the transport."""

    transport: asyncio.Transport | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        response = next(a for a in (*args, *kwargs.values()) if isinstance(a, aiohttp.ClientResponse))
        transport = response.connection.transport if response.connection else None
        if isinstance(transport, asyncio.Transport):
            self.transport = transport

    @property
    def backlog(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def keep_short(self, size: int) -> None:
        """Let the kernel take no more than about `size` bytes that the network has not."""
        raw = self.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, size)


def stream_request(session: Session, contract: str) -> tuple[str, dict[str, str]]:
    """URL and headers that open `session`'s stream: the token goes where the contract has it.

    :raises StreamRefused: when the URL is none, or would send the token in clear over a network.
    """
    try:
        parts = urlsplit(session.stream_url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("ws", "wss") or not host:
        raise StreamRefused(
            f"stream of {session.id}: expected a ws:// or wss:// URL, found {redact(session.stream_url)!r}"
        )
    if parts.scheme == "ws" and host != "localhost" and not host.startswith("127.") and host != "::1":
        raise StreamRefused(f"stream of {session.id}: expected wss:// for anything but loopback, found ws://{host}")
    headers = {}
    if session.stream_token:
        if contract == "provider":
            headers["Authorization"] = f"Bearer {session.stream_token}"
        elif "token" not in parse_qs(parts.query):
            query = "&".join(filter(None, (parts.query, urlencode({"token": session.stream_token}))))
            parts = parts._replace(query=query)
    return urlunsplit(parts), headers


async def connect(
    http: aiohttp.ClientSession, session: Session, settings: KallglotSettings, *, timeout: float
) -> aiohttp.ClientWebSocketResponse:
    """Open the WebSocket, once.

    :raises StreamRefused: the server does not want it. :raises StreamClosed: it could not be reached, or has trouble.
    """
    url, headers = stream_request(session, settings.contract)
    where = f"stream of {session.id}"
    try:
        async with asyncio.timeout(timeout):
            return await http.ws_connect(
                url,
                headers=headers,
                max_msg_size=MESSAGE_LIMIT,
                heartbeat=None if settings.contract == "routing" else 2 * _PING_EVERY,
                timeout=aiohttp.ClientWSTimeout(ws_close=_END_WITHIN),
            )
    except aiohttp.WSServerHandshakeError as error:
        if error.status >= 500 or error.status in (408, 429):
            raise StreamClosed(f"{where}: the server answered {error.status}") from None
        raise StreamRefused(f"{where}: expected 101, found {error.status} {redact(error.message)[:100]}") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise StreamRefused(f"{where}: the server's certificate is not accepted: {error.certificate_error}") from None
    except TimeoutError:
        raise StreamClosed(f"{where}: expected it to open within {timeout:.1f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise StreamClosed(f"{where}: no connection: {redact(str(error))[:200]}") from None


class Stream:
    """Implements `calls.interfaces.Stream`. `run` it on a socket that has just opened."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        session: Session,
        settings: KallglotSettings,
        sink: StreamSink,
        *,
        metrics: Metrics,
        clock: Clock,
        stream_id: str,
    ) -> None:
        self._socket = socket
        self._settings = settings
        self._sink = sink
        self._metrics = metrics
        self._clock = clock
        self._log = _log.bind(session=session.id, stream=stream_id)
        self._session_id = session.id
        self._encoder = encoder(settings)
        self._decoder = decoder(settings, stream_id=stream_id)
        self._queue: deque[tuple[str, UplinkChunk]] = deque()
        self._room = max(8, 2 * _QUEUE_MS // settings.chunk_ms)
        self._waiting = asyncio.Event()
        self._unobserved: deque[float] = deque(maxlen=64)
        self._tasks = Tasks(f"kallglot.stream.{session.id}")
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._ended = False
        self._closing = False
        self._heard_at = clock.now()
        width = 1 if settings.encoding == "mulaw" else 2
        self._backlog = max(16384, settings.sample_rate * width * 2 * 4 // 3 * _BACKLOG_MS // 1000)

    async def open(self, *, timeout: float) -> None:
        """Start, and wait until the server is ready.

        :raises StreamRefused: it sends an error or the end instead. :raises StreamClosed: the socket closes, or nothing comes.
        """
        if isinstance(self._socket, Socket):
            self._socket.keep_short(self._backlog)
        self._tasks.spawn(self._receive(), name="receive")
        if self._settings.contract == "provider":
            self._became_ready()
        try:
            async with asyncio.timeout(timeout):
                await self._ready
        except TimeoutError:
            await self._abandon()
            raise StreamClosed(f"stream of {self._session_id}: expected session.ready within {timeout:.1f} s") from None
        except BaseException:
            await self._abandon()
            raise
        self._tasks.spawn(self._send(), name="send")
        if self._encoder.ping() is not None:
            self._tasks.spawn(self._keep_alive(), name="ping")

    def send(self, speaker: str, chunk: UplinkChunk) -> None:
        """Queue a chunk; when the queue is full the oldest goes, counted."""
        if self._closing or self._ended:
            return
        if len(self._queue) >= self._room:
            self._queue.popleft()
            self._metrics.stream_dropped.inc()
        self._queue.append((speaker, chunk))
        self._waiting.set()

    async def close(self, *, end: bool = False) -> None:
        """Close; with `end` the session is told to end on the stream first. Takes at most about two seconds."""
        if not self._closing:
            self._closing = True
            self._waiting.set()
            if end and not self._ended:
                with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
                    async with asyncio.timeout(_END_WITHIN):
                        await self._socket.send_str(self._encoder.end())
                        await self._over.wait()
            self._finish(StreamEnd(False, "closed"))
            await self._hang_up()
        await self._tasks.close()

    # --- server → client ---

    async def _receive(self) -> None:
        handled = 0
        end = StreamEnd(False, "lost")
        try:
            while not self._ended:
                message = await self._socket.receive()
                now = self._heard_at = self._clock.now()
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    end = self._closed(message)
                    break
                for event in self._decoder.decode(message.data, received_at=now):
                    self._handle(event)
                handled += 1
                if handled % _FAIR == 0:
                    # Messages that are there already are handed over without a pause: leave others a turn.
                    await asyncio.sleep(0)
        finally:
            self._finish(end)
            self._waiting.set()
        if not self._closing:
            await self._hang_up()

    def _handle(self, event: Decoded) -> None:
        if isinstance(event, Unused):
            self._metrics.stream_messages.labels(event.reason).inc()
            self._log.debug("stream_message_unused", reason=event.reason, detail=redact(event.detail))
        elif isinstance(event, Pong):
            pass
        elif isinstance(event, StreamReady):
            self._became_ready()
        elif isinstance(event, StreamEnd):
            self._finish(event)
        elif not self._ready.done() and isinstance(event, StreamProblem):
            self._refuse(f"{event.code}: {event.message}")
        else:
            self._tell(event)

    def _tell(self, event: StreamEvent) -> None:
        if self._ended or not self._ready.done() or self._ready.exception() is not None:
            self._metrics.stream_messages.labels("untimely").inc()
            return
        self._call_sink(event)

    def _call_sink(self, event: StreamEvent) -> None:
        try:
            self._sink(event)
        except Exception:  # noqa: BLE001 - boundary: the call's fault must not end its stream
            self._metrics.stream_messages.labels("sink_failed").inc()
            self._log.exception("stream_sink_failed", event_type=type(event).__name__)

    def _became_ready(self) -> None:
        if not self._ready.done() and not self._ended:
            self._ready.set_result(None)
            self._call_sink(StreamReady())

    def _refuse(self, why: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(
                StreamRefused(f"stream of {self._session_id}: expected session.ready, found {redact(why)}")
            )

    def _finish(self, end: StreamEnd) -> None:
        """Tell the sink that it is over: once, and last."""
        if self._ended:
            return
        self._ended = True
        self._over.set()
        self._queue.clear()
        if not self._ready.done():
            if end.ended:
                self._refuse(f"session.ended: {end.reason}")
            else:
                self._ready.set_exception(
                    StreamClosed(f"stream of {self._session_id}: it closed at once ({end.reason})")
                )
            return
        if self._ready.cancelled() or self._ready.exception() is not None:
            return
        if self._closing and end.ended is False:
            end = StreamEnd(False, "closed")
        self._call_sink(end)

    def _closed(self, message: aiohttp.WSMessage) -> StreamEnd:
        code = self._socket.close_code
        if self._closing and code == aiohttp.WSCloseCode.OK and self._settings.contract == "provider":
            return StreamEnd(True, "explicit_end")
        if message.type is aiohttp.WSMsgType.ERROR:
            return StreamEnd(False, f"error: {redact(str(message.data))[:100]}")
        return StreamEnd(False, f"closed by the server with {code}")

    # --- client → server ---

    async def _send(self) -> None:
        try:
            while not self._ended and not self._closing:
                if not self._queue:
                    self._waiting.clear()
                    await self._waiting.wait()
                    continue
                await self._drained()
                if self._queue:
                    await self._transmit(*self._queue.popleft())
        except (ConnectionError, aiohttp.ClientError, RuntimeError) as error:
            self._finish(StreamEnd(False, f"lost: {type(error).__name__}"))
            await self._hang_up()

    async def _drained(self) -> None:
        """Wait while the transport holds more than it should; meanwhile `send` keeps the queue fresh."""
        while isinstance(self._socket, Socket) and self._socket.backlog > self._backlog and not self._ended:  # noqa: ASYNC110 - aiohttp keeps the signal to itself
            await asyncio.sleep(0.02)

    async def _transmit(self, speaker: str, chunk: UplinkChunk) -> None:
        try:
            messages = self._encoder.audio(speaker, chunk)
        except ValueError as error:
            self._metrics.stream_messages.labels("unsendable").inc()
            self._log.warning("stream_chunk_unsendable", speaker=speaker, why=str(error))
            return
        self._unobserved.append(chunk.received_at)
        for text in messages:
            await self._socket.send_str(text)
        if messages:
            now = self._clock.now()
            while self._unobserved:
                self._metrics.uplink_latency.observe(max(0.0, now - self._unobserved.popleft()))

    async def _keep_alive(self) -> None:
        """Ping; when nothing at all came since the last one, the connection is lost, however alive TCP may think it is."""
        ping = self._encoder.ping()
        asked_at: float | None = None
        while ping is not None and not self._ended:
            await asyncio.sleep(_PING_EVERY)
            if asked_at is not None and self._heard_at < asked_at:
                break
            asked_at = self._clock.now()
            try:
                async with asyncio.timeout(_PING_EVERY):
                    await self._socket.send_str(ping)
            except (TimeoutError, ConnectionError, aiohttp.ClientError, RuntimeError):
                break
        self._finish(StreamEnd(False, "no answer to pings"))
        await self._hang_up()

    # --- the end ---

    async def _hang_up(self) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError, RuntimeError):
            async with asyncio.timeout(2 * _END_WITHIN):
                await self._socket.close()

    async def _abandon(self) -> None:
        self._closing = True
        self._ended = True
        await self._hang_up()
        await self._tasks.close()
