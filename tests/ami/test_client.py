"""The manager's connection, as far as it can be seen without an Asterisk; the rest is in tests/asterisk."""

from __future__ import annotations

import asyncio

import pytest

from kallglot_ari.ami.client import AmiClient
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import AmiSettings


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
