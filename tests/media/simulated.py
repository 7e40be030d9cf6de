"""The whole tick without sockets, threads or clocks: time is made up, so that half an hour takes seconds."""

from __future__ import annotations

import heapq
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.frame import Pcm
from kallglot_ari.calls.model import LegQuality
from kallglot_ari.media import formats
from kallglot_ari.media.capture import Capture, Scribe
from kallglot_ari.media.chunks import Chunk
from kallglot_ari.media.flow import leg_quality
from kallglot_ari.media.native import LIBRARY, Native
from kallglot_ari.media.plane import TICK, Plane
from kallglot_ari.media.udp import Block, Outbox, pack_address
from kallglot_ari.rtp.packet import RtpPacket
from kallglot_ari.settings import MediaSettings


@dataclass
class Wire:
    """Implements `media.udp.Socket`: what is on its way, and what was sent, by leg."""

    names: list[bytes]
    coming: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    sent: dict[int, list[bytes]] = field(default_factory=dict)
    dropped: int = 0
    port: int = 1

    def receive(self, block: Block, now: float) -> int:
        count = 0
        while self.coming and self.coming[0][0] <= now and count < len(block.length):
            at, _, leg, data = heapq.heappop(self.coming)
            block.data[count, : len(data)] = np.frombuffer(data, dtype=np.uint8)
            block.length[count], block.arrival[count] = len(data), at
            block.name[count] = 0
            block.name[count, :16] = np.frombuffer(self.names[leg], dtype=np.uint8)
            count += 1
        return count

    def send(self, outbox: Outbox, rows: NDArray[np.int64]) -> int:
        for row in rows.tolist():
            self.sent.setdefault(row, []).append(outbox.data[row].tobytes())
        return len(rows)

    def close(self) -> None:
        """Nothing is open."""


class Simulation:
    """Legs of mu-law, connected from the start; row and generation of leg n are n and n + 1 at first."""

    def __init__(
        self, legs: int, *, library: Native | None = LIBRARY, encoding: str = "mulaw", rate: int = 8000,
        **settings: object,
    ) -> None:  # fmt: skip
        chosen = MediaSettings.model_validate(settings)
        form = formats.choose(chosen, encoding)
        self.codec = registry.get(form.receive)
        self.wire = Wire([pack_address(socket.AF_INET, "127.0.0.1", 20000 + leg) for leg in range(legs)])
        self.scribe = Scribe(lambda *_: None)
        self.plane = Plane(
            self.wire, form, chosen, encoding=encoding, sample_rate=rate, chunk_ms=100,
            capture=Capture(self.scribe, ("127.0.0.1", 1)), library=library,
        )  # fmt: skip
        self.now = 0.0
        self.chunks: list[Chunk] = []
        self.lags: list[float] = []
        self.interrupted: list[tuple[int, int]] = []
        self._number = self._ticks = 0
        self._generations = [leg + 1 for leg in range(legs)]
        for leg, name in enumerate(self.wire.names):
            self.command("open", leg, 1, 0, 0)
            self.command("connect", leg, name)

    def command(self, name: str, leg: int, *args: object) -> None:
        self.commands([(name, leg, *args)])

    def commands(self, several: Sequence[tuple[Any, ...]]) -> None:
        """Each a name, a leg and its arguments; they come between two ticks."""
        generation = self._generations
        left = deque((name, (leg, generation[leg], *args)) for name, leg, *args in several)
        while left:
            self.plane.execute(left, self.now)

    def again(self, leg: int) -> None:
        """Another party in the place of one that was closed."""
        self._generations[leg] += len(self._generations)
        self.command("open", leg, 1, 0, 0)
        self.command("connect", leg, self.wire.names[leg])

    def arrives(self, at: float, leg: int, sequence: int, payload: bytes, *, ssrc: int = 0) -> None:
        """A packet that will have come at `at`."""
        at_tick = sequence * self.codec.timestamp_step & 0xFFFFFFFF
        packet = RtpPacket(self.codec.receive_type, sequence & 0xFFFF, at_tick, ssrc or 1 + leg, payload).pack()
        self.arrives_as(at, leg, packet)

    def arrives_as(self, at: float, leg: int, packet: bytes) -> None:
        """The same, as it is."""
        self._number += 1
        heapq.heappush(self.wire.coming, (at, self._number, leg, packet))

    def run(self, until: float, *, at_once: int = 1) -> None:
        """Let time go on to that second, that many ticks at once as after a stall."""
        while self._ticks * TICK < until:
            self._ticks += at_once
            self.now = self._ticks * TICK
            for _ in range(at_once):
                self.plane.tick(self.now)
            report = self.plane.take()
            if report is not None:
                self.chunks += report.chunks
                self.lags += report.lags
                self.interrupted += report.interrupted

    def stall(self, seconds: float) -> None:
        """Time goes on without a tick, and what was not sent in it never is."""
        self._ticks += round(seconds / TICK)
        self.now = self._ticks * TICK

    def said(self, leg: int) -> Pcm:
        """What went up."""
        data = b"".join(chunk.sound.audio.payload for chunk in self.chunks if chunk.row == leg)
        return g711.ULAW_TO_PCM[np.frombuffer(data, dtype=np.uint8)]

    def heard(self, leg: int) -> Pcm:
        """What was sent down."""
        data = b"".join(packet[12:] for packet in self.wire.sent.get(leg, []))
        return g711.ULAW_TO_PCM[np.frombuffer(data, dtype=np.uint8)]

    def quality(self, leg: int) -> LegQuality:
        self.plane.publish(leg)
        return leg_quality(tuple(self.plane.stats[leg].tolist()))
