from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from kallglot_ari.clock import ManualClock
from kallglot_ari.errors import ListenError
from kallglot_ari.sandbox.echo import Echo
from kallglot_ari.sandbox.run import serve
from kallglot_ari.sandbox.server import Sandbox

ROUTED: dict[str, Any] = {
    "mode": "bidirectional_translation",
    "source_language": "de",
    "target_language": "en",
    "routing": {"type": "sip", "sip": {"from_uri": "sip:1001@pbx.example", "headers": {}}, "direction": "inbound"},
    "metadata": {"a": "b"},
}
OLDER: dict[str, Any] = {"mode": "bidirectional_translation", "provider": {"type": "sip", "transport": "tls"}}


@dataclass
class Reply:
    status: int
    headers: Any
    body: dict[str, Any]

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


class Caller:
    """A plain HTTP client of a sandbox."""

    def __init__(self, sandbox: Sandbox, http: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.http = http

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        given = {"Authorization": f"Bearer {self.sandbox.api_key}"} | dict(headers or {})
        given = {name: value for name, value in given.items() if value}
        async with self.http.request(method, self.sandbox.url + path, json=body, data=raw, headers=given) as response:
            return Reply(response.status, response.headers, await response.json())

    async def create(self, body: Mapping[str, Any] = ROUTED, **headers: str) -> Reply:
        """`headers` by keyword, with ``_`` for ``-``; an empty one is left out."""
        return await self("POST", "/sessions", body, headers={k.replace("_", "-"): v for k, v in headers.items()})


@contextlib.asynccontextmanager
async def sandboxed(**options: Any) -> AsyncIterator[Caller]:
    sandbox = Sandbox(Echo(), **options)
    await sandbox.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Caller(sandbox, http)
    finally:
        await sandbox.stop()


async def test_a_session_of_the_current_contract() -> None:
    async with sandboxed() as call:
        reply = await call.create()
    assert reply.status == 201
    body = reply.body
    assert (body["object"], body["status"], body["mode"], body["provider"]) == (
        "session",
        "created",
        ROUTED["mode"],
        "sip",
    )
    assert body["id"].startswith("sess_")
    assert body["metadata"] == {"a": "b"}
    assert body["stream"]["token"].startswith("kst_")
    base = call.sandbox.url.replace("http://", "ws://")
    assert body["stream"]["url"] == f"{base}/sessions/{body['id']}/connect?token={body['stream']['token']}"


async def test_a_session_of_the_older_contract() -> None:
    async with sandboxed() as call:
        body = (await call.create(OLDER)).body
    assert body["provider"] == {"type": "sip", "status": "pending"}
    assert "token=" not in body["stream"]["url"]


async def test_get_shows_the_session_without_its_token() -> None:
    async with sandboxed() as call:
        made = (await call.create()).body
        shown = await call("GET", f"/sessions/{made['id']}")
    assert shown.status == 200
    assert shown.body["id"] == made["id"]
    assert "stream" not in shown.body


async def test_ending_is_idempotent_and_keeps_the_first_reason() -> None:
    clock = ManualClock()
    async with sandboxed(clock=clock) as call:
        made = (await call.create()).body
        clock.advance(65)
        first = await call("POST", f"/sessions/{made['id']}/end", {"reason": "agent_hangup"})
        clock.advance(100)
        second = await call("POST", f"/sessions/{made['id']}/end", {"reason": "error"})
        third = await call("POST", f"/sessions/{made['id']}/end")
    assert first.status == second.status == third.status == 200
    assert first.body == second.body == third.body
    assert (first.body["status"], first.body["end_reason"], first.body["duration_seconds"]) == (
        "ended",
        "agent_hangup",
        65,
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/sessions/sess_none", None, 404, "session_not_found"),
        ("POST", "/sessions/sess_none/end", None, 404, "session_not_found"),
        ("GET", "/sessions/sess_none/transcript", None, 404, "session_not_found"),
        ("GET", "/sessions/sess_none/recordings", None, 404, "session_not_found"),
        ("POST", "/sessions/sess_none/dial", {"to": "x"}, 404, "session_not_found"),
        ("GET", "/sessions/sess_none/connect", None, 404, "session_not_found"),
        ("GET", "/sessions", None, 405, "method_not_allowed"),
        ("GET", "/nothing", None, 404, "not_found"),
        ("POST", "/sessions", {"mode": "x"}, 422, "invalid_mode"),
        ("POST", "/sessions", ROUTED | {"provider": {"type": "sip"}}, 422, "invalid_provider"),
        ("POST", "/sessions", [], 400, "invalid_json"),
    ],
)
async def test_errors_have_the_apis_shape(method: str, path: str, body: Any, status: int, code: str) -> None:
    async with sandboxed() as call:
        reply = await call(method, path, body)
    assert (reply.status, reply.code) == (status, code)
    error = reply.body["error"]
    assert error["type"]
    assert error["message"]
    assert error["request_id"] == reply.headers["X-Request-ID"]


@pytest.mark.parametrize("raw", [b"{", b"\xff", b'"x"'])
async def test_a_body_that_is_no_json_object(raw: bytes) -> None:
    async with sandboxed() as call:
        assert (await call("POST", "/sessions", raw=raw)).code == "invalid_json"


async def test_a_huge_body_is_refused() -> None:
    async with sandboxed() as call:
        assert (await call("POST", "/sessions", raw=b" " * 300_000)).status == 413


async def test_bad_reasons_and_dials() -> None:
    async with sandboxed() as call:
        path = f"/sessions/{(await call.create()).body['id']}"
        assert (await call("POST", f"{path}/end", {"reason": "bored"})).body["error"]["param"] == "reason"
        assert (await call("POST", f"{path}/dial", {})).code == "missing_parameter"
        dialled = await call("POST", f"{path}/dial", {"to": "sip:x@y"})
        assert (dialled.status, dialled.code) == (502, "sip_dial_failed")


async def test_keys() -> None:
    async with sandboxed(api_key="sk_test_mine") as call:
        assert call.sandbox.api_key == "sk_test_mine"
        assert (await call.create(Authorization="", X_API_Key="sk_test_mine")).status == 201
        wrong = ("", ""), ("Bearer sk_test_x", ""), ("Basic sk_test_mine", ""), ("", "é")
        for authorization, key in wrong:
            reply = await call.create(Authorization=authorization, X_API_Key=key)
            assert (reply.status, reply.code) == (401, "invalid_api_key")
            assert "sk_test_mine" not in str(reply.body)


async def test_every_answer_carries_the_headers() -> None:
    async with sandboxed(credits=10, rate_limit=100) as call:
        good, bad = await call.create(), await call("GET", "/sessions/none")
    assert good.headers["X-API-Credits-Remaining"] == bad.headers["X-API-Credits-Remaining"] == "9"
    assert good.headers["X-API-Credits-Used"] == "1"
    assert (good.headers["X-RateLimit-Limit"], good.headers["X-RateLimit-Remaining"]) == ("100", "99")
    assert bad.headers["X-RateLimit-Remaining"] == "98"
    assert int(bad.headers["X-RateLimit-Reset"]) > 1_700_000_000
    assert good.headers["X-Request-ID"] != bad.headers["X-Request-ID"]


async def test_without_credits_a_session_is_402() -> None:
    async with sandboxed(credits=1) as call:
        assert (await call.create()).status == 201
        assert ((await call.create()).status, (await call.create()).code) == (402, "insufficient_api_credits")
        assert len(call.sandbox.sessions.live()) == 1


async def test_the_rate_limit_says_when_to_come_back() -> None:
    clock = ManualClock()
    async with sandboxed(rate_limit=2, clock=clock) as call:
        assert [(await call("GET", "/sessions/none")).status for _ in range(3)] == [404, 404, 429]
        clock.advance(40)
        reply = await call("GET", "/sessions/none")
        assert (reply.status, reply.headers["Retry-After"], reply.body["error"]["retry_after"]) == (429, "20", 20)
        clock.advance(20)
        assert (await call("GET", "/sessions/none")).status == 404


async def test_the_same_key_makes_one_session() -> None:
    async with sandboxed(credits=5) as call:
        first, second = await call.create(Idempotency_Key="k"), await call.create(Idempotency_Key="k")
        assert (first.status, second.status) == (201, 200)
        assert first.body == second.body
        assert second.headers["X-API-Credits-Remaining"] == "4"
        reply = await call.create(OLDER, Idempotency_Key="k")
        assert (reply.status, reply.code) == (400, "idempotency_mismatch")
        assert call.sandbox.sessions.created == 1
        assert (await call.create(Idempotency_Key="x" * 256)).code == "invalid_idempotency_key"


async def test_a_refused_request_does_not_use_up_its_key() -> None:
    async with sandboxed() as call:
        assert (await call.create({"mode": "x"}, Idempotency_Key="k")).status == 422
        assert (await call.create(Idempotency_Key="k")).status == 201


async def test_two_at_once_with_one_key_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sandboxed() as call:
        made = (await call.create()).body
        going, go = asyncio.Event(), asyncio.Event()

        async def slow(record: Any, reason: str) -> None:
            going.set()
            await go.wait()

        monkeypatch.setattr(call.sandbox, "end", slow)
        first = asyncio.gather(call("POST", f"/sessions/{made['id']}/end", headers={"Idempotency-Key": "k"}))
        await going.wait()
        reply = await call("POST", f"/sessions/{made['id']}/end", headers={"Idempotency-Key": "k"})
        assert (reply.status, reply.code, reply.headers["Retry-After"]) == (409, "idempotency_conflict", "1")
        go.set()
        await first
        monkeypatch.undo()


async def test_half_an_hour_of_nothing_ends_a_session() -> None:
    clock = ManualClock()
    async with sandboxed(clock=clock) as call:
        quiet, asked = (await call.create()).body["id"], (await call.create()).body["id"]
        clock.advance(1700)
        await call("GET", f"/sessions/{asked}")
        clock.advance(101)
        await call.sandbox.sweep()
        assert (await call("GET", f"/sessions/{quiet}")).body["end_reason"] == "timeout"
        assert (await call("GET", f"/sessions/{asked}")).body["status"] == "created"


async def test_recordings_are_listed_after_the_end_and_honest() -> None:
    async with sandboxed() as call:
        made = (await call.create(ROUTED | {"recording": {"enabled": True, "channels": "dual"}})).body
        path = f"/sessions/{made['id']}"
        assert (await call("GET", f"{path}/recordings")).body["data"] == []
        await call("POST", f"{path}/end")
        (listed,) = (await call("GET", f"{path}/recordings")).body["data"]
        assert (listed["format"], listed["status"]) == ("wav", "failed")


async def test_the_address_is_given_and_one_that_is_taken_is_told() -> None:
    async with sandboxed() as call:
        port = int(call.sandbox.url.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises(ListenError, match=f"sandbox: cannot listen on 127.0.0.1:{port}"):
            await Sandbox(Echo(), port=port).start()


async def test_latency_is_added() -> None:
    async with sandboxed(latency=0.1) as call:
        started = asyncio.get_running_loop().time()
        await call.create()
        assert asyncio.get_running_loop().time() - started >= 0.1


async def test_running_it_tells_url_and_key_and_stops_when_cancelled() -> None:
    lines: list[str] = []
    told = asyncio.Event()

    def announce(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            told.set()

    async with asyncio.timeout(5):
        running = asyncio.gather(serve("127.0.0.1", 0, Echo(), "sk_test_k", announce=announce))
        await told.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert lines[0].startswith("Kallglot sandbox: http://127.0.0.1:")
    assert lines[1].endswith("sk_test_k")
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("sandbox")] == []
