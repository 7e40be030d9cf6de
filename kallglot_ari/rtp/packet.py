"""RTP packets (RFC 3550 §5.1): parsing whatever arrives, packing what we send."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kallglot_ari.errors import MediaError

HEADER_BYTES = 12
_HEADER = struct.Struct("!BBHII")
_EXTENSION = struct.Struct("!HH")
_RTCP_TYPES = range(192, 224)
"""Second byte of an RTCP packet (RFC 5761 §4): not RTP, even on the same port."""


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """One packet. `sequence` is 16 bits, `timestamp` and `ssrc` are 32; `extension` is (profile, data) or None."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False
    csrc: tuple[int, ...] = ()
    extension: tuple[int, bytes] | None = None

    @staticmethod
    def parse(data: bytes) -> RtpPacket:
        """Take a datagram apart.

        :raises MediaError: when it is no RTP packet; the message says what was expected and what was found.
        """
        if len(data) < HEADER_BYTES:
            raise MediaError(f"RTP header: expected at least {HEADER_BYTES} bytes, found {len(data)}")
        first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
        if first >> 6 != 2:
            raise MediaError(f"RTP version: expected 2, found {first >> 6}")
        if second in _RTCP_TYPES:
            raise MediaError(f"RTP: expected an RTP packet, found RTCP of type {second}")
        position = HEADER_BYTES
        count = first & 0x0F
        if len(data) < position + 4 * count:
            raise MediaError(f"RTP CSRC list: expected {4 * count} bytes, found {len(data) - position}")
        csrc = struct.unpack_from(f"!{count}I", data, position)
        position += 4 * count
        extension, position = _parse_extension(data, position) if first & 0x10 else (None, position)
        end = len(data)
        if first & 0x20:
            end = _without_padding(data, position)
        return RtpPacket(
            payload_type=second & 0x7F,
            sequence=sequence,
            timestamp=timestamp,
            ssrc=ssrc,
            payload=data[position:end],
            marker=bool(second & 0x80),
            csrc=csrc,
            extension=extension,
        )

    def pack(self, *, padding: int = 0) -> bytes:
        """The packet on the wire, with `padding` bytes (0 to 255) at its end. Sequence, timestamp and SSRC wrap.

        :raises MediaError: for what has no room in a header.
        """
        if not 0 <= self.payload_type <= 127:
            raise MediaError(f"RTP payload type: expected 0 to 127, found {self.payload_type}")
        if len(self.csrc) > 15:
            raise MediaError(f"RTP CSRC list: expected at most 15 entries, found {len(self.csrc)}")
        if not 0 <= padding <= 255:
            raise MediaError(f"RTP padding: expected 0 to 255 bytes, found {padding}")
        first = 0x80 | (0x20 if padding else 0) | (0x10 if self.extension is not None else 0) | len(self.csrc)
        second = (0x80 if self.marker else 0) | self.payload_type
        parts = [
            _HEADER.pack(first, second, self.sequence & 0xFFFF, self.timestamp & 0xFFFFFFFF, self.ssrc & 0xFFFFFFFF),
            struct.pack(f"!{len(self.csrc)}I", *self.csrc),
        ]
        if self.extension is not None:
            profile, words = self.extension
            if len(words) % 4:
                raise MediaError(f"RTP extension: expected a multiple of 4 bytes, found {len(words)}")
            parts += [_EXTENSION.pack(profile, len(words) // 4), words]
        parts.append(self.payload)
        if padding:
            parts.append(bytes(padding - 1) + bytes([padding]))
        return b"".join(parts)


def _parse_extension(data: bytes, position: int) -> tuple[tuple[int, bytes], int]:
    if len(data) < position + 4:
        raise MediaError(f"RTP extension header: expected 4 bytes, found {len(data) - position}")
    profile, words = _EXTENSION.unpack_from(data, position)
    position += 4
    if len(data) < position + 4 * words:
        raise MediaError(f"RTP extension: expected {4 * words} bytes, found {len(data) - position}")
    return (profile, data[position : position + 4 * words]), position + 4 * words


def _without_padding(data: bytes, position: int) -> int:
    room = len(data) - position
    padding = data[-1] if room else 0
    if not 1 <= padding <= room:
        raise MediaError(f"RTP padding: expected 1 to {room} bytes, found {padding}")
    return len(data) - padding
