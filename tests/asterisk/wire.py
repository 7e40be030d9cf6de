"""What is really on the line: RTP seen on loopback, before any phone's jitter buffer has touched it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kallglot_ari.audio.codecs import registry
from kallglot_ari.audio.frame import Pcm
from tests.asterisk.conftest import missing

_INCOMING = 0
"""PACKET_HOST: on loopback a packet could be seen twice, going out and coming in."""
_ALL_IP = 0x0800
DECODERS = {0: "ulaw", 9: "g722"}


class Wire:
    """PCMU and G.722 streams by (source port, destination port, SSRC, payload type)."""

    def __init__(self) -> None:
        self._packets: dict[tuple[int, int, int, int], list[tuple[int, bytes]]] = defaultdict(list)

    def take(self, packet: bytes) -> None:
        """An IP packet."""
        header = (packet[0] & 15) * 4
        if packet[9] != socket.IPPROTO_UDP or len(packet) != header + 8 + 12 + 160:
            return
        source, destination = struct.unpack_from("!HH", packet, header)
        rtp = packet[header + 8 :]
        kind = rtp[1] & 0x7F
        if rtp[0] == 0x80 and kind in DECODERS:
            sequence, _, ssrc = struct.unpack_from("!HII", rtp, 2)
            self._packets[source, destination, ssrc, kind].append((sequence, rtp[12:]))

    def streams(self) -> Iterator[tuple[Pcm, int]]:
        """Each stream's sound and its rate. :raises AssertionError: for a sequence number that is missing."""
        for ports, packets in self._packets.items():
            for (before, _), (after, _) in pairwise(packets):
                assert (after - before) & 0xFFFF == 1, f"{ports}: sequence number {after} after {before}"
            codec = registry.get(DECODERS[ports[3]])
            decoder = codec.decoder()
            yield np.concatenate([decoder.decode(sound) for _, sound in packets]), codec.sample_rate


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram."""

    ports: tuple[int, int]
    payload: bytes


def tone_share(datagrams: Sequence[Datagram], hertz: float) -> float:
    """Of the power in 20 ms of audio a datagram, read as PCMU, the share near `hertz`."""
    decoder = registry.get("ulaw").decoder()
    sound = np.concatenate([decoder.decode(d.payload[12:172]) for d in datagrams if len(d.payload) >= 172]).astype(
        float
    )
    power = np.abs(np.fft.rfft(sound)) ** 2
    at = np.fft.rfftfreq(len(sound), 1 / 8000)
    return float(power[abs(at - hertz) < 20].sum() / power[at > 50].sum())


@contextlib.contextmanager
def listening() -> Iterator[Wire]:
    """See all PCMU and G.722 on loopback. Needs root."""
    wire = Wire()
    with _sniffing(wire.take):
        yield wire


@contextlib.contextmanager
def carrying() -> Iterator[list[Datagram]]:
    """See all UDP on loopback. Needs root."""
    seen: list[Datagram] = []

    def take(packet: bytes) -> None:
        header = (packet[0] & 15) * 4
        if packet[9] == socket.IPPROTO_UDP:
            seen.append(Datagram(struct.unpack_from("!HH", packet, header), packet[header + 8 :]))

    with _sniffing(take):
        yield seen


@contextlib.contextmanager
def _sniffing(take: Callable[[bytes], None]) -> Iterator[None]:
    try:
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_IP))
    except PermissionError:
        missing("seeing RTP on the wire needs root")
        raise
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                packet, address = sniffer.recvfrom(65536)
                if address[2] == _INCOMING and len(packet) > 28:
                    take(packet)

    with sniffer:
        sniffer.bind(("lo", _ALL_IP))
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sniffer.settimeout(0.2)
        thread = threading.Thread(target=run, name="wire", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
