"""A server that sends too much: others keep their turn, the log stays readable, memory is bounded."""

import asyncio
import time

import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from kallglot_ari.calls.interfaces import (
    StreamEnd,
    StreamProblem,
    StreamReady,
    StreamSpeech,
    StreamTranscript,
)
from kallglot_ari.kallglot import stream
from kallglot_ari.metrics import Metrics
from tests.kallglot.servers import (
    READY,
    Heard,
    client,
    gone,
    opened,
    said,
    session,
    value,
)
from tests.turns import MOST_CALLS, busiest_turn, flooding_streams

pytestmark = pytest.mark.real_time


async def test_a_flood_of_messages_leaves_others_a_turn() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        audio = {"encoding": "mulaw", "sample_rate_hz": 8000, "payload": "f" * 400}
        message = orjson.dumps({"type": "audio.output", "audio": audio}).decode()
        for _ in range(600):
            await ws.send_str(message)
        await gone(ws)

    heard = Heard()
    most = before = 0
    async with opened(converse, heard), asyncio.timeout(30):
        while len(heard) < 601:
            await asyncio.sleep(0)
            most, before = max(most, len(heard) - before), len(heard)
    assert len([event for event in heard if isinstance(event, StreamSpeech)]) == 600
    assert most <= 64, "messages in a turn"


def _frames(payload: bytes, count: int, first: int = 0x81) -> bytes:
    return (bytes([first, len(payload)]) + payload) * count


@pytest.mark.parametrize(
    "flood",
    [
        _frames(b"{}", 60_000), _frames(b"", 100_000), _frames(b"{}", 60_000, 0x82), _frames(b"", 100_000, 0x89),
        _frames(said(1).encode(), 4_000), b"\x81\x7f" + (1_500_019).to_bytes(8) + b'{"type":"x","a":[' + b"{}," * 500_000 + b"0]",
    ],
    ids=["tiny", "empty", "binary", "pings", "partials", "millions of values"],
)  # fmt: skip
async def test_whatever_a_server_sends_calls_have_their_turn(flood: bytes) -> None:
    heard = Heard()
    with flooding_streams(READY.encode(), flood) as url:
        async with client("http://127.0.0.1:1", failover_timeout_ms=3000) as api:
            stream, most = await asyncio.gather(api.open_stream(session(url), heard), busiest_turn(0.3))
            assert most.calls < MOST_CALLS
            assert stream.end is None
            await stream.close()
    assert heard[0] == StreamReady()


async def test_a_connection_that_is_lost_while_a_ping_is_answered_is_a_stream_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard = Heard()
    with flooding_streams(READY.encode(), _frames(b"x" * 100, 5_000, 0x89), patience=0.3) as url:
        async with client("http://127.0.0.1:1", failover_timeout_ms=3000) as api:
            await api.open_stream(session(url), heard)
            (end,) = await heard.until(1, StreamEnd, within=10)
    assert end.reason.startswith(("lost: ", "error: ", "closed by the server"))
    assert "task_failed" not in caplog.text


async def test_problems_without_end_are_told_up_to_a_point_and_without_secrets() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        for number in range(100):
            await ws.send_str(f'{{"type":"session.error","code":"c{number}","message":"of kst_1234567890"}}')
        await ws.send_str(said(1))
        await gone(ws)

    heard, metrics = Heard(), Metrics()
    with capture_logs() as logs:
        async with opened(converse, heard, metrics=metrics):
            await heard.until(1, StreamTranscript)
    problems = [event for event in heard if isinstance(event, StreamProblem)]
    assert [problem.code for problem in problems] == [f"c{number}" for number in range(20)]
    assert {problem.message for problem in problems} == {"of kst_[hidden]"}
    assert value(metrics, "kallglot_stream_messages_total", reason="problem") == 80
    assert [entry["event"] for entry in logs].count("stream_problems_no_longer_told") == 1


async def test_more_speech_than_anybody_speaks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_SPEECH_RATE", 100.0)
    monkeypatch.setattr(stream, "_SPEECH_BURST", 50.0)
    piece = (
        '{"type":"audio.output","speaker":"agent","audio":{"encoding":"mulaw","sample_rate_hz":8000,"payload":"/w=="}}'
    )

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        for number in range(1000):
            await ws.send_str(piece)
            if number % 200 == 199:
                await asyncio.sleep(0.05)
        await ws.send_str(said(1))
        await asyncio.sleep(0.3)
        await ws.send_str(piece)
        await ws.send_str(said(2))
        await gone(ws)

    heard, metrics = Heard(), Metrics()
    began = time.monotonic()
    async with opened(converse, heard, metrics=metrics):
        await heard.until(1, StreamTranscript)
        took = time.monotonic() - began
        told = sum(isinstance(event, StreamSpeech) for event in heard)
        await heard.until(2, StreamTranscript)
    assert 50 + 15 <= told <= 52 + 100 * took
    assert value(metrics, "kallglot_stream_messages_total", reason="too_many") == 1000 - told
    assert sum(isinstance(event, StreamSpeech) for event in heard) == told + 1, "it may speak again"
