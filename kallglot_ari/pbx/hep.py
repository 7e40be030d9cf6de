"""Asterisk's copies of its SIP messages (res_hep: HEP version 3), and what of a message may be written down. Pure."""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

SIP = 1
_FAMILY, _SOURCE4, _DESTINATION4, _SOURCE6, _DESTINATION6 = 1, 3, 4, 5, 6
_SOURCE_PORT, _DESTINATION_PORT, _SECONDS, _MICROSECONDS, _KIND, _PAYLOAD = 7, 8, 9, 10, 11, 15
_NUMBER = 4
"""Bytes of the longest number."""
_TEXT = 16_384
"""Bytes kept of a message: a SIP message is shorter, and to look for secrets in a longer one takes its time."""
_CALL_ID = re.compile(r"^(?:call-id|i)[ \t]*:[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
_REQUEST = re.compile(r"[A-Z]{2,20} (\S{1,512}) SIP/2\.0")
_CREDENTIALS = re.compile(
    r"^((?:proxy-)?(?:authorization|authenticate)|www-authenticate)([ \t]*:[ \t]*)(\w+)?[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*",
    re.IGNORECASE | re.MULTILINE,
)
_KEYS = re.compile(r"(inline:|a=ice-pwd:|^k=)[^\s|]+", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SipMessage:
    """One message as Asterisk sent or received it."""

    at: float
    """Unix seconds, by Asterisk's clock."""
    source: str
    destination: str
    """host:port."""
    text: str

    @property
    def call_id(self) -> str:
        """The dialog's Call-ID; empty when it has none."""
        found = _CALL_ID.search(self.text)
        return found[1][:256] if found else ""

    @property
    def request_uri(self) -> str:
        """Empty for a response."""
        found = _REQUEST.match(self.text)
        return found[1] if found else ""


def parse(packet: bytes) -> SipMessage | None:
    """The SIP message in a HEP packet, or None for anything else."""
    if len(packet) < 6 or packet[:4] != b"HEP3":
        return None
    chunks: dict[int, bytes] = {}
    at, end = 6, min(len(packet), struct.unpack_from("!H", packet, 4)[0])
    while at + 6 <= end:
        vendor, kind, length = struct.unpack_from("!HHH", packet, at)
        if length < 6 or at + length > end:
            return None
        if vendor == 0:
            chunks[kind] = packet[at + 6 : at + length]
        at += length
    if chunks.get(_KIND) != bytes([SIP]) or _PAYLOAD not in chunks:
        return None
    stamp = _number(chunks.get(_SECONDS)) + _number(chunks.get(_MICROSECONDS)) / 1e6
    return SipMessage(
        stamp,
        _address(chunks.get(_SOURCE4) or chunks.get(_SOURCE6), chunks.get(_SOURCE_PORT)),
        _address(chunks.get(_DESTINATION4) or chunks.get(_DESTINATION6), chunks.get(_DESTINATION_PORT)),
        chunks[_PAYLOAD][:_TEXT].rstrip(b"\0").decode("utf-8", "replace"),
    )


def _number(chunk: bytes | None) -> int:
    return int.from_bytes(chunk, "big") if chunk and len(chunk) <= _NUMBER else 0


def _address(host: bytes | None, port: bytes | None) -> str:
    if host is None or len(host) not in (4, 16):
        return f"?:{_number(port)}"
    address = ipaddress.ip_address(host)
    return f"[{address}]:{_number(port)}" if address.version == 6 else f"{address}:{_number(port)}"


def without_secrets(text: str) -> str:
    """The message without what would help to log in or to decrypt: digests, nonces, SRTP and ICE keys."""
    text = _CREDENTIALS.sub(lambda m: f"{m[1]}{m[2]}{(m[3] or '') + ' ' if m[3] else ''}[hidden]", text)
    return _KEYS.sub(lambda m: f"{m[1]}[hidden]", text)
