"""Reading a request: its body within bounds of size and time, as JSON or as text."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

from kallglot_ari.web.fields import shown
from kallglot_ari.web.problem import Problem

BODY_MAX = 64 * 1024
"""Largest body of a control or PBX request, in bytes."""
WEBHOOK_MAX = 1024 * 1024
"""Largest webhook, in bytes: one may hold a whole transcript."""
BODY_SECONDS = 10.0


async def body_bytes(request: web.Request, limit: int = BODY_MAX) -> bytes:
    """The whole body.

    :raises Problem: 413 when it is longer than `limit` bytes, 408 when it takes longer than `BODY_SECONDS`.
    """
    too_large = Problem(413, "too_large", f"the body is larger than {limit} bytes")
    if (request.content_length or 0) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while part := await request.content.readany():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Problem(408, "timeout", f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except web.PayloadAccessError:
        raise Problem(400, "bad_request", "the body ended early") from None
    except web.RequestPayloadError:
        raise Problem(400, "bad_request", "the body is not in the encoding its headers name") from None
    except (ValueError, OSError) as error:
        raise Problem(400, "bad_request", f"the body cannot be read: {type(error).__name__}") from None
    return b"".join(parts)


async def body_text(request: web.Request, content_types: tuple[str, ...]) -> str:
    """The body as UTF-8 text of one of `content_types`."""
    _expect(request, content_types)
    try:
        return (await body_bytes(request)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(400, "invalid_request", f"expected UTF-8, found byte {error.start} to be none") from None


async def body_json(request: web.Request, *, optional: bool = False) -> Any:
    """The body as JSON. A JSON content type is needed, which a form of another web site cannot send.

    :param optional: no body at all is an empty object.
    """
    if optional and not request.can_read_body:
        return {}
    _expect(request, ("application/json",))
    return parse_json(await body_bytes(request))


def parse_json(body: bytes) -> Any:
    """:raises Problem: 400 when it is not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, "invalid_json", f"expected JSON: {error}") from None


def _expect(request: web.Request, content_types: tuple[str, ...]) -> None:
    found = request.content_type
    if found not in content_types:
        named = found if "Content-Type" in request.headers else "none"
        raise Problem(
            415, "unsupported_media_type", f"expected the content type {' or '.join(content_types)}, found {named}"
        )


def query_int(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    """An integer of the query between `low` and `high`."""
    raw = request.query.get(name)
    if raw is None:
        return default
    if not (raw.isascii() and raw.isdigit()) or len(raw) > 9 or not low <= int(raw) <= high:
        raise Problem(
            400,
            "invalid_request",
            f"{name}: expected a number between {low} and {high}, found {shown(raw)}",
            param=name,
        )
    return int(raw)


def query_bool(request: web.Request, name: str) -> bool | None:
    """``true`` or ``false`` of the query; None when it is not there."""
    raw = request.query.get(name)
    if raw is None:
        return None
    if raw not in ("true", "false"):
        raise Problem(400, "invalid_request", f"{name}: expected true or false, found {shown(raw)}", param=name)
    return raw == "true"
