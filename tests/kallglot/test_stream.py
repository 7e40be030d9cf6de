from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from kallglot_ari.calls.interfaces import (
    StreamEnd,
    StreamEvent,
    StreamProblem,
    StreamReady,
    StreamTranscript,
)
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import StreamClosed, StreamRefused
from kallglot_ari.kallglot import socket, stream
from kallglot_ari.kallglot.socket import stream_request
from kallglot_ari.metrics import Metrics
from tests.kallglot.servers import (
    READY,
    Heard,
    chunk,
    client,
    gone,
    ok,
    opened,
    problem,
    said,
    serving,
    session,
    talking,
    value,
)

pytestmark = pytest.mark.real_time


def partial_of_provider(number: int) -> str:
    return orjson.dumps({"type": "transcript", "id": "t", "language": "de", "text": str(number)}).decode()


# --- where the token goes ---


def test_the_token_goes_where_the_contract_has_it() -> None:
    assert stream_request(session("wss://h/v1/c"), "routing") == ("wss://h/v1/c?token=kst_token", {})
    assert stream_request(session("wss://h/v1/c?a=1"), "routing") == ("wss://h/v1/c?a=1&token=kst_token", {})
    assert stream_request(session("wss://h/c?token=kst_x"), "routing") == ("wss://h/c?token=kst_x", {})
    assert stream_request(session("wss://h/c", token="a&b"), "routing") == ("wss://h/c?token=a%26b", {})
    assert stream_request(session("wss://h/c"), "provider") == ("wss://h/c", {"Authorization": "Bearer kst_token"})
    assert stream_request(session("wss://h/c", token=""), "provider") == ("wss://h/c", {})


@pytest.mark.parametrize("url", ["", "https://h/c", "wss://", "h/c", "wss://[::1", "ws://h:99999/c", "ftp://h/c"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StreamRefused, match="expected a ws:// or wss:// URL"):
        stream_request(session(url), "routing")


@pytest.mark.parametrize("url", ["ws://api.kallglot.com/c", "ws://10.0.0.1/c", "ws://127.evil.example/c"])
def test_a_token_never_goes_over_a_network_in_clear(url: str) -> None:
    with pytest.raises(StreamRefused, match="expected wss:// for anything but loopback"):
        stream_request(session(url), "routing")


async def test_what_the_server_sees_of_the_handshake() -> None:
    seen: list[web.Request] = []

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        seen.append(request)
        await ws.send_str(READY)
        await gone(ws)

    async with talking(converse) as url:
        for contract in ("routing", "provider"):
            async with client("http://127.0.0.1:1", contract=contract) as api:
                await (await api.open_stream(session(url), Heard())).close()
    assert (seen[0].query.get("token"), seen[0].headers.get("Authorization")) == ("kst_token", None)
    assert (seen[1].query.get("token"), seen[1].headers.get("Authorization")) == (None, "Bearer kst_token")


# --- opening ---


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410])
async def test_a_server_that_does_not_want_the_stream_is_asked_once(status: int) -> None:
    async with serving(problem(status, "invalid_stream_token")) as server, client(server.url) as api:
        with pytest.raises(StreamRefused, match=f"expected 101, found {status}"):
            await api.open_stream(session(server.url.replace("http", "ws")), Heard())
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_in_trouble_is_asked_again(status: int) -> None:
    async with serving(problem(status, "")) as server, client(server.url) as api:
        with pytest.raises(StreamClosed, match=str(status)):
            await api.open_stream(session(server.url.replace("http", "ws")), Heard())
    assert len(server.seen) == 3


@pytest.mark.parametrize("contract", ["routing", "provider"])
async def test_a_redirect_is_not_followed(contract: str) -> None:
    """It would be to a host that nobody chose, in clear perhaps."""
    async with serving(ok({})) as elsewhere:
        location = elsewhere.url.replace("127.0.0.1", "localhost")
        moved = web.Response(status=302, headers={"Location": location})
        async with serving(moved) as server, client("http://127.0.0.1:1", contract=contract) as api:
            with pytest.raises(StreamRefused, match="expected 101, found 302 redirects are not followed"):
                await api.open_stream(session(server.url.replace("http", "ws")), Heard())
    assert len(server.seen) == 1
    assert elsewhere.seen == []


@pytest.mark.parametrize(
    "url", ["wss://a..b/", f"wss://{'a' * 300}/", "wss://user:word@127.0.0.1:1/", "wss://127.0.0.1:1/\r\nX: y"]
)
async def test_a_url_that_nobody_can_ask_is_no_fault_of_ours(url: str) -> None:
    async with client("http://127.0.0.1:1", contract="provider") as api:
        with pytest.raises((StreamRefused, StreamClosed), match="stream of sess_1: "):
            await api.open_stream(session(url, "a\r\nb"), Heard())


async def test_nobody_there() -> None:
    async with client("http://127.0.0.1:1") as api:
        with pytest.raises(StreamClosed, match="no connection"):
            await api.open_stream(session("ws://127.0.0.1:1/c"), Heard())


@pytest.mark.parametrize(
    ("message", "error", "why"),
    [
        (
            '{"type":"session.error","code":"session_not_found","message":"gone"}',
            StreamRefused,
            "session_not_found: gone",
        ),
        ('{"type":"session.ended","reason":"timeout"}', StreamRefused, "session.ended: timeout"),
        (None, StreamClosed, "it closed at once"),
        ("nonsense", StreamClosed, "expected session.ready within"),
    ],
)
async def test_what_may_come_instead_of_ready(message: str | None, error: type[Exception], why: str) -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        if message is not None:
            await ws.send_str(message)
            await gone(ws)

    heard = Heard()
    async with talking(converse) as url, client("http://127.0.0.1:1", failover_timeout_ms=150) as api:
        with pytest.raises(error, match=why):
            await api.open_stream(session(url), heard)
    assert heard == []
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("kallglot")] == []


async def test_cancelled_while_waiting_for_ready_nothing_is_left() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await gone(ws)

    async with talking(converse) as url, client("http://127.0.0.1:1", failover_timeout_ms=5000) as api:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await api.open_stream(session(url), Heard())
        assert [task for task in asyncio.all_tasks() if "kallglot.stream" in task.get_name()] == []


# --- server → client ---


async def test_events_come_in_order_and_the_end_once_and_last() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        for number in range(200):
            await ws.send_str(said(number))
        await ws.send_str('{"type":"session.error","code":"c","message":"m"}')
        await ws.send_str('{"type":"session.ended","reason":"timeout"}')
        await ws.send_str(said(999))
        await gone(ws)

    heard = Heard()
    async with opened(converse, heard):
        await heard.until(1, StreamEnd)
        await asyncio.sleep(0.05)
    assert heard[0] == StreamReady()
    assert [event.turn.text for event in heard if isinstance(event, StreamTranscript)] == [str(n) for n in range(200)]
    assert heard[-2:] == [StreamProblem("c", "m"), StreamEnd(True, "timeout")]


@pytest.mark.parametrize("word", [True, False])
async def test_a_stream_that_ends_as_it_becomes_ready_says_so(word: bool) -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        last = b'{"type":"session.ended","reason":"timeout"}' if word else b"\x03\xf3"
        frame = bytes([0x81 if word else 0x88, len(last)]) + last
        assert request.transport is not None
        request.transport.write(bytes([0x81, len(READY)]) + READY.encode() + frame)
        await gone(ws)

    heard = Heard()
    async with opened(converse, heard) as made:
        assert made.end == (StreamEnd(True, "timeout") if word else StreamEnd(False, "closed by the server with 1011"))
    assert heard == [StreamReady(), made.end]


async def test_unknown_and_malformed_messages_are_counted_and_survived() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        await ws.send_str('{"type":"new.thing"}')
        await ws.send_str("{")
        await ws.send_bytes(b"\xff\x00")
        await ws.send_str(said(1))
        await gone(ws)

    heard, metrics = Heard(), Metrics()
    async with opened(converse, heard, metrics=metrics):
        await heard.until(1, StreamTranscript)
    assert value(metrics, "kallglot_stream_messages_total", reason="unknown") == 1
    assert value(metrics, "kallglot_stream_messages_total", reason="malformed") == 2


async def test_a_sink_that_fails_does_not_end_the_stream() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        await ws.send_str(said(1))
        await ws.send_str(said(2))
        await gone(ws)

    heard, metrics = Heard(), Metrics()

    def sink(event: StreamEvent) -> None:
        heard(event)
        if isinstance(event, StreamTranscript) and event.turn.text == "1":
            raise RuntimeError("the call's own fault")

    async with opened(converse, sink, metrics=metrics):
        await heard.until(2, StreamTranscript)
    assert value(metrics, "kallglot_stream_messages_total", reason="sink_failed") == 1
    assert isinstance(heard[-1], StreamEnd)


@pytest.mark.parametrize("how", ["close", "abort", "huge"])
async def test_a_stream_that_dies_is_told_once(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        if how == "close":
            await ws.close(code=1011)
        elif how == "abort":
            assert request.transport is not None
            request.transport.abort()
        else:
            await ws.send_str("x" * (socket.MESSAGE_LIMIT + 1))
            await gone(ws)

    heard = Heard()
    async with opened(converse, heard):
        await heard.until(1, StreamEnd)
    assert [type(event) for event in heard] == [StreamReady, StreamEnd]
    assert heard[-1].ended is False  # type: ignore[union-attr]


@pytest.mark.parametrize("contract", ["routing", "provider"])
async def test_messages_of_every_kind_keep_their_order(contract: str) -> None:
    message = said if contract == "routing" else partial_of_provider

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        for number in range(0, 120, 4):
            await ws.send_str(message(number))
            await ws.send_bytes(message(number + 1).encode())
            await ws.ping()
            await ws.send_str(message(number + 2))
            await ws.send_str(message(number + 3))
            await asyncio.sleep(0.002 * (number % 3))
        await gone(ws)

    heard = Heard()
    async with opened(converse, heard, contract=contract):
        await heard.until(120, StreamTranscript)
    assert [event.turn.text for event in heard if isinstance(event, StreamTranscript)] == [str(n) for n in range(120)]


async def test_a_text_that_is_no_utf8_ends_the_stream() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        await ws.send_str(said(1))
        await asyncio.sleep(0.02)
        await ws.send_frame(b"\xff\xfe", aiohttp.WSMsgType.TEXT)
        await ws.send_str(said(2))
        await gone(ws)

    heard = Heard()
    async with opened(converse, heard):
        await heard.until(1, StreamEnd)
    assert [type(event) for event in heard] == [StreamReady, StreamTranscript, StreamEnd]


async def test_nothing_is_told_after_an_end_that_the_sink_itself_brings_about() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        await ws.send_str(said(1))
        await ws.send_str('{"type":"session.ended","reason":"timeout"}')
        for number in range(2, 30):
            await ws.send_str(said(number))
        await gone(ws)

    heard, closing = Heard(), []

    def sink(event: StreamEvent) -> None:
        heard(event)
        if isinstance(event, StreamEnd):
            closing.append(asyncio.ensure_future(made.close()))  # noqa: TID251

    async with opened(converse, sink) as made:
        await heard.until(1, StreamEnd)
        await asyncio.gather(*closing)
    assert [type(event) for event in heard] == [StreamReady, StreamTranscript, StreamEnd]


# --- keeping alive ---


async def test_pings_are_sent_and_their_answers_keep_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_EVERY", 0.05)
    pings = 0

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        nonlocal pings
        await ws.send_str(READY)
        async for message in ws:
            assert message.data == '{"type":"ping"}'
            pings += 1
            await ws.send_str('{"type":"pong","session_id":"sess_1"}')

    heard = Heard()
    async with opened(converse, heard), asyncio.timeout(10):
        while pings < 4:
            await asyncio.sleep(0.01)
        assert heard == [StreamReady()]


async def test_a_silent_server_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_EVERY", 0.05)

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        await gone(ws)

    heard = Heard()
    async with opened(converse, heard):
        (end,) = await heard.until(1, StreamEnd, within=1)
    assert end == StreamEnd(False, "no answer to pings")


async def test_a_silent_server_of_the_provider_contract_is_noticed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "PING_EVERY", 0.05)

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.pause_reading()
        await asyncio.sleep(1)

    heard = Heard()
    async with opened(converse, heard, contract="provider"):
        (end,) = await heard.until(1, StreamEnd, within=1)
    assert not end.ended


# --- closing ---


async def test_closing_says_the_end_once_and_twice_is_harmless() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        await gone(ws)

    heard = Heard()
    async with opened(converse, heard) as made:
        await asyncio.gather(made.close(), made.close())
        await made.close(end=True)
        made.send("customer", chunk())
    assert heard == [StreamReady(), StreamEnd(False, "closed")]
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("kallglot")] == []


@pytest.mark.parametrize("contract", ["routing", "provider"])
async def test_ending_on_the_stream(contract: str) -> None:
    got: list[Any] = []

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        if contract == "routing":
            await ws.send_str(READY)
        got.append(orjson.loads((await ws.receive()).data))
        if contract == "routing":
            await ws.send_str('{"type":"session.ended","session_id":"sess_1","reason":"explicit_end"}')
        await ws.close()

    heard = Heard()
    async with opened(converse, heard, contract=contract) as made:
        await made.close(end=True)
    assert heard == [StreamReady(), StreamEnd(True, "explicit_end")]
    assert got == [{"type": "session.end" if contract == "routing" else "end"}]


async def test_a_server_that_does_not_answer_the_end_costs_two_seconds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CLOSE_WITHIN", 0.2)

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.pause_reading()
        await asyncio.sleep(3)

    heard = Heard()
    async with opened(converse, heard) as made:
        started = SystemClock().now()
        await made.close(end=True)
        assert SystemClock().now() - started < 1.0
    assert heard[-1] == StreamEnd(False, "closed")
