"""RTP of one port on loopback, with the kernel's time of each packet, seen by a process of its own so that nothing else delays it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple

from tests.asterisk.conftest import missing

_PACKET_HOST = 0
_ALL_IP = 0x0800
_SO_TIMESTAMPNS = 35


class Seen(NamedTuple):
    """When (monotonic seconds), UDP ports, and the payload behind a plain RTP header."""

    at: float
    source: int
    destination: int
    payload: bytes


class Sniffer:
    """What was seen so far."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def take(self) -> list[Seen]:
        """Stop, and give what was seen."""
        self._pipe.send(None)
        return [Seen(*packet) for packet in self._pipe.recv()]


@contextlib.contextmanager
def sniffing(port: int) -> Iterator[Sniffer]:
    """See RTP to and from UDP `port`. Needs root."""
    if os.geteuid():
        missing("seeing RTP on the wire needs root")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(port, theirs), daemon=True)
    process.start()
    assert ours.recv() == "ready"
    try:
        yield Sniffer(ours)
    finally:
        process.kill()
        process.join()


def _run(port: int, pipe: Connection) -> None:
    seen = []
    offset = time.time() - time.monotonic()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_IP)) as sniffer:
        sniffer.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
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
                if port in (source, destination):
                    seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                    at = seconds + nanoseconds / 1e9 - offset
                    seen.append((at, source, destination, packet[header + 20 :]))
        pipe.send(seen)
