"""WebSocket frames on the wire (RFC 6455 §5.2). Pure."""

from __future__ import annotations

import struct
from random import getrandbits

TEXT, BINARY, PING, PONG = 0x81, 0x82, 0x89, 0x8A
"""First byte of a message in one frame, not compressed."""
MASKED = 0x80
"""Of the second byte; what a client sends is masked, what a server sends is not."""


def mask_slowly(mask: bytes, data: bytearray) -> None:
    """What aiohttp's does, where it has none."""
    size = len(data)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    data[:] = (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")


try:
    from aiohttp._websocket.helpers import websocket_mask

    mask = websocket_mask
except ImportError:  # it is no part of aiohttp's interface
    mask = mask_slowly

# The header of a message by its length: two bytes, the rest of the length, and a client's mask.
_TINY, _SHORT, _LONG = (struct.Struct(form).pack for form in ("!BB", "!BBH", "!BBQ"))
_MASKED_TINY, _MASKED_SHORT, _MASKED_LONG = (struct.Struct(form).pack for form in ("!BBL", "!BBHL", "!BBQL"))


def client_frame(first: int, payload: bytes) -> bytes:
    """A message of a client's as one frame; `first` is `TEXT`, of UTF-8 then, or `BINARY`."""
    size = len(payload)
    key = getrandbits(32)
    if size < 126:
        header = _MASKED_TINY(first, MASKED | size, key)
    elif size < 1 << 16:
        header = _MASKED_SHORT(first, MASKED | 126, size, key)
    else:
        header = _MASKED_LONG(first, MASKED | 127, size, key)
    data = bytearray(payload)
    mask(header[-4:], data)
    return header + data


def server_frame(first: int, payload: bytes) -> bytes:
    """A message of a server's as one frame; `first` is `TEXT`, of UTF-8 then, or `BINARY`."""
    size = len(payload)
    if size < 126:
        return _TINY(first, size) + payload
    if size < 1 << 16:
        return _SHORT(first, 126, size) + payload
    return _LONG(first, 127, size) + payload


def header(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the frame at `at` begins, and its length; past the end of `data` when the header is not all there."""
    if len(data) < at + 2:
        return len(data) + 1, 0
    second = data[at + 1]
    begin, length = at + 2, second & 0x7F
    if length >= 126:
        begin += 2 if length == 126 else 8
        length = int.from_bytes(data[at + 2 : begin], "big")
    return begin + (4 if second & MASKED else 0), length
