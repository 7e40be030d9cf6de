"""A session while it is up: its engine, and the stream that the client has open to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import aiohttp
from aiohttp import web

from kallglot_ari.calls.model import StreamAudio, TranscriptTurn
from kallglot_ari.clock import Clock
from kallglot_ari.errors import InterpreterError
from kallglot_ari.log import get
from kallglot_ari.sandbox.engine import EngineFactory, EngineSession
from kallglot_ari.sandbox.messages import Codec, Control, End, Heard, Invalid, Ping, codec
from kallglot_ari.sandbox.sessions import Record
from kallglot_ari.tasks import Tasks

MESSAGE_LIMIT = 1024 * 1024
_QUEUE = 2000
"""Messages for a client that reads slowly; beyond it the oldest go."""
_CLOSE_WITHIN = 2.0
_REPLACED = 4001

_log = get("kallglot_ari.sandbox.live")


class Live:
    """Implements `EngineSink`. Lives from the first stream to the session's end; streams come and go."""

    def __init__(
        self, record: Record, factory: EngineFactory, clock: Clock, on_turn: Callable[[TranscriptTurn], None]
    ) -> None:
        self.record = record
        self._clock = clock
        self._on_turn = on_turn
        self._engine: EngineSession | None = None
        self._stream: _Stream | None = None
        self._ending = False
        self._over = False
        self._muted = False
        self._transcribing = True
        self._start_error = ""
        wanted = record.wanted
        try:
            self._engine = factory(
                session_id=record.id,
                mode=wanted.mode,
                source_language=wanted.source_language,
                target_language=wanted.target_language,
                metadata=wanted.metadata,
                sink=self,
            )
        except InterpreterError as error:
            self._start_error = str(error)

    @property
    def over(self) -> bool:
        """The session was ended, by the stream or by a request: no further stream is served."""
        return self._ending

    # --- EngineSink ---

    def transcript(self, turn: TranscriptTurn) -> None:
        if self._over or not self._transcribing:
            return
        if turn.final:
            self._on_turn(turn)
        if self._stream is not None:
            self._stream.put(self._stream.codec.transcript(turn))

    def speech(self, speaker: str, audio: StreamAudio) -> None:
        if not self._over and self._stream is not None:
            self._stream.put(self._stream.codec.speech(speaker, audio))

    def problem(self, code: str, message: str) -> None:
        if not self._over and self._stream is not None:
            self._stream.put(self._stream.codec.problem(code, message))

    # --- the stream ---

    async def serve(self, socket: web.WebSocketResponse) -> None:
        """Be the server of a stream that has just opened, until it closes. A newer stream takes the place of an older one."""
        stream = _Stream(socket, codec(self.record.wanted.contract, self.record.id))
        previous, self._stream = self._stream, stream
        if previous is not None:
            await previous.close(code=_REPLACED, message=b"replaced by a newer stream")
        try:
            stream.put(stream.codec.ready())
            if self._start_error:
                self.problem("engine_unavailable", self._start_error)
            await self._read(stream)
        finally:
            if self._stream is stream:
                self._stream = None
            await stream.close()

    async def end(self, reason: str) -> None:
        """The session is over: free the engine, tell the client, close the stream. Harmless when over already."""
        if self._ending:
            return
        self._ending = True
        stream = self._stream
        if self._engine is not None:
            try:
                async with asyncio.timeout(_CLOSE_WITHIN):
                    await self._engine.close()
            except TimeoutError:
                _log.error("engine_close_late", session=self.record.id)
            except Exception:  # noqa: BLE001 - boundary: an engine's fault must not keep the session open
                _log.exception("engine_close_failed", session=self.record.id)
        self._over = True
        if stream is not None:
            stream.put(stream.codec.ended(reason))
            await stream.close()

    async def _read(self, stream: _Stream) -> None:
        async for message in stream.socket:
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                break
            self.record.active = self._clock.now()
            try:
                parsed = stream.codec.parse(message.data)
            except Invalid as error:
                stream.put(stream.codec.problem(error.code, str(error)))
                continue
            for item in parsed:
                if isinstance(item, Heard):
                    self._hear(item)
                elif isinstance(item, Ping):
                    stream.put(stream.codec.pong())
                elif isinstance(item, Control):
                    self._control(item.action)
                elif isinstance(item, End):
                    await self.end("explicit_end")
                    return

    def _hear(self, heard: Heard) -> None:
        if self._ending or self._muted or self._engine is None:
            return
        try:
            self._engine.feed(heard.speaker, heard.audio, heard.timestamp_ms)
        except Exception:  # noqa: BLE001 - boundary: an engine's fault must not end the stream
            _log.exception("engine_feed_failed", session=self.record.id)
            self.problem("engine_failed", "the engine could not take a chunk")

    def _control(self, action: str) -> None:
        if action in ("mute", "unmute"):
            self._muted = action == "mute"
        else:
            self._transcribing = action == "resume_transcription"


class _Stream:
    """A WebSocket and what waits to be sent on it."""

    def __init__(self, socket: web.WebSocketResponse, codec: Codec) -> None:
        self.socket = socket
        self.codec = codec
        self.dropped = 0
        self._queue: deque[str] = deque()
        self._waiting = asyncio.Event()
        self._closing = False
        self._tasks = Tasks("sandbox.stream")
        self._writer = self._tasks.spawn(self._write(), name="write")

    def put(self, messages: list[str]) -> None:
        """Queue messages; a client that reads too slowly loses the oldest."""
        for message in messages:
            if len(self._queue) >= _QUEUE:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(message)
        self._waiting.set()

    async def close(self, *, code: int = aiohttp.WSCloseCode.OK, message: bytes = b"") -> None:
        """Send what is queued, within two seconds, and close."""
        self._closing = True
        self._waiting.set()
        with contextlib.suppress(TimeoutError, ConnectionError, RuntimeError):
            async with asyncio.timeout(_CLOSE_WITHIN):
                await asyncio.wait([self._writer])
                await self.socket.close(code=code, message=message)
        await self._tasks.close()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError, aiohttp.ClientError):
            while True:
                while self._queue:
                    await self.socket.send_str(self._queue.popleft())
                if self._closing:
                    return
                self._waiting.clear()
                await self._waiting.wait()
