"""`/api/v1/events`: everything that happens, as server-sent events (HTML Living Standard §9.2).

Each event is ``id: N``, ``event: TYPE`` and ``data: {"id", "type", "call_id", "at", "data"}``. A reader that comes back with
`Last-Event-ID` gets what it missed, as far as it is kept.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

from kallglot_ari.calls.hub import Hub, Subscription
from kallglot_ari.web import fields
from kallglot_ari.web.problem import Problem

STREAMS_MAX = 200
"""Readers at once."""
HEARTBEAT_SECONDS = 15.0
"""A comment line that often keeps proxies from closing the stream, and finds readers that are gone."""
WRITE_SECONDS = 30.0
"""A reader that takes nothing for so long is disconnected."""


class EventStreams:
    """The open streams."""

    def __init__(self, hub: Hub, *, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._hub = hub
        self._heartbeat = heartbeat
        self._open: set[Subscription] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Query: `call` (only that call's events), `last_event_id` (for clients that cannot send the header)."""
        call_id = request.query.get("call")
        if call_id is not None:
            fields.identifier("call", call_id)
        after = _last_event_id(request)
        if len(self._open) >= STREAMS_MAX:
            raise Problem(
                503, "too_many_streams", f"{STREAMS_MAX} readers are connected already", headers={"Retry-After": "10"}
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        if request.method == "HEAD":
            return response
        reader = self._hub.subscribe(call_id=call_id, after=after)
        self._open.add(reader)
        try:
            await response.prepare(request)
            # The id of now: a reader that is cut off before the first event does not lose what comes meanwhile.
            first = f"retry: 2000\nid: {after if after is not None else self._hub.last_id}\n\n"
            await _write(response, first.encode())
            await self._forward(reader, response)
        except (ConnectionError, TimeoutError):
            pass  # the reader is gone, which is how a stream usually ends
        finally:
            self._open.discard(reader)
            self._hub.unsubscribe(reader)
        return response

    async def _forward(self, reader: Subscription, response: web.StreamResponse) -> None:
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    event = await anext(reader)
            except TimeoutError:
                await _write(response, b": heartbeat\n\n")
            except StopAsyncIteration:
                return
            else:
                await _write(response, encode(event))

    def close(self) -> None:
        """End every stream."""
        for reader in self._open:
            reader.close()


def encode(event: dict[str, Any]) -> bytes:
    """One event in the form of the standard; JSON holds no line break."""
    number = b"" if event["id"] is None else b"id: %d\n" % event["id"]
    kind = event["type"].replace("\n", " ").replace("\r", " ").encode()
    return b"%sevent: %s\ndata: %s\n\n" % (number, kind, orjson.dumps(event, default=str))


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(data)


def _last_event_id(request: web.Request) -> int | None:
    raw = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
    if not raw:
        return None
    if not (raw.isascii() and raw.isdigit()) or len(raw) > 18:
        raise Problem(
            400,
            "invalid_request",
            f"Last-Event-ID: expected the id of an event, found {fields.shown(raw)}",
            param="last_event_id",
        )
    return int(raw)
