"""One session of the double: what it heard, and what a test lets it say."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from aiohttp import web

from tests.double import g711
from tests.double.g711 import Pcm
from tests.double.messages import AudioIn
from tests.double.requests import Contract, Json

Encoding = Literal["mulaw", "pcm_16"]


class Arrival(NamedTuple):
    """When a chunk came (monotonic seconds) and what it said of itself; None where the contract has no such field."""

    at: float
    timestamp_ms: int | None
    sequence: int | None
    samples: int


@dataclass
class SpeakerAudio:
    """All audio of one speaker, over all connections."""

    sample_rate: int
    arrivals: list[Arrival] = field(default_factory=list)
    _chunks: list[Pcm] = field(default_factory=list)

    @property
    def pcm(self) -> Pcm:
        """Everything received, one after the other, as int16."""
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)

    def latest(self, samples: int) -> Pcm:
        """The last samples received, at most so many."""
        return np.concatenate(self._chunks[-8:])[-samples:] if self._chunks else np.zeros(0, np.int16)

    @property
    def seconds(self) -> float:
        return sum(arrival.samples for arrival in self.arrivals) / self.sample_rate

    def add(self, at: float, chunk: Pcm, timestamp_ms: int | None, sequence: int | None) -> None:
        self._chunks.append(chunk)
        self.arrivals.append(Arrival(at, timestamp_ms, sequence, len(chunk)))


class Changed:
    """Lets tests wait for a condition instead of sleeping."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()
        self._loop = asyncio.get_running_loop()

    async def notify(self) -> None:
        async with self._condition:
            self._condition.notify_all()

    async def wait(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        """:raises AssertionError: saying `what` did not come within `timeout` seconds."""
        async with self._condition:
            try:
                await asyncio.wait_for(self._condition.wait_for(predicate), timeout)
            except TimeoutError:
                raise AssertionError(f"expected {what} within {timeout:g} s") from None


@dataclass
class Connection:
    """A stream that is or was open."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport
    opened_at: float
    closed_at: float | None = None
    close_code: int | None = None
    deaf: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: nothing is read from it and nothing is sent any more, though it stays open."""


class DoubleSession:
    """A session: status `created`, `started` (a stream was open) or `ended` (over REST: only that stops the billing)."""

    def __init__(self, request: Json, *, contract: Contract, token_life: float, changed: Changed, host: str) -> None:
        self.id = f"sess_{secrets.token_hex(8)}"
        self.token = f"kst_{secrets.token_hex(16)}"
        self.request = request
        self.contract = contract
        self.created_at = time.time()
        self.created_monotonic = time.monotonic()
        self.expires_at = self.created_at + token_life
        self.status: Literal["created", "started", "ended"] = "created"
        self.ended_at: float | None = None
        self.end_reason: str | None = None
        self.ends: list[tuple[float, str]] = []
        """Every request to end it: (monotonic seconds, reason asked for)."""
        self.stream_ended = False
        """The client ended it on the stream; that alone does not stop the billing."""
        self.audio: dict[str, SpeakerAudio] = {}
        self.controls: list[str] = []
        self.pings = 0
        self.turns: list[Json] = []
        self.connections: list[Connection] = []
        self._host = host
        self._changed = changed
        self._sequence = 0
        self._segment = 0

    # --- waiting

    @property
    def connected(self) -> bool:
        return bool(self.connections) and self.connections[-1].closed_at is None

    async def wait_connected(self, times: int = 1, timeout: float = 10) -> None:
        """Until the stream is open, for the `times`-th time."""
        await self._changed.wait(
            lambda: len(self.connections) >= times and self.connected, timeout, f"{times} stream(s) of {self.id}"
        )

    async def wait_disconnected(self, timeout: float = 10) -> None:
        await self._changed.wait(lambda: not self.connected, timeout, f"the stream of {self.id} to close")

    async def wait_audio(self, speaker: str, seconds: float = 0.1, timeout: float = 10) -> SpeakerAudio:
        """Until `seconds` of `speaker` were heard."""
        await self._changed.wait(
            lambda: speaker in self.audio and self.audio[speaker].seconds >= seconds,
            timeout,
            f"{seconds:g} s of {speaker} in {self.id}",
        )
        return self.audio[speaker]

    async def wait_ended(self, timeout: float = 10) -> None:
        """Until it was ended over REST."""
        await self._changed.wait(lambda: self.status == "ended", timeout, f"{self.id} to be ended")

    # --- what the server hears

    def hear(self, message: AudioIn, at: float) -> None:
        for speaker, samples in message.samples.items():
            audio = self.audio.setdefault(speaker, SpeakerAudio(message.sample_rate))
            audio.add(at, samples, message.timestamp_ms, message.sequence)

    # --- what the server says

    async def send(self, message: Json) -> None:
        await self.send_text(json.dumps(message))

    async def send_text(self, text: str) -> None:
        """Anything, well-formed or not."""
        connection = self._open()
        if not connection.deaf.is_set():
            await connection.socket.send_str(text)

    async def send_binary(self, data: bytes) -> None:
        """A binary frame, which no contract has."""
        await self._open().socket.send_bytes(data)

    async def speak(
        self,
        speaker: str,
        pcm16: Pcm,
        *,
        chunk_ms: int = 100,
        burst: bool = False,
        encoding: Encoding | None = None,
        sample_rate: int | None = None,
    ) -> list[float]:
        """Send translated speech of `speaker`, paced in real time or all at once.

        :param pcm16: int16 samples at `sample_rate`, by default 8000 (routing) or 16000 (provider).
        :param encoding: by default mulaw (routing) or pcm_16 (provider).
        :returns: the monotonic time each chunk was sent at.
        """
        encoding = encoding or ("mulaw" if self.contract == "routing" else "pcm_16")
        sample_rate = sample_rate or (8000 if self.contract == "routing" else 16000)
        step = sample_rate * chunk_ms // 1000
        start, sent = time.monotonic(), []
        for n, offset in enumerate(range(0, len(pcm16), step)):
            if not burst and (wait := start + n * chunk_ms / 1000 - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            piece = pcm16[offset : offset + step]
            data = g711.ulaw_encode(piece) if encoding == "mulaw" else piece.astype("<i2").tobytes()
            sent.append(time.monotonic())
            await self.send(self.speech(speaker, data, encoding, sample_rate))
        return sent

    def speech(self, speaker: str, data: bytes, encoding: str, sample_rate: int) -> Json:
        """The message that carries translated speech (assumed: the reference says so)."""
        payload = base64.b64encode(data).decode()
        if self.contract == "provider":
            return {
                "type": "audio",
                "data": payload,
                "encoding": encoding,
                "sample_rate": sample_rate,
                "channels": 1,
                "speaker": speaker,
            }
        self._sequence += 1
        audio: Json = {"encoding": encoding, "sample_rate_hz": sample_rate, "payload": payload}
        return {"type": "audio.output", "speaker": speaker, "sequence": self._sequence, "audio": audio}

    async def transcribe(
        self,
        speaker: str,
        language: str,
        text: str,
        *,
        final: bool = True,
        translation: tuple[str, str] | None = None,
        segment: str | None = None,
    ) -> str:
        """Send a transcript; `translation` is (language, text) and belongs to a final. Returns the segment's id."""
        if segment is None:
            self._segment += 1
            segment = f"seg_{self._segment}"
        translated: Json | None = dict(zip(("language", "text"), translation, strict=True)) if translation else None
        message: Json = {"speaker": speaker, "language": language, "text": text}
        if self.contract == "routing":
            extra: Json = {"translation": translated} if final and translated else {}
            await self.send({"type": "transcript.final" if final else "transcript.partial"} | message | extra)
        else:
            start = round(time.time() - self.created_at, 3)
            extra = {"id": segment, "is_final": final, "start_time": start, "confidence": 0.9}
            await self.send({"type": "transcript"} | message | extra)
            if final and translated:
                await self.send({"type": "translation", "id": segment} | translated)
        if final:
            turn: Json = {"sequence": len(self.turns) + 1, "timestamp": iso(time.time()), "translation": translated}
            self.turns.append(message | turn)
        return segment

    async def error(self, code: str, message: str) -> None:
        """`session.error`; the provider contract names no error message, so the same one is used."""
        await self.send({"type": "session.error", "code": code, "message": message})

    async def ended_by_server(self, reason: str = "timeout") -> None:
        """The server ends the session by itself, as it does after 30 idle minutes."""
        self.finish(reason)
        await self.goodbye(reason)
        await self._changed.notify()

    async def goodbye(self, reason: str) -> None:
        """`session.ended` (routing only: the older contract names no such message), and the socket closes."""
        if self.connected and not self.connections[-1].deaf.is_set():
            if self.contract == "routing":
                await self.send({"type": "session.ended", "session_id": self.id, "reason": reason})
            await self.connections[-1].socket.close()

    def finish(self, reason: str) -> None:
        if self.status != "ended":
            self.status, self.end_reason, self.ended_at = "ended", reason, time.time()

    # --- what goes wrong

    async def close_stream(self, code: int = 1011, message: bytes = b"") -> None:
        """The server closes the stream in mid-call; the session lives on."""
        await self._open().socket.close(code=code, message=message)

    def reset_stream(self) -> None:
        """TCP reset, without a close frame."""
        connection = self._open()
        raw: socket.socket | None = connection.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.transport.abort()

    def black_hole(self) -> None:
        """From now on nothing is read from this stream (not even pings) and nothing is sent; it stays open."""
        connection = self._open()
        connection.deaf.set()
        connection.transport.pause_reading()

    def _open(self) -> Connection:
        if not self.connected:
            raise AssertionError(f"expected an open stream of {self.id}, found none")
        return self.connections[-1]

    # --- JSON

    def as_json(self, *, with_stream: bool = False) -> Json:
        """The session as REST shows it; the stream's token is told once, at creation."""
        request = self.request
        body: Json = {
            "id": self.id,
            "object": "session",
            "status": self.status,
            "mode": request["mode"],
            "source_language": request.get("source_language", "auto"),
            "target_language": request.get("target_language", "auto"),
            "provider": "sip" if self.contract == "routing" else {"type": "sip", "status": "ready"},
            "recording": request.get("recording"),
            "metadata": request.get("metadata", {}),
            "created_at": iso(self.created_at),
        }
        if with_stream:
            url = f"{self._host}/v1/sessions/{self.id}/connect"
            url += f"?token={self.token}" if self.contract == "routing" else ""
            body["stream"] = {"url": url, "token": self.token, "expires_at": iso(self.expires_at)}
        if self.ended_at is not None:
            duration = "duration_seconds" if self.contract == "routing" else "duration"
            body |= {duration: round(self.ended_at - self.created_at), "ended_at": iso(self.ended_at)}
        return body


def iso(seconds: float) -> str:
    """ISO 8601 in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
