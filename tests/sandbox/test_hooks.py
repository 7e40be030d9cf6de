from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kallglot_ari.calls.model import SessionRequest, StreamAudio, UplinkChunk
from kallglot_ari.clock import SystemClock
from kallglot_ari.kallglot import webhooks
from kallglot_ari.sandbox import hooks
from kallglot_ari.sandbox.hooks import Hooks
from tests.kallglot.servers import Heard, client, serving
from tests.sandbox.test_server import sandboxed

pytestmark = pytest.mark.real_time

SECRET = "whsec_test"


class Inbox:
    """A webhook endpoint that answers with `statuses`, the last again and again, and checks every signature."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.events: list[webhooks.WebhookEvent] = []
        self.headers: list[dict[str, str]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.events.append(webhooks.receive(body, request.headers, SECRET, now=SystemClock().wall().timestamp()))
        self.headers.append(dict(request.headers))
        return web.Response(status=self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.events) < count:
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def sending(url: str, schedule: tuple[float, ...] = (0.01, 0.01)) -> AsyncIterator[Hooks]:
    made = Hooks(url, SECRET, SystemClock(), schedule=schedule)
    try:
        yield made
    finally:
        await made.close()


async def test_an_event_is_signed_and_has_the_apis_shape() -> None:
    inbox = Inbox(204)
    async with serving(inbox) as server, sending(server.url) as made:
        made.post("session.created", {"id": "sess_1"})
        await inbox.until(1)
    (event,), (headers,) = inbox.events, inbox.headers
    assert (event.type, event.session_id) == ("session.created", "sess_1")
    assert event.id.startswith("evt_")
    assert event.created_at is not None
    assert (headers["Kallglot-Webhook-Id"], headers["Kallglot-Retry-Count"]) == (event.id, "0")
    assert headers["Kallglot-Original-Timestamp"].isdigit()


async def test_it_is_sent_again_under_the_same_id_until_it_is_taken() -> None:
    inbox = Inbox(500, 302, 200)
    async with serving(inbox) as server, sending(server.url) as made:
        made.post("session.ended", {})
        await inbox.until(3)
        await asyncio.sleep(0.05)
        assert made.counts == {"delivered": 1}
    assert len({event.id for event in inbox.events}) == 1
    assert [headers["Kallglot-Retry-Count"] for headers in inbox.headers] == ["0", "1", "2"]


async def test_it_gives_up_in_the_end() -> None:
    async with sending("http://127.0.0.1:1/", (0.0,)) as made:
        made.post("session.ended", {})
        async with asyncio.timeout(5):
            while not made.counts:
                await asyncio.sleep(0.005)
        assert made.counts == {"given_up": 1}


async def test_the_schedule_is_eight_deliveries_over_about_41_hours() -> None:
    assert len(hooks.SCHEDULE) + 1 == 8
    assert sum(hooks.SCHEDULE) / 3600 == pytest.approx(41, abs=0.2)


async def test_what_is_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_UNDER_WAY", 2)
    async with sending("http://127.0.0.1:1/", (60.0,)) as made:
        for _ in range(5):
            made.post("session.ended", {})
        assert made.counts["dropped"] == 3


async def test_without_a_url_nothing_is_sent() -> None:
    async with sending("") as made:
        made.post("session.ended", {})
        assert len(made._tasks) == 0


async def test_the_events_of_a_session() -> None:
    inbox = Inbox(200)
    recording: dict[str, Any] = {"recording": True, "contract": "provider"}
    async with (
        serving(inbox) as server,
        sandboxed(webhook_url=server.url, webhook_secret=SECRET) as call,
        client(call.sandbox.url, api_key=call.sandbox.api_key, **recording) as api,
    ):
        made = await api.create_session(SessionRequest(trunk=True), idempotency_key="k")
        heard = Heard()
        stream = await api.open_stream(made, heard)
        stream.send("customer", UplinkChunk(StreamAudio("mulaw", 8000, b"\x10" * 800), 0, 0.0))
        await heard.until(2)
        await stream.close()
        await api.end_session(made.id, "completed", base_url=made.base_url)
        await inbox.until(8)
    assert {event.type for event in inbox.events} == {
        "session.created",
        "session.started",
        "session.provider.connected",
        "transcript.segment",
        "session.provider.disconnected",
        "session.ended",
        "transcript.ready",
        "recording.failed",
    }
    assert {event.session_id for event in inbox.events} == {made.id}


@pytest.mark.parametrize("given", [("--webhook-secret", SECRET), ()])
async def test_the_command_posts_webhooks_and_says_what_signs_them(
    given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(204)
    async with serving(inbox) as server, aiohttp.ClientSession() as http:
        command = (sys.executable, "-m", "kallglot_ari", "sandbox", "--engine", "echo", "--port", "0")
        process = await asyncio.create_subprocess_exec(
            *command, "--webhook-url", server.url, *given, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [(await process.stdout.readline()).decode().partition(":") for _ in range(3)]
        assert [name for name, _, _ in lines] == ["Kallglot sandbox", "API key", "Webhook secret"]
        url, key, secret = (value.strip() for _, _, value in lines)
        assert (secret == SECRET) is bool(given)
        monkeypatch.setitem(globals(), "SECRET", secret)
        asked = {"mode": "ai_agent"}
        async with http.post(f"{url}/sessions", json=asked, headers={"Authorization": f"Bearer {key}"}) as response:
            made = await response.json()
        await inbox.until(1)
        process.terminate()
        assert await process.wait() == 0
    first = inbox.events[0]
    assert (first.type, first.session_id) == ("session.created", made["id"])
