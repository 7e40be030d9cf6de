"""Trunk mode when the API's first address dies and comes back: calls go to the next one meanwhile, and each ends where it began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kallglot_ari.clock import SystemClock
from kallglot_ari.kallglot.client import KallglotClient
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.trunk import TrunkMode
from kallglot_ari.sandbox.echo import Echo
from kallglot_ari.sandbox.server import Sandbox
from kallglot_ari.settings import AgiSettings, AmiSettings, KallglotSettings, TrunkSettings
from tests.modes.trunk_fakes import AgiChannel, FakeHub, FakeStore

pytestmark = pytest.mark.real_time

KEY = "sk_test_shared"


@pytest.fixture
async def addresses() -> AsyncIterator[list[Sandbox]]:
    servers = [Sandbox(Echo(), api_key=KEY) for _ in range(2)]
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        await server.stop()


async def test_the_first_address_dies_and_comes_back(addresses: list[Sandbox]) -> None:
    first, second = addresses
    client = KallglotClient(
        KallglotSettings(failover_timeout_ms=500), TrunkSettings(), Metrics(), SystemClock(),
        urls=(first.url, second.url), api_key=KEY,
    )  # fmt: skip
    await client.start()
    mode = TrunkMode(
        client, FakeStore(), FakeHub(), kallglot=KallglotSettings(), trunk=TrunkSettings(),
        agi=AgiSettings(port=0), ami=AmiSettings(), metrics=(metrics := Metrics()), clock=SystemClock(), load=Load(metrics),
    )  # fmt: skip
    await mode.start()

    def where(session_id: str) -> list[bool]:
        return [any(record.id == session_id for record in server.sessions.live()) for server in addresses]

    async def call(uniqueid: str) -> str:
        return (await AgiChannel(mode.agi_port, uniqueid).agi("session"))["SESSION_ID"]

    try:
        before = await call("1.1")
        assert where(before) == [True, False]
        await first.stop()
        meanwhile = [await call(f"2.{number}") for number in range(4)]
        assert all(where(session_id) == [False, True] for session_id in meanwhile)
        await first.start()
        after: list[str] = []
        async with asyncio.timeout(20):  # the breaker lets one trial through after its cool-down
            while not after or where(after[-1]) != [True, False]:
                after.append(await call(f"3.{len(after)}"))
                await asyncio.sleep(0.2)
    finally:
        await mode.stop()
        await client.close()
    assert not first.sessions.live()
    assert not second.sessions.live(), "each was ended at the address that had made it"
