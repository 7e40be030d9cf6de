"""Peers that `bench` measures beside our engine: a socket for each leg, on asyncio's own loop, on uvloop, and aiortp's.

`SocketServer` does for each leg what our engine does, with the same jitter buffer, packets and prebuffer, one object at a time. `EchoServer` is
the least that carries the sound: no check of the source, no jitter buffer, no figures; its rows say what a socket a leg costs by itself.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Protocol

from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.errors import MediaError
from kallglot_ari.lab.bench_load import leg_host, partner
from kallglot_ari.rtp.jitter import Heard, JitterBuffer
from kallglot_ari.rtp.pacer import Deadlines
from kallglot_ari.rtp.packet import RtpPacket
from kallglot_ari.rtp.playout import Prebuffer
from kallglot_ari.rtp.sequence import signed_distance
from kallglot_ari.tasks import Tasks

HOST = "127.0.0.1"
QUIET = b"\xff" * 800
"""A chunk of silence: pauses are not translated."""
_FRAME = 160
_CHUNK = len(QUIET)
_SILENCE = QUIET[:_FRAME]
_PHASES = 2
"""Half of the legs are sent to at a time, 10 ms apart, as our engine does."""
_HEADER = struct.Struct("!BBHII")


class _Sender(Protocol):
    def send(self, now: float) -> None: ...


class _Leg(asyncio.DatagramProtocol):
    """A leg with all that belongs to it."""

    def __init__(self, ssrc: int, address: tuple[str, int], discarded: Counter[str], prebuffer: Prebuffer) -> None:
        self.address = address
        self.other: _Leg | None = None
        self.transport: Any = None
        self._discarded = discarded
        self._source = -1
        self._candidate = (-1, -1)
        self._buffer = JitterBuffer(8000, _FRAME)
        self.received = self.expected = 0
        self.jitter, self._transit = 0.0, 0.0
        self._chunk = bytearray()
        self._chunk_at = 0.0
        self._clock = 0
        self._prebuffer = prebuffer
        self._queue: deque[bytes] = deque(maxlen=1500)
        self._speaking = False
        self._first_at, self._received_at, self._played = 0.0, 0.0, 0
        self._ssrc, self._sequence, self._timestamp = ssrc, 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        now = time.monotonic()
        if addr != self.address:
            self._discarded["address"] += 1
            return
        try:
            packet = RtpPacket.parse(data)
        except MediaError:
            self._discarded["malformed"] += 1
            return
        if packet.payload_type != 0 or not packet.payload:
            self._discarded["payload_type"] += 1
            return
        if packet.ssrc != self._source and not self._adopt(packet):
            return
        self._account(packet, now)
        verdict = self._buffer.push(packet, now, len(packet.payload))
        if verdict:
            self._discarded[verdict] += 1
        self.drain(now)

    def _adopt(self, packet: RtpPacket) -> bool:
        """The very first source at once, another when two packets in a row are of it."""
        before, self._candidate = self._candidate, (packet.ssrc, packet.sequence)
        if self._source >= 0 and before != (packet.ssrc, (packet.sequence - 1) & 0xFFFF):
            self._discarded["ssrc"] += 1
            return False
        self._buffer.restart()
        self._source = packet.ssrc
        return True

    def _account(self, packet: RtpPacket, now: float) -> None:
        """Loss and jitter (RFC 3550 §6.4.1)."""
        timing = self._buffer.timing
        position = timing.next_position + signed_distance(packet.timestamp, timing.next_timestamp, 32)
        transit = now - position / 8000
        if self.received:
            self.jitter += (abs(transit - self._transit) - self.jitter) / 16.0
        self._transit = transit
        self.received += 1

    def drain(self, now: float) -> None:
        """Take out of the buffer what its time has come; gaps are silence."""
        while (item := self._buffer.pop(now)) is not None:
            if isinstance(item, Heard):
                self.expected += 1
                self._append(item.packet.payload, item.at)
            else:
                self.expected += item.kind == "lost"
                self._append(b"\xff" * item.ticks, now)

    def _append(self, sound: bytes, at: float) -> None:
        if not self._chunk:
            self._chunk_at = at
        self._chunk += sound
        while len(self._chunk) >= _CHUNK:
            whole = StreamAudio("mulaw", 8000, bytes(self._chunk[:_CHUNK]))
            del self._chunk[:_CHUNK]
            chunk = UplinkChunk(whole, self._clock // 8, self._chunk_at)
            self._clock += _CHUNK
            self._chunk_at = at
            if self.other is not None and whole.payload != QUIET:
                self.other.play(chunk.audio.payload, time.monotonic())

    def play(self, payload: bytes, now: float) -> None:
        """Queue speech, behind what is on its way."""
        if not self._queue and not self._speaking:
            self._first_at = self._received_at = now
            self._played = 0
        else:
            self._prebuffer.arrived(now - self._first_at - self._played / 8000)
        self._played += len(payload)
        self._queue.extend(payload[i : i + _FRAME] for i in range(0, len(payload), _FRAME))

    def send(self, now: float) -> None:
        """One packet: speech once its talkspurt has begun, else silence."""
        payload, marker = _SILENCE, 0
        if not self._queue:
            self._speaking = False
        elif self._speaking or self._prebuffer.over(now, self._first_at, self._received_at):
            payload = self._queue.popleft()
            marker = 0 if self._speaking else 0x80
            self._speaking = True
        header = _HEADER.pack(0x80, marker, self._sequence, self._timestamp, self._ssrc)
        self.transport.sendto(header + payload, self.address)
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._timestamp = (self._timestamp + _FRAME) & 0xFFFFFFFF
        self.drain(now)


async def _pace(legs: Sequence[_Sender], phases: int) -> None:
    """Send to all legs every 20 ms, a share of them at a time."""
    deadlines = Deadlines(0.02 / phases, time.monotonic(), catch_up=3 * phases)
    beat = 0
    while True:
        beats, skipped = deadlines.due(time.monotonic())
        beat += skipped
        for _ in range(beats):
            now = time.monotonic()
            for leg in legs[beat % phases :: phases]:
                leg.send(now)
            beat += 1
        await asyncio.sleep(max(0.0, deadlines.next - time.monotonic()))


class SocketServer:
    """A datagram endpoint for each leg, one timer for all: on asyncio's own loop or on uvloop."""

    def __init__(self) -> None:
        self.legs: list[_Leg] = []
        self.discarded: Counter[str] = Counter()
        self._lost_before = 0
        self._tasks = Tasks("bench")

    async def start(self, legs: int, port: int) -> list[int]:
        loop = asyncio.get_running_loop()
        prebuffer = Prebuffer()
        for number in range(legs):
            leg = _Leg(number + 1, (leg_host(number), port), self.discarded, prebuffer)
            await loop.create_datagram_endpoint(lambda leg=leg: leg, local_addr=(HOST, 0))  # type: ignore[misc]
            self.legs.append(leg)
        for number, leg in enumerate(self.legs):
            leg.other = self.legs[partner(number)] if partner(number) < legs else None
        self._tasks.spawn(_pace(self.legs, _PHASES), name="pace")
        return [leg.transport.get_extra_info("sockname")[1] for leg in self.legs]

    def reset(self) -> None:
        self._lost_before = self._lost()

    def _lost(self) -> int:
        return sum(leg.expected - leg.received for leg in self.legs) + self.discarded["late"]

    def figures(self) -> dict[str, float]:
        return {"uplink_lost": max(0, self._lost() - self._lost_before)}

    async def stop(self) -> None:
        await self._tasks.close()
        for leg in self.legs:
            leg.transport.close()


class _Echo(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.other: _Echo | None = None
        self.transport: Any = None
        self.address: tuple[str, int] = ("", 0)
        self.chunk: list[bytes] = []
        self.queue: deque[bytes] = deque(maxlen=1500)
        self.sequence = self.timestamp = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        first, second, _sequence, _timestamp, _ssrc = _HEADER.unpack_from(data)
        if first != 0x80 or second & 0x7F:
            return
        self.chunk.append(data[12:])
        if len(self.chunk) == 5:
            whole = StreamAudio("mulaw", 8000, b"".join(self.chunk))
            self.chunk.clear()
            if self.other is not None:
                self.other.queue.extend(whole.payload[i : i + _FRAME] for i in range(0, _CHUNK, _FRAME))

    def send(self, now: float) -> None:
        payload = self.queue.popleft() if self.queue else _SILENCE
        self.transport.sendto(_HEADER.pack(0x80, 0, self.sequence, self.timestamp, 1) + payload, self.address)
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.timestamp = (self.timestamp + _FRAME) & 0xFFFFFFFF


class EchoServer:
    """A datagram endpoint for each leg that says the sound to the partner and does nothing else."""

    def __init__(self) -> None:
        self.legs: list[_Echo] = []
        self._tasks = Tasks("bench")

    async def start(self, legs: int, port: int) -> list[int]:
        loop = asyncio.get_running_loop()
        for leg in range(legs):
            _, protocol = await loop.create_datagram_endpoint(_Echo, local_addr=(HOST, 0))
            protocol.address = (leg_host(leg), port)
            self.legs.append(protocol)
        for leg, protocol in enumerate(self.legs):
            protocol.other = self.legs[partner(leg)] if partner(leg) < legs else None
        self._tasks.spawn(_pace(self.legs, 1), name="pace")
        return [leg.transport.get_extra_info("sockname")[1] for leg in self.legs]

    def reset(self) -> None:
        """Nothing is kept."""

    def figures(self) -> dict[str, float]:
        return {}

    async def stop(self) -> None:
        await self._tasks.close()
        for leg in self.legs:
            leg.transport.close()


class AiortpServer:
    """aiortp (PyPI), with its playout buffer and its pacer."""

    _BASE = 21000

    def __init__(self) -> None:
        self.sessions: list[Any] = []

    async def start(self, legs: int, port: int) -> list[int]:
        from aiortp import RTPSession

        ports = []
        for leg in range(legs):
            local = self._BASE + 2 * leg
            self.sessions.append(
                await RTPSession.create(
                    (HOST, local), (leg_host(leg), port), 0, playout=True, paced=True, rtcp_interval=3600.0
                )
            )
            ports.append(local)
        for leg, session in enumerate(self.sessions):
            if partner(leg) < legs:
                session.on_audio = self._to(self.sessions[partner(leg)])
        return ports

    @staticmethod
    def _to(other: Any) -> Any:
        chunk: list[bytes] = []

        def heard(pcm: bytes, _timestamp: int) -> None:
            chunk.append(pcm)
            if len(chunk) == 5:
                for part in chunk:
                    other.send_audio_pcm_auto(part)
                chunk.clear()

        return heard

    def reset(self) -> None:
        """Nothing is kept."""

    def figures(self) -> dict[str, float]:
        return {}

    async def stop(self) -> None:
        for session in self.sessions:
            await session.close()
