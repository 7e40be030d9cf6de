"""How the service and a worker process talk: a header in JSON and a blob of bytes, each with its length before it."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import orjson

LENGTHS = struct.Struct("!II")
MAX_HEADER = 1 << 20
MAX_BLOB = 1 << 26


def pack(header: dict[str, Any], blob: bytes = b"") -> bytes:
    """One message."""
    text = orjson.dumps(header)
    return LENGTHS.pack(len(text), len(blob)) + text + blob


def lengths(data: bytes) -> tuple[int, int]:
    """Lengths of header and blob. :raises ValueError: when they cannot be those of a message."""
    header, blob = LENGTHS.unpack(data)
    if not 2 <= header <= MAX_HEADER or blob > MAX_BLOB:
        raise ValueError(f"expected a message, found lengths {header} and {blob}")
    return header, blob


def unpack_header(text: bytes) -> dict[str, Any]:
    """:raises ValueError: when it is no JSON object."""
    header = orjson.loads(text)
    if not isinstance(header, dict):
        raise ValueError(f"expected an object, found {type(header).__name__}")
    return header


def read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message of a blocking stream; None at its end. :raises ValueError: for something else."""
    head = stream.read(LENGTHS.size)
    if len(head) < LENGTHS.size:
        return None
    header, blob = lengths(head)
    text, data = stream.read(header), stream.read(blob)
    if len(text) < header or len(data) < blob:
        return None
    return unpack_header(text), data
