"""What goes up on the stream of a session."""

from __future__ import annotations

import asyncio
import itertools
import socket as sockets
from functools import partial
from typing import Any

import orjson
import pytest
import uvloop
from aiohttp import web

from kallglot_ari.calls.interfaces import StreamEnd, StreamReady
from kallglot_ari.metrics import Metrics
from tests.kallglot.servers import READY, Heard, chunk, gone, noting, opened, value
from tests.turns import calls_of

pytestmark = pytest.mark.real_time

TWO_CHANNELS = {"contract": "provider", "provider_speakers": "channels", "stream_encoding": "mulaw"}


async def listening(ws: web.WebSocketResponse, request: web.Request) -> None:
    """A server of the provider contract: it says nothing."""
    await gone(ws)


async def test_a_chunk_leaves_in_the_turn_in_which_it_comes() -> None:
    got: list[Any] = []
    metrics = Metrics()
    async with opened(noting(got), Heard(), metrics=metrics) as made:
        await asyncio.sleep(0.02)
        for number in range(3):
            made.send("customer", chunk(number * 100))
            assert value(metrics, "kallglot_uplink_latency_seconds_count") == number + 1
        await asyncio.sleep(0.02)
    assert [message["timestamp_ms"] for message in got if message["type"] == "audio.input"] == [0, 100, 200]


async def test_what_is_said_while_others_wait_comes_after_them() -> None:
    got: list[Any] = []
    async with opened(noting(got), Heard()) as made:
        made.send("customer", chunk(200))
        made.replay([("customer", chunk(0)), ("customer", chunk(100))])
        made.send("customer", chunk(300))
        await asyncio.sleep(0.02)
        made.send("customer", chunk(400))
        made.replay([("customer", chunk(500))])
        made.send("customer", chunk(600))
        await asyncio.sleep(0.02)
    audio = [message for message in got if message["type"] == "audio.input"]
    assert [message["timestamp_ms"] for message in audio] == [0, 100, 200, 300, 400, 500, 600]
    assert [message["sequence"] for message in audio] == list(range(7))


async def test_sending_to_a_socket_that_has_just_gone_is_harmless() -> None:
    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        await ws.send_str(READY)
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()

    heard = Heard()
    async with opened(converse, heard) as made:
        async with asyncio.timeout(3):
            while not any(isinstance(event, StreamEnd) for event in heard):
                made.send("customer", chunk())
                await asyncio.sleep(0)
        made.send("customer", chunk())
        made.replay([("customer", chunk())])
    assert [type(event) for event in heard] == [StreamReady, StreamEnd]


async def test_chunks_arrive_and_their_latency_is_observed() -> None:
    got: list[Any] = []
    metrics = Metrics()
    async with opened(noting(got), Heard(), metrics=metrics) as made:
        for number in range(10):
            made.send("customer", chunk(number * 100))
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
    assert [message["sequence"] for message in got if message["type"] == "audio.input"] == list(range(10))
    assert value(metrics, "kallglot_uplink_latency_seconds_count") == 10
    assert value(metrics, "kallglot_uplink_latency_seconds_bucket", le="0.005") == 10
    assert value(metrics, "kallglot_stream_dropped_chunks_total") == 0


async def test_two_channels_are_observed_when_they_have_gone_out() -> None:
    metrics = Metrics()
    async with opened(listening, Heard(), metrics=metrics, **TWO_CHANNELS) as made:
        made.send("customer", chunk())
        await asyncio.sleep(0.02)
        assert value(metrics, "kallglot_uplink_latency_seconds_count") == 0
        made.send("agent", chunk())
        await asyncio.sleep(0.02)
        assert value(metrics, "kallglot_uplink_latency_seconds_count") == 2


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_server_that_does_not_read_costs_old_chunks_and_nothing_else(loop: Any) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_server_that_does_not_read())


async def _server_that_does_not_read() -> None:
    read = asyncio.Event()
    got: list[Any] = []

    async def converse(ws: web.WebSocketResponse, request: web.Request) -> None:
        transport: Any = request.transport  # uvloop's is no asyncio.Transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 8192)
        await ws.send_str(READY)
        transport.pause_reading()
        await read.wait()
        transport.resume_reading()
        async for message in ws:
            got.append(orjson.loads(message.data))

    metrics = Metrics()
    async with opened(converse, Heard(), metrics=metrics) as made:
        most = 0
        for number in range(3000):
            most = max(most, calls_of(partial(made.send, "customer", chunk(number * 100))))
            if number % 10 == 0:
                await asyncio.sleep(0.001)
        dropped = value(metrics, "kallglot_stream_dropped_chunks_total")
        assert most < 200, "a chunk costs the same, however many lie there"
        assert dropped > 2000
        read.set()
        async with asyncio.timeout(5):
            while not got or got[-1].get("timestamp_ms") != 299_900:
                await asyncio.sleep(0.01)
    audio = [message for message in got if message["type"] == "audio.input"]
    assert [message["sequence"] for message in audio] == list(range(len(audio)))
    # What had left the queue before it stood still is all that can be stale: a second or two of kernel buffers.
    gap = next(
        b["timestamp_ms"] - a["timestamp_ms"]
        for a, b in itertools.pairwise(audio)
        if b["timestamp_ms"] - a["timestamp_ms"] > 100
    )
    assert gap > 200_000


async def test_chunks_of_a_format_that_changes_are_counted_and_survived() -> None:
    metrics = Metrics()
    async with opened(listening, Heard(), metrics=metrics, **TWO_CHANNELS) as made:
        made.send("customer", chunk())
        other = chunk()
        made.send("customer", type(other)(type(other.audio)("pcm_16", 16000, bytes(3200)), 100, 0.0))
        await asyncio.sleep(0.05)
    assert value(metrics, "kallglot_stream_messages_total", reason="unsendable") == 1
