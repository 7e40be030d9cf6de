"""The double as a server: REST, streams, counting, and every fault it can be told to have."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.double import Fault, KallglotDouble, g711
from tests.double.test_validation import PROVIDER, ROUTING, audio, audio_input

pytestmark = pytest.mark.real_time

KEY = {"Authorization": "Bearer sk_test_double"}


@pytest.fixture
async def double() -> AsyncIterator[KallglotDouble]:
    async with KallglotDouble() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=KEY) as session:
        yield session


async def create(http: aiohttp.ClientSession, double: KallglotDouble) -> dict[str, Any]:
    body = ROUTING if double.contract == "routing" else PROVIDER
    async with http.post(double.url + "/sessions", json=body) as response:
        assert response.status == 201, await response.text()
        assert {"X-Request-ID", "X-RateLimit-Remaining", "X-API-Credits-Remaining"} <= set(response.headers)
        return dict(await response.json())


async def error(response: aiohttp.ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


async def test_life_of_a_session(double: KallglotDouble, http: aiohttp.ClientSession) -> None:
    made = await create(http, double)
    session = await double.wait_session()
    assert made["id"] == session.id
    assert made["provider"] == "sip"
    async with http.ws_connect(made["stream"]["url"]) as ws:
        assert (await ws.receive_json())["type"] == "session.ready"
        await ws.send_json(audio_input())
        await ws.send_json(audio_input(sequence=1, timestamp_ms=100))
        heard = await session.wait_audio("customer", 0.2)
        assert [(a.timestamp_ms, a.sequence) for a in heard.arrivals] == [(0, 0), (100, 1)]
        assert heard.arrivals[0].at <= heard.arrivals[1].at
        assert len(heard.pcm) == 1600
        await ws.send_json({"type": "ping"})
        assert await ws.receive_json() == {"type": "pong", "session_id": session.id}
        async with http.post(f"{double.url}/sessions/{session.id}/end", json={"reason": "agent_hangup"}) as response:
            assert (await response.json())["status"] == "ended"
        assert await ws.receive_json() == {"type": "session.ended", "session_id": session.id, "reason": "agent_hangup"}
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
    async with http.post(f"{double.url}/sessions/{session.id}/end") as again:
        assert again.status == 200
        assert "duration_seconds" in await again.json()
    assert (double.created, double.ended, double.open_sessions) == (1, 1, [])
    assert [reason for _, reason in session.ends] == ["agent_hangup", "completed"]
    assert session.end_reason == "agent_hangup"
    assert double.violations == []


async def test_the_end_on_the_stream_does_not_stop_the_bill(
    double: KallglotDouble, http: aiohttp.ClientSession
) -> None:
    made = await create(http, double)
    async with http.ws_connect(made["stream"]["url"]) as ws:
        await ws.receive_json()
        await ws.send_json({"type": "session.end"})
        assert (await ws.receive_json())["reason"] == "explicit_end"
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
    session = double.sessions[made["id"]]
    assert session.stream_ended
    assert double.open_sessions == [session]


async def test_breaches_are_answered_and_recorded(double: KallglotDouble, http: aiohttp.ClientSession) -> None:
    async with http.post(double.url + "/sessions", json=ROUTING | {"provider": {"type": "sip"}}) as response:
        assert await error(response) == (422, "invalid_provider")
    async with http.post(double.url + "/sessions", data=b"{") as response:
        assert await error(response) == (400, "invalid_request")
    async with http.get(double.url + "/sessions") as response:
        assert response.status == 404
    made = await create(http, double)
    async with http.ws_connect(made["stream"]["url"]) as ws:
        await ws.receive_json()
        await ws.send_json(audio())
        assert (await ws.receive_json())["code"] == "invalid_message"
        wrong = audio_input()
        wrong["audio"] = {"encoding": "pcm_16", "sample_rate_hz": 16000, "payload": "AAAA"}
        await ws.send_json(wrong)
        assert (await ws.receive_json())["code"] == "invalid_audio_format"
    assert len(double.violations) == 5


async def test_keys_tokens_and_unknown_sessions(double: KallglotDouble, http: aiohttp.ClientSession) -> None:
    for headers in ({"Authorization": "Bearer sk_test_other"}, {"Authorization": "sk_test_double"}):
        async with http.post(double.url + "/sessions", json=ROUTING, headers=headers) as response:
            assert await error(response) == (401, "invalid_api_key")
    async with aiohttp.ClientSession(headers={"X-API-Key": "sk_test_double"}) as other:
        made = await create(other, double)
    async with http.get(double.url + "/sessions/sess_none") as response:
        assert await error(response) == (404, "session_not_found")
    for url in (made["stream"]["url"] + "x", made["stream"]["url"].partition("?")[0]):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(url)
        assert refused.value.status == 401
    double.sessions[made["id"]].expires_at = 0
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await http.ws_connect(made["stream"]["url"])
    assert double.created == 1


async def test_idempotency(double: KallglotDouble, http: aiohttp.ClientSession) -> None:
    url, key = double.url + "/sessions", {"Idempotency-Key": "k1"}

    async def post(body: object) -> tuple[int, dict[str, Any]]:
        async with http.post(url, json=body, headers=key) as response:
            return response.status, await response.json()

    double.work_seconds = 0.1
    (first, body), (second, conflict) = await asyncio.gather(post(ROUTING), post(ROUTING))
    if first == 409:
        (first, body), (second, conflict) = (second, conflict), (first, body)
    assert (first, second, conflict["error"]["code"]) == (201, 409, "idempotency_conflict")
    double.work_seconds = 0
    assert await post(ROUTING) == (201, body)
    assert (await post(ROUTING | {"target_language": "fr"}))[1]["error"]["code"] == "idempotency_mismatch"
    assert double.created == 1
    double.fault("create", Fault(lose_answer=True))
    with pytest.raises(aiohttp.ClientError):
        async with http.post(url, json=ROUTING, headers={"Idempotency-Key": "k2"}):
            pass
    async with http.post(url, json=ROUTING, headers={"Idempotency-Key": "k2"}) as response:
        assert response.status == 201
    assert double.created == 2


async def test_faults_of_rest(double: KallglotDouble, http: aiohttp.ClientSession) -> None:
    double.refuse("create", 429, retry_after=2)
    double.refuse("create", 402)
    double.refuse("create", 500)
    double.fault("create", Fault(body=b"<html>"))
    async with http.post(double.url + "/sessions", json=ROUTING) as response:
        assert response.headers["Retry-After"] == "2"
        assert await error(response) == (429, "rate_limit_exceeded")
    for expected in ((402, "insufficient_api_credits"), (500, "internal_error")):
        async with http.post(double.url + "/sessions", json=ROUTING) as response:
            assert await error(response) == expected
    async with http.post(double.url + "/sessions", json=ROUTING) as response:
        assert await response.text() == "<html>"
    double.fault("create", Fault(hang=True), times=None)
    with pytest.raises(TimeoutError):
        await http.post(double.url + "/sessions", json=ROUTING, timeout=aiohttp.ClientTimeout(0.1))
    double.heal()
    await create(http, double)
    double.credits = 0
    async with http.post(double.url + "/sessions", json=ROUTING) as response:
        assert await error(response) == (402, "insufficient_api_credits")
    assert (double.created, double.violations) == (1, [])


async def test_faults_of_the_stream(double: KallglotDouble, http: aiohttp.ClientSession) -> None:
    made = await create(http, double)
    session, url = double.sessions[made["id"]], made["stream"]["url"]
    double.refuse("connect", 503)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(url)
    assert refused.value.status == 503
    async with http.ws_connect(url) as ws:
        await session.wait_connected()
        await session.close_stream(1011)
        await ws.receive_json()
        await ws.receive()
        assert ws.close_code == 1011
    async with http.ws_connect(url) as ws:
        await ws.receive_json()
        await session.wait_connected(2)
        session.reset_stream()
        assert (await ws.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    await session.wait_disconnected()
    async with http.ws_connect(url) as ws:
        await ws.receive_json()
        await session.wait_connected(3)
        await session.send_text("{broken")
        await session.send_binary(b"\x00")
        assert [(await ws.receive()).type for _ in "12"] == [aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY]
        session.black_hole()
        await ws.send_json(audio_input())
        with pytest.raises(TimeoutError):
            await ws.receive(timeout=0.1)
        await double.stop()
    assert session.audio == {}


@pytest.mark.parametrize(("contract", "rate"), [("routing", 8000), ("provider", 16000)])
async def test_what_it_says(contract: Any, rate: int, http: aiohttp.ClientSession) -> None:
    async with KallglotDouble(contract) as double:
        made = await create(http, double)
        session = double.sessions[made["id"]]
        bearer = {"Authorization": f"Bearer {made['stream']['token']}"}
        async with aiohttp.ClientSession(headers=bearer) as plain, plain.ws_connect(made["stream"]["url"]) as ws:
            if contract == "routing":
                await ws.receive_json()
            await session.wait_connected()
            pcm = np.arange(0, rate // 4 * 8, 8).astype(np.int16)[: rate // 4]
            sent = await session.speak("customer", pcm, chunk_ms=100)
            assert 0.19 <= sent[2] - sent[0] < 1
            parts = [json.loads((await ws.receive()).data) for _ in range(3)]
            if contract == "routing":
                assert [part["sequence"] for part in parts] == [1, 2, 3]
                got = b"".join(base64.b64decode(part["audio"]["payload"]) for part in parts)
                assert got == g711.ulaw_encode(pcm)
            else:
                got = b"".join(base64.b64decode(part["data"]) for part in parts)
                assert np.array_equal(np.frombuffer(got, "<i2"), pcm)
            assert {part["speaker"] for part in parts} == {"customer"}
            segment = await session.transcribe("customer", "de", "Hallo", translation=("en", "Hello"))
            turn = await ws.receive_json()
            if contract == "routing":
                assert turn["translation"] == {"language": "en", "text": "Hello"}
            else:
                assert (turn["id"], turn["is_final"]) == (segment, True)
                assert (await ws.receive_json())["text"] == "Hello"
            await session.error("engine_failed", "x")
            assert (await ws.receive_json())["code"] == "engine_failed"
            await session.ended_by_server()
        async with http.get(f"{double.url}/sessions/{session.id}/transcript") as response:
            shown = await response.json()
            assert (shown["status"], shown["turns"][0]["text"]) == ("completed", "Hallo")
        assert (double.ended, double.violations) == (1, [])


async def test_it_comes_back_on_its_port_with_its_sessions(double: KallglotDouble, http: aiohttp.ClientSession) -> None:
    made, port = await create(http, double), double.port
    await double.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get(f"{double.url}/sessions/{made['id']}")
    await double.start()
    assert double.port == port
    async with http.get(f"{double.url}/sessions/{made['id']}") as response:
        assert (await response.json())["status"] == "created"


async def test_waiting_says_what_did_not_come(double: KallglotDouble) -> None:
    with pytest.raises(AssertionError, match="expected session 1 within 0"):
        await double.wait_session(timeout=0.01)
