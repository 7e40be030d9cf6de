"""RTP out of order: every other packet to a port comes after the one that follows it. Needs root.

The kernel drops what comes on its own; we see it before that, and send it again with a time to live that lets it pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Iterator

ALL_IP = 0x0800
TTL = 77
HELD = 0.027
"""Seconds; packets of a leg come every 20 ms."""


@contextlib.contextmanager
def reordered(port: int) -> Iterator[list[int]]:
    """UDP to `port` on loopback; gives the list to which the number held back is added for each."""
    rule = [
        "INPUT",
        "-i",
        "lo",
        "-p",
        "udp",
        "--dport",
        str(port),
        "-m",
        "ttl",
        "!",
        "--ttl-eq",
        str(TTL),
        "-j",
        "DROP",
    ]
    loop = asyncio.get_running_loop()
    held: list[int] = []
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_IP)) as seen,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out,
    ):
        seen.bind(("lo", ALL_IP))
        seen.setblocking(False)

        def send(packet: bytes) -> None:
            if out.fileno() >= 0:  # what is still held back in the end is lost
                out.sendto(packet, ("127.0.0.1", 0))

        def come() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, address = seen.recvfrom(2048)
                    header = (packet[0] & 15) * 4
                    ours = packet[9] == socket.IPPROTO_UDP and packet[header + 2 : header + 4] == port.to_bytes(
                        2, "big"
                    )
                    if not ours or address[2] != 0 or packet[8] == TTL:
                        continue
                    again = bytearray(packet)
                    again[8] = TTL
                    again[header + 6 : header + 8] = bytes(
                        2
                    )  # the checksum is not there yet on loopback; 0: there is none
                    if again[header + 11] % 2:
                        held.append(len(held))
                        loop.call_later(HELD, send, bytes(again))
                    else:
                        send(bytes(again))

        loop.add_reader(seen, come)
        subprocess.run(["iptables", "-A", *rule], check=True)
        try:
            yield held
        finally:
            subprocess.run(["iptables", "-D", *rule], check=True)
            loop.remove_reader(seen)
