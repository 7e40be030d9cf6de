"""Captures that Wireshark reads: RTP with the IP and UDP headers it had, or would have had, in the classic pcap form."""

from __future__ import annotations

import contextlib
import socket
import struct
from io import RawIOBase
from typing import TypeAlias

Address: TypeAlias = tuple[str, int]

_NANOSECONDS = 0xA1B23C4D
_RAW_IP = 101
"""LINKTYPE_RAW: a packet begins with its IP header, whose first four bits tell the version."""
_SNAPLEN = 65535
_UDP = 17
_HOPS = 64
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def datagram(source: Address, destination: Address, payload: bytes) -> bytes:
    """`payload` as a whole IP packet. Both addresses are of one family, as numbers."""
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    here, there = (socket.inet_pton(family, address[0]) for address in (source, destination))
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", source[1], destination[1], length, 0)
    pseudo = here + there + struct.pack("!IHBB", length, 0, 0, _UDP)
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp + payload) or 0xFFFF)
    if family == socket.AF_INET6:
        return _IPV6.pack(6 << 28, length, _UDP, _HOPS, here, there) + udp + payload
    header = _IPV4.pack(0x45, 0, 20 + length, 0, 0x4000, _HOPS, _UDP, 0, here, there)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + udp + payload


class PcapWriter:
    """Writes to `file`, which is unbuffered and stays the caller's. There are whole packets in it only, so that it can be read at any time, and after the disk was full."""

    def __init__(self, file: RawIOBase) -> None:
        self._file = file
        self._waiting = bytearray(struct.pack("<IHHiIII", _NANOSECONDS, 2, 4, 0, 0, _SNAPLEN, _RAW_IP))
        self._whole = 0
        """Bytes that the disk has taken."""
        self.flush()

    def write(self, at: float, source: Address, destination: Address, payload: bytes) -> None:
        """A datagram seen at `at`, in Unix seconds; it lies here until the next `flush`."""
        packet = datagram(source, destination, payload)
        seconds, nanoseconds = divmod(round(at * 1e9), 1_000_000_000)
        self._waiting += struct.pack("<IIII", seconds, nanoseconds, len(packet), len(packet)) + packet

    def flush(self) -> None:
        """:raises OSError: when the disk does not take what waits; the file is left without it."""
        size, left = len(self._waiting), bytes(self._waiting)
        self._waiting.clear()
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._whole)
            raise
        self._whole += size
