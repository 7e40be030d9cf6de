"""RTP of one port on loopback, with the kernel's time of each packet, seen by a process of its own so that nothing else delays it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from kallglot_ari.audio.codecs import registry
from kallglot_ari.audio.frame import Pcm
from tests.asterisk.conftest import missing

_PACKET_HOST = 0
_ALL_IP = 0x0800
_SO_TIMESTAMPNS = 35
_SO_ATTACH_FILTER = 26
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_CODECS = {0: "ulaw", 9: "g722"}


class Seen(NamedTuple):
    """When (monotonic seconds), UDP ports, and an RTP packet with a plain header."""

    at: float
    source: int
    destination: int
    rtp: bytes

    @property
    def payload(self) -> bytes:
        return self.rtp[12:]

    @property
    def kind(self) -> int:
        """Payload type."""
        return self.rtp[1] & 0x7F

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.rtp[2:4], "big")

    @property
    def ssrc(self) -> int:
        return int.from_bytes(self.rtp[8:12], "big")


@dataclass
class Flow:
    """One stream of PCMU or G.722, in the order it was on the wire."""

    packets: list[Seen]

    @property
    def rate(self) -> int:
        return registry.get(_CODECS[self.packets[0].kind]).sample_rate

    @property
    def sound(self) -> Pcm:
        decoder = registry.get(_CODECS[self.packets[0].kind]).decoder()
        return np.concatenate([decoder.decode(packet.payload) for packet in self.packets])

    @property
    def missing(self) -> list[int]:
        """Sequence numbers after which one is missing."""
        return [a.sequence for a, b in pairwise(self.packets) if (b.sequence - a.sequence) & 0xFFFF != 1]

    @property
    def longest_wait(self) -> float:
        """Seconds."""
        return max((b.at - a.at for a, b in pairwise(self.packets)), default=0.0)


def flows(seen: list[Seen]) -> list[Flow]:
    """The streams of whole 20 ms packets in what was seen."""
    found: dict[tuple[int, int, int, int], list[Seen]] = {}
    for packet in seen:
        if packet.rtp[0] == 0x80 and packet.kind in _CODECS and len(packet.payload) == 160:
            found.setdefault((packet.source, packet.destination, packet.ssrc, packet.kind), []).append(packet)
    return [Flow(packets) for packets in found.values()]


def tone_share(seen: list[Seen], hertz: float) -> float:
    """Of the power in the first 20 ms of each packet, read as PCMU, the share near `hertz`."""
    decoder = registry.get("ulaw").decoder()
    sound = np.concatenate([decoder.decode(p.payload[:160]) for p in seen if len(p.payload) >= 160]).astype(float)
    power = np.abs(np.fft.rfft(sound)) ** 2
    at = np.fft.rfftfreq(len(sound), 1 / 8000)
    return float(power[abs(at - hertz) < 20].sum() / power[at > 50].sum())


class Sniffer:
    """What was seen so far."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def take(self) -> list[Seen]:
        """Stop, and give what was seen. :raises AssertionError: when the kernel could not keep all for us."""
        self._pipe.send(None)
        seen, dropped = self._pipe.recv()
        assert not dropped, f"the sniffer missed {dropped} packets: this machine is too busy to measure on"
        return [Seen(*packet) for packet in seen]


@contextlib.contextmanager
def sniffing(port: int = 0, span: tuple[int, int] | None = None) -> Iterator[Sniffer]:
    """See RTP to and from UDP `port`, the ports of `span`, or all on loopback. Needs root. Waits for its process: not on an event loop with calls up."""
    if os.geteuid():
        missing("seeing RTP on the wire needs root")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(span or (port, port or 65535), theirs), daemon=True)
    process.start()
    assert ours.recv() == "ready"
    try:
        yield Sniffer(ours)
    finally:
        process.kill()
        process.join()


def _filter(low: int, high: int) -> bytes:
    """For the kernel: UDP from or to these ports, in IP packets without options (classic BPF: code, jump if true, if false, value)."""
    steps = [
        (0x30, 0, 0, 9), (0x15, 0, 6, socket.IPPROTO_UDP),  # protocol
        (0x28, 0, 0, 20), (0x35, 0, 1, low), (0x25, 0, 4, high),  # source
        (0x28, 0, 0, 22), (0x35, 0, 1, low), (0x25, 0, 1, high),  # destination
        (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF),
    ]  # fmt: skip
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _run(span: tuple[int, int], pipe: Connection) -> None:
    seen = []
    offset = time.time() - time.monotonic()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_IP)) as sniffer:
        sniffer.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        program = ctypes.create_string_buffer(_filter(*span))
        steps = struct.pack("HP", len(program.raw) // 8, ctypes.addressof(program))
        sniffer.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, steps)
        sniffer.bind(("lo", _ALL_IP))
        sniffer.settimeout(0.1)
        pipe.send("ready")
        while not pipe.poll():
            with contextlib.suppress(TimeoutError):
                packet, ancillary, _, address = sniffer.recvmsg(2048, 64)
                header = (packet[0] & 15) * 4
                if address[2] != _PACKET_HOST or packet[9] != socket.IPPROTO_UDP or len(packet) < header + 20:
                    continue
                source, destination = struct.unpack_from("!HH", packet, header)
                if packet[header + 8] >> 6 == 2:
                    seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                    at = seconds + nanoseconds / 1e9 - offset
                    seen.append((at, source, destination, packet[header + 8 :]))
        _, dropped = struct.unpack("II", sniffer.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        pipe.send((seen, dropped))
