"""The WebSocket of a session. A slow or dead server costs chunks, never time: `Stream.send` writes where the transport takes it, else queues."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

import aiohttp

from kallglot_ari.calls.interfaces import StreamEnd, StreamEvent, StreamProblem, StreamReady, StreamSink, StreamSpeech
from kallglot_ari.calls.model import Session, UplinkChunk
from kallglot_ari.clock import Clock
from kallglot_ari.errors import StreamClosed, StreamRefused
from kallglot_ari.kallglot.protocol import Decoded, Pong, Unused, decoder, encoder
from kallglot_ari.kallglot.socket import CLOSE_WITHIN, PING_EVERY
from kallglot_ari.log import get, redact
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import KallglotSettings
from kallglot_ari.tasks import Tasks
from kallglot_ari.websocket.frames import TEXT, client_frame
from kallglot_ari.websocket.socket import Socket

_QUEUE_MS = 2000
_BACKLOG_MS = 500
"""Audio that may lie in the transport: what is there can no longer be dropped when it is stale."""
_FAIR = 16
"""Messages handled in a row before everybody else has a turn."""

_SPEECH_RATE, _SPEECH_BURST = 5000.0, 10_000.0
"""Pieces of speech that a server may send in a second, and at once: fifty parties in pieces of 10 ms. All legs' media would wait for more."""
_PROBLEMS_TOLD = 20
"""Of one stream; a server that says more of them would fill the log."""

_AUDIO_OR_TEXT = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)

_log = get("kallglot_ari.kallglot.stream")


class Stream:
    """Implements `calls.interfaces.Stream`. `run` it on a socket that has just opened."""

    __slots__ = (
        "_backlog", "_clock", "_closing", "_credit", "_credit_at", "_decoder", "_encoder", "_end", "_ended", "_heard_at", "_is_ready", "_log", "_metrics", "_over",
        "_problems", "_queue", "_ready", "_room", "_session_id", "_settings", "_sink", "_socket", "_straight", "_tasks", "_transport",
        "_unobserved", "_uplink_latency", "_waiting",
    )  # fmt: skip

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
        self._transport = socket.plain if isinstance(socket, Socket) else None
        self._straight = False
        """Whether the next chunk may go to the transport at once: the stream is open, and no chunk is before it."""
        self._unobserved: deque[float] = deque(maxlen=64)
        """When chunks were received that wait for the other channel."""
        self._uplink_latency = metrics.uplink_latency
        self._tasks = Tasks(f"kallglot.stream.{session.id}")
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_ready = False
        self._problems = 0
        self._over = asyncio.Event()
        self._ended = False
        self._end: StreamEnd | None = None
        self._closing = False
        self._credit = _SPEECH_BURST
        self._credit_at = self._heard_at = clock.now()
        width = 1 if settings.encoding == "mulaw" else 2
        self._backlog = max(16384, settings.sample_rate * width * 2 * 4 // 3 * _BACKLOG_MS // 1000)

    @property
    def end(self) -> StreamEnd | None:
        """How it ended, as the sink was told; None while it is up."""
        return self._end

    async def open(self, *, timeout: float) -> None:
        """Start, and wait until the server is ready; it may have ended again by then.

        :raises StreamRefused: it sends an error or the end instead. :raises StreamClosed: the socket closes, or nothing comes.
        """
        if isinstance(self._socket, Socket):
            self._socket.keep_short(self._backlog)
            self._socket.listen(self._hear)
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
        """Send a chunk, or queue it where the transport is behind; when the queue is full the oldest goes, counted."""
        if self._straight:
            transport = self._transport
            assert transport is not None
            if transport.get_write_buffer_size() <= self._backlog and not transport.is_closing():
                self._send_now(transport, speaker, chunk)
                return
        if self._closing or self._ended:
            return
        if len(self._queue) >= self._room:
            self._queue.popleft()
            self._metrics.stream_dropped.inc()
        self._queue.append((speaker, chunk))
        self._straight = False
        self._waiting.set()

    def replay(self, said: Sequence[tuple[str, UplinkChunk]]) -> None:
        """Queue what was said before this stream was open, ahead of everything else and however much it is."""
        if not self._closing and not self._ended:
            self._queue.extendleft(reversed(said))
            self._straight = False
            self._waiting.set()

    async def close(self, *, end: bool = False) -> None:
        """Close; with `end` the session is told to end on the stream first. Takes at most about two seconds."""
        if not self._closing:
            self._closing = True
            self._straight = False
            self._waiting.set()
            if end and not self._ended:
                with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
                    async with asyncio.timeout(CLOSE_WITHIN):
                        await self._socket.send_str(self._encoder.end())
                        await self._over.wait()
            self._finish(StreamEnd(False, "closed"))
            await self._hang_up()
        await self._tasks.close()

    # --- server → client ---

    def _hear(self, message: str) -> None:
        """A text message that `_receive` need not wake for."""
        if self._over.is_set():
            return
        now = self._heard_at = self._clock.now()
        for event in self._decoder.decode(message, received_at=now):
            self._handle(event)
        if self._ended and not self._closing:
            self._tasks.spawn(self._hang_up(), name="hang_up")

    async def _receive(self) -> None:
        handled = 0
        end = StreamEnd(False, "lost")
        try:
            while not self._ended:
                message = await self._socket.receive()
                now = self._heard_at = self._clock.now()
                if message.type not in _AUDIO_OR_TEXT:
                    end = self._closed(message)
                    break
                for event in self._decoder.decode(message.data, received_at=now):
                    self._handle(event)
                handled += 1
                if handled % _FAIR == 0:
                    # Messages that are there already are handed over without a pause: leave others a turn.
                    await asyncio.sleep(0)
        except (ConnectionError, aiohttp.ClientError) as error:  # while a ping was answered
            end = StreamEnd(False, f"lost: {type(error).__name__}")
        finally:
            self._finish(end)
            self._waiting.set()
        if not self._closing:
            await self._hang_up()

    def _handle(self, event: Decoded) -> None:
        if type(event) is StreamSpeech:
            self._credit -= 1.0
            if self._credit >= 0.0 or self._earned():
                self._tell(event)
            else:
                self._metrics.stream_messages.labels("too_many").inc()
        elif isinstance(event, Unused):
            self._metrics.stream_messages.labels(event.reason).inc()
            self._log.debug("stream_message_unused", reason=event.reason, detail=redact(event.detail))
        elif isinstance(event, Pong):
            pass
        elif isinstance(event, StreamReady):
            self._became_ready()
        elif isinstance(event, StreamEnd):
            self._finish(event)
        elif isinstance(event, StreamProblem):
            self._problem(event)
        else:
            self._tell(event)

    def _earned(self) -> bool:
        """Whether one more piece of speech may come after all, since time has passed."""
        now = self._heard_at
        self._credit = min(_SPEECH_BURST, self._credit + (now - self._credit_at) * _SPEECH_RATE)
        self._credit_at = now
        if self._credit >= 0.0:
            return True
        self._credit += 1.0
        return False

    def _problem(self, problem: StreamProblem) -> None:
        if not self._ready.done():
            self._refuse(f"{problem.code}: {problem.message}")
            return
        self._problems += 1
        if self._problems > _PROBLEMS_TOLD:
            self._metrics.stream_messages.labels("problem").inc()
            return
        self._tell(StreamProblem(redact(problem.code), redact(problem.message)))
        if self._problems == _PROBLEMS_TOLD:
            self._log.warning("stream_problems_no_longer_told", told=_PROBLEMS_TOLD)

    def _tell(self, event: StreamEvent) -> None:
        if self._ended or not self._is_ready:
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
            self._is_ready = True
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
        self._straight = False
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
        self._end = end
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
                    self._straight = self._transport is not None
                    self._waiting.clear()
                    await self._waiting.wait()
                    continue
                if self._is_behind:
                    await self._drained()
                if self._queue:
                    await self._transmit(*self._queue.popleft())
        except (ConnectionError, aiohttp.ClientError, RuntimeError) as error:
            self._finish(StreamEnd(False, f"lost: {type(error).__name__}"))
            await self._hang_up()

    @property
    def _is_behind(self) -> bool:
        """Whether the transport holds more than it should."""
        return isinstance(self._socket, Socket) and self._socket.backlog > self._backlog

    async def _drained(self) -> None:
        """Wait while the transport is behind; meanwhile `send` keeps the queue fresh."""
        while self._is_behind and not self._ended:  # noqa: ASYNC110 - aiohttp keeps the signal to itself
            await asyncio.sleep(0.02)

    async def _transmit(self, speaker: str, chunk: UplinkChunk) -> None:
        messages = self._encoded(speaker, chunk)
        for text in messages:
            await self._socket.send_frame(text, aiohttp.WSMsgType.TEXT)
        if messages:
            self._observe(chunk)

    def _send_now(self, transport: asyncio.Transport, speaker: str, chunk: UplinkChunk) -> None:
        """As `_transmit` does. Each frame is one write: aiohttp's own cannot come in between."""
        messages = self._encoded(speaker, chunk)
        try:
            for text in messages:
                transport.write(client_frame(TEXT, text))
        except RuntimeError:  # it closed at the frame before this; `_receive` is told
            return
        if messages:
            self._observe(chunk)

    def _encoded(self, speaker: str, chunk: UplinkChunk) -> list[bytes]:
        """The messages that are to be sent now that `chunk` has come."""
        try:
            messages = self._encoder.audio(speaker, chunk)
        except ValueError as error:
            self._metrics.stream_messages.labels("unsendable").inc()
            self._log.warning("stream_chunk_unsendable", speaker=speaker, why=str(error))
            return []
        if not messages:
            self._unobserved.append(chunk.received_at)
        return messages

    def _observe(self, chunk: UplinkChunk) -> None:
        """`chunk` is with the transport, and so is what waited for it."""
        now, latency = self._clock.now(), self._uplink_latency
        latency.observe(max(0.0, now - chunk.received_at))
        if self._unobserved:
            for received_at in self._unobserved:
                latency.observe(max(0.0, now - received_at))
            self._unobserved.clear()

    async def _keep_alive(self) -> None:
        """Ping; when nothing at all came since the last one, the connection is lost, however alive TCP may think it is."""
        ping = self._encoder.ping()
        asked_at: float | None = None
        while ping is not None and not self._ended:
            await asyncio.sleep(PING_EVERY)
            if asked_at is not None and self._heard_at < asked_at:
                break
            asked_at = self._clock.now()
            try:
                async with asyncio.timeout(PING_EVERY):
                    await self._socket.send_str(ping)
            except (TimeoutError, ConnectionError, aiohttp.ClientError, RuntimeError):
                break
        self._finish(StreamEnd(False, "no answer to pings"))
        await self._hang_up()

    # --- the end ---

    async def _hang_up(self) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError, RuntimeError):
            async with asyncio.timeout(2 * CLOSE_WITHIN):
                await self._socket.close()

    async def _abandon(self) -> None:
        self._closing = True
        self._ended = True
        await self._hang_up()
        await self._tasks.close()
