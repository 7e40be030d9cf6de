"""A stand-in for Asterisk's end of an external-media channel: a UDP socket that sends on a beat and keeps what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterable

from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.rtp.packet import RtpPacket


class Peer:
    """`ssrc`, `sequence` and `timestamp` are where its stream begins."""

    def __init__(self, codec: Codec, *, ssrc: int = 77, sequence: int = 65500, timestamp: int = 2**32 - 3000) -> None:
        self.codec = codec
        self.ssrc, self.sequence, self.timestamp = ssrc, sequence, timestamp
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.heard: list[tuple[float, RtpPacket]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.sock.getsockname()
        return str(host), int(port)

    async def __aenter__(self) -> Peer:
        self._task = asyncio.get_running_loop().create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.sock.close()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(self.sock, 2048)
            self.heard.append((time.monotonic(), RtpPacket.parse(data)))

    def packet(self, index: int, payload: bytes) -> bytes:
        return RtpPacket(
            self.codec.receive_type,
            self.sequence + index,
            self.timestamp + index * self.codec.timestamp_step,
            self.ssrc,
            payload,
        ).pack()

    async def say(self, to: tuple[str, int], payloads: Iterable[bytes], *, lost: frozenset[int] = frozenset()) -> None:
        """One payload every 20 ms; those in `lost` are not sent.

        Begins when the tick knows what the engine was told before: a packet that comes in the middle of a tick comes from nobody yet.
        """
        start = time.monotonic() + 0.03
        for index, payload in enumerate(payloads):
            await asyncio.sleep(max(0.0, start + index * 0.02 - time.monotonic()))
            if index not in lost:
                self.sock.sendto(self.packet(index, payload), to)
