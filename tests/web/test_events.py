"""Server-sent events: form, heartbeat, replay, and readers that leave or dawdle."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest

from kallglot_ari.web.events import encode
from tests.web.conftest import Make, Site

pytestmark = pytest.mark.real_time


async def block(response: aiohttp.ClientResponse) -> str:
    return (await asyncio.wait_for(response.content.readuntil(b"\n\n"), 5)).decode()


def data(text: str) -> dict[str, Any]:
    (line,) = [line for line in text.splitlines() if line.startswith("data: ")]
    found: dict[str, Any] = orjson.loads(line[6:])
    return found


async def test_events_as_they_happen(site: Site) -> None:
    async with site.http.get(f"{site.server.url}/api/v1/events") as response:
        assert response.content_type == "text/event-stream"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert await block(response) == f"retry: 2000\nid: {site.hub.last_id}\n\n"
        site.hub.publish("call.active", "c1", {"text": "zwei\nZeilen"})
        text = await block(response)
        assert text.startswith(f"id: {site.hub.last_id}\nevent: call.active\ndata: ")
        assert data(text)["data"] == {"text": "zwei\nZeilen"}
        assert data(text)["call_id"] == "c1"


async def test_only_one_call(site: Site) -> None:
    async with site.http.get(f"{site.server.url}/api/v1/events?call=c2") as response:
        await block(response)
        site.hub.publish("x", "c1", {})
        site.hub.publish("y", "c2", {})
        assert data(await block(response))["type"] == "y"


async def test_coming_back_nothing_is_missed(site: Site) -> None:
    for name in ("one", "two", "three"):
        site.hub.publish(name, "c1", {})
    seen = site.hub.last_id - 2
    ways: list[dict[str, Any]] = [{"headers": {"Last-Event-ID": str(seen)}}, {"params": {"last_event_id": str(seen)}}]
    for request in ways:
        async with site.http.get(f"{site.server.url}/api/v1/events", **request) as response:
            assert await block(response) == f"retry: 2000\nid: {seen}\n\n"
            assert [data(await block(response))["type"] for _ in range(2)] == ["two", "three"]


async def test_what_is_no_longer_kept_is_told(site: Site) -> None:
    start = site.hub.last_id
    for _ in range(1100):
        site.hub.publish("x", "c1", {})
    async with site.http.get(f"{site.server.url}/api/v1/events", headers={"Last-Event-ID": str(start)}) as response:
        await block(response)
        text = await block(response)
        assert data(text)["type"] == "events.lost"
        assert data(text)["data"] == {"count": 100}
        assert "id: " not in text


async def test_heartbeat(make_site: Make) -> None:
    site = await make_site(heartbeat=0.02)
    async with site.http.get(f"{site.server.url}/api/v1/events") as response:
        await block(response)
        assert await block(response) == ": heartbeat\n\n"
        site.hub.publish("x", "c1", {})
        while (text := await block(response)).startswith(":"):
            pass
        assert data(text)["type"] == "x"


@pytest.mark.parametrize("raw", ["x", "-1", "1.5", "9" * 19, "٣"])
async def test_an_id_that_is_none(site: Site, raw: str) -> None:
    status, body, _ = await site.ask("GET", "/api/v1/events", params={"last_event_id": raw})
    assert (status, body["error"]["param"]) == (400, "last_event_id")


async def test_a_reader_that_leaves_is_forgotten(make_site: Make) -> None:
    site = await make_site(heartbeat=0.01)
    async with site.http.get(f"{site.server.url}/api/v1/events") as response:
        await block(response)
        assert (len(site.server._streams), site.hub.readers) == (1, 1)
        response.close()
    for _ in range(300):
        if not len(site.server._streams):
            break
        await asyncio.sleep(0.01)
    assert (len(site.server._streams), site.hub.readers) == (0, 0)


async def test_too_many_readers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kallglot_ari.web.events.STREAMS_MAX", 1)
    async with site.http.get(f"{site.server.url}/api/v1/events") as response:
        await block(response)
        status, body, _ = await site.ask("GET", "/api/v1/events")
        assert (status, body["error"]["code"]) == (503, "too_many_streams")


async def test_a_reader_that_takes_nothing_loses_the_oldest_and_is_cut_off(
    make_site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kallglot_ari.web.events.WRITE_SECONDS", 0.2)
    site = await make_site()
    host, port = site.server.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1)
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while not site.hub.readers:
        await asyncio.sleep(0.01)
    for _ in range(400):
        site.hub.publish("big", "c1", {"text": "x" * 60_000})
    for _ in range(500):
        if not len(site.server._streams):
            break
        await asyncio.sleep(0.01)
    assert len(site.server._streams) == 0
    writer.close()


async def test_stopping_ends_every_stream_at_once(site: Site) -> None:
    async with site.http.get(f"{site.server.url}/api/v1/events") as response:
        await block(response)
        async with asyncio.timeout(2):
            await site.server.stop()
        assert await response.content.read() == b""


def test_a_type_cannot_break_the_form() -> None:
    text = encode({"id": 1, "type": "a\nid: 9\rb", "call_id": "", "at": "", "data": {"x": object()}}).decode()
    assert text.splitlines()[1] == "event: a id: 9 b"
