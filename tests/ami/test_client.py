"""The manager's connection, as far as it can be seen without an Asterisk; the rest is in tests/asterisk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from kallglot_ari.ami.client import AmiClient
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import AmiSettings
from tests.turns import MOST_CALLS, MOST_OCTETS, busiest_turn


async def _nothing(_: object) -> None:
    return


@pytest.mark.parametrize("turns", range(12))
async def test_it_stops_at_whatever_moment_its_connection_is_refused(turns: int) -> None:
    """Up to Python 3.11 `wait_for` forgot the cancellation, and with it the whole service did not end."""
    client = AmiClient(AmiSettings(port=1), Metrics(), on_event=lambda _: None, on_connected=_nothing)
    await client.start()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await client.stop()


async def test_a_manager_that_is_not_there_is_named_with_its_settings() -> None:
    client = AmiClient(AmiSettings(port=1), Metrics(), on_event=lambda _: None, on_connected=_nothing)
    await client.start()
    async with asyncio.timeout(5):
        while client.problem == "not connected yet":
            await asyncio.sleep(0.01)
    await client.stop()
    assert client.problem.startswith("ami.host, ami.port: no connection to 127.0.0.1:1 (")
    assert client.problem.endswith("; is the manager enabled and bound there in manager.conf?")


@asynccontextmanager
async def manager(events: bytes) -> AsyncIterator[AmiSettings]:
    """A manager interface that takes anybody, has no channels, and then tells `events`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Asterisk Call Manager/5.0\r\n")
        while line := await reader.readline():
            name, _, value = line.strip().partition(b": ")
            if name == b"Action":
                action = value
            elif name.lower() == b"actionid":
                answer = b"Response: Success\r\nActionID: " + value + b"\r\nChallenge: 1\r\n\r\n"
                if action == b"CoreShowChannels":
                    answer += (
                        b"Event: CoreShowChannelsComplete\r\nActionID: " + value + b"\r\nEventList: Complete\r\n\r\n"
                    )
                writer.write(answer)
                if action == b"CoreShowChannels":
                    await asyncio.sleep(0.1)
                    writer.write(events)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield AmiSettings(port=port, username="kallglot", password=SecretStr("p"))
    finally:
        server.close()


NEW_STATE = b"Event: Newstate\r\nUniqueid: 1.1\r\nChannel: PJSIP/a-1\r\nLinkedid: 1.1\r\nChannelState: 6\r\n\r\n"


async def test_an_event_that_nobody_can_handle_does_not_end_the_connection() -> None:
    heard: list[object] = []
    both = asyncio.Event()

    def hear(event: object) -> None:
        heard.append(event)
        if len(heard) == 2:
            both.set()
        raise RuntimeError("a fault of ours")

    connected: list[object] = []

    async def on_connected(channels: object) -> None:
        connected.append(channels)

    with capture_logs() as logged:
        async with manager(NEW_STATE * 2) as settings:
            client = AmiClient(settings, Metrics(), on_event=hear, on_connected=on_connected)
            await client.start()
            async with asyncio.timeout(5):
                await both.wait()
            await client.stop()
    assert len(connected) == 1
    faults = [line for line in logged if line["event"] == "ami_event_fault"]
    assert [(line["kind"], line["exc_info"]) for line in faults] == [("ChannelUp", True)] * 2


@pytest.mark.real_time
async def test_very_many_events_leave_calls_their_turn() -> None:
    events, told = 20_000, 0
    over = asyncio.Event()

    def heard(_: object) -> None:
        nonlocal told
        told += 1
        if told == events:
            over.set()

    async with manager(NEW_STATE * events) as settings:
        client = AmiClient(settings, Metrics(), on_event=heard, on_connected=_nothing)
        await client.start()
        assert await client.wait_connected(5)
        most = await busiest_turn(0.5)
        assert most.calls < MOST_CALLS
        assert most.octets < MOST_OCTETS
        async with asyncio.timeout(20):
            await over.wait()
        await client.stop()
