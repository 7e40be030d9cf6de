"""The client against real Asterisks, old and new."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import get_args

import pytest

from kallglot_ari.ari import AriClient, Connected, Disconnected, GenericEvent, gone_is_fine, models, rtp_address, socket
from kallglot_ari.ari.describe import load
from kallglot_ari.ari.generate import render_models, render_operations
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import AriConflict, AriNotFound, AriUnauthorized, AriUnsupported, LabError
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.roots import Version
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import AriSettings
from tests.ari.fake import Heard

pytestmark = pytest.mark.asterisk
_VERSIONS = [pytest.param(one, marks=pytest.mark.asterisk16 if one == "16" else ()) for one in get_args(Version)]


@pytest.fixture(params=_VERSIONS)
async def asterisk(request: pytest.FixtureRequest) -> AsyncIterator[LabAsterisk]:
    """An Asterisk of its own for each test: these tests restart it and take its application away."""
    made = LabAsterisk(request.param, phones=0)
    try:
        await made.start()
    except LabError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"NOT TESTED: Asterisk {request.param}: {error}")
    yield made
    await made.stop()


def settings(asterisk: LabAsterisk, password: str = "") -> AriSettings:
    return AriSettings.model_validate(
        {"url": asterisk.ari_url, "username": asterisk.ari_user, "password": password or asterisk.ari_password}
    )


async def started(client: AriClient, heard: Heard) -> None:
    await client.start(heard)
    await client.wait_connected(10)


async def leg(client: AriClient, heard: Heard, name: str) -> tuple[str, int]:
    """An external-media channel in a bridge of its own, as a call's leg has it; where its media goes."""
    made, _ = await asyncio.gather(
        client.channels.create_external_media(f"em-{name}", external_host="127.0.0.1:40000", format="ulaw"),
        client.bridges.create_for_media(f"br-{name}"),
    )
    async with asyncio.timeout(5):
        while not any(isinstance(one, models.StasisStart) and one.channel.id == made.id for one in heard.events):
            await asyncio.sleep(0.002)
    await client.bridges.add_channel(f"br-{name}", channel=made.id)
    return rtp_address(made)


async def test_twenty_legs_at_once_and_their_teardown(asterisk: LabAsterisk, metrics: Metrics) -> None:
    client, heard = AriClient(settings(asterisk), metrics, SystemClock()), Heard()
    await started(client, heard)
    assert client.version[0] == asterisk.major
    start = asyncio.get_running_loop().time()
    addresses = await asyncio.gather(*(leg(client, heard, str(n)) for n in range(20)))
    took = asyncio.get_running_loop().time() - start
    assert len(set(addresses)) == 20
    assert took < 3, f"20 legs took {took * 1e3:.0f} ms"
    assert all(len(bridge.channels) == 1 for bridge in await client.bridges.list())
    for n in range(20):
        await gone_is_fine(client.channels.hangup(f"em-{n}", reason_code=17))
        await gone_is_fine(client.bridges.destroy(f"br-{n}"))
        await gone_is_fine(client.bridges.destroy(f"br-{n}"))
    async with asyncio.timeout(5):
        while await client.channels.list():
            await asyncio.sleep(0.02)
    assert await client.bridges.list() == ()
    assert not await gone_is_fine(client.channels.hangup("em-0"))
    assert sum(isinstance(one, models.ChannelDestroyed) for one in heard.events) == 20
    assert [one for one in heard.events if isinstance(one, GenericEvent)] == []
    await client.close()


async def test_the_cause_arrives(asterisk: LabAsterisk, metrics: Metrics) -> None:
    client, heard = AriClient(settings(asterisk), metrics, SystemClock()), Heard()
    await started(client, heard)
    await leg(client, heard, "x")
    await client.channels.hangup("em-x", reason_code=17)
    async with asyncio.timeout(5):
        while not any(isinstance(one, models.ChannelDestroyed) for one in heard.events):
            await asyncio.sleep(0.01)
    assert [one.cause for one in heard.events if isinstance(one, models.ChannelDestroyed)] == [17]
    await client.close()


async def test_errors_are_what_they_are_called(asterisk: LabAsterisk, metrics: Metrics) -> None:
    client, heard = AriClient(settings(asterisk), metrics, SystemClock()), Heard()
    await started(client, heard)
    await leg(client, heard, "x")
    with pytest.raises(AriNotFound):
        await client.channels.answer("nobody")
    with pytest.raises(AriNotFound):
        await client.bridges.add_channel("br-x", channel="nobody")
    with pytest.raises(AriNotFound):
        await client.channels.rtp_statistics("em-x")
    with pytest.raises(AriNotFound):
        await client.channels.hangup("a/b?c#d%20 ü")
    with pytest.raises(AriConflict):
        await client.bridges.create_for_media("br-x")
    await client.channels.set_channel_var("em-x", variable="X", value="a,b & c=ü")
    assert (await client.channels.get_channel_var("em-x", variable="X")).value == "a,b & c=ü"
    if asterisk.major < 20:
        with pytest.raises(AriUnsupported):
            await client.channels.transfer_progress("em-x", states="channel_answered")
    await client.close()
    wrong = AriClient(settings(asterisk, "wrong"), metrics, SystemClock())
    await wrong.start(lambda event: None)
    with pytest.raises(AriUnauthorized):
        await wrong.wait_connected(10)
    await wrong.close()


async def test_comes_back_after_a_restart(asterisk: LabAsterisk, metrics: Metrics) -> None:
    client, heard = AriClient(settings(asterisk), metrics, SystemClock()), Heard()
    await started(client, heard)
    await leg(client, heard, "x")
    before = len(heard.events)
    await asterisk.restart(gracefully=False)
    await client.wait_connected(15)
    after = [one for one in heard.events[before:] if isinstance(one, Connected | Disconnected)]
    assert isinstance(after[0], Disconnected)
    assert isinstance(after[-1], Connected)
    assert after[-1].again
    assert after[-1].snapshot.channels == ()
    await client.close()


async def test_the_snapshot_shows_what_a_service_left_behind(asterisk: LabAsterisk, metrics: Metrics) -> None:
    first, heard = AriClient(settings(asterisk), metrics, SystemClock()), Heard()
    await started(first, heard)
    await leg(first, heard, "left")
    await first.close()
    second, again = AriClient(settings(asterisk), metrics, SystemClock()), Heard()
    await started(second, again)
    connected = again.events[0]
    assert isinstance(connected, Connected)
    assert [one.id for one in connected.snapshot.channels] == ["em-left"]
    assert [one.channels for one in connected.snapshot.bridges] == [("em-left",)]
    await second.close()


async def test_the_second_service_takes_the_name(
    asterisk: LabAsterisk, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "REPLACED_LOOK", 0.1)
    first, heard = AriClient(settings(asterisk), metrics, SystemClock()), Heard()
    second, other = AriClient(settings(asterisk), metrics, SystemClock()), Heard()
    await started(first, heard)
    await started(second, other)
    await heard.until(3)
    assert isinstance(heard.events[1], models.ApplicationReplaced)
    assert "another service took" in first.problem
    assert second.connected
    await second.close()
    await first.wait_connected(5)
    await first.close()


async def test_the_description_it_serves_is_the_one_it_installed(
    asterisk: LabAsterisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KALLGLOT__ARI__PASSWORD", asterisk.ari_password)
    served = await asyncio.to_thread(load, asterisk.ari_url, username=asterisk.ari_user)
    installed = load(str(asterisk.root.outside("/usr/share/asterisk/rest-api")))
    assert render_models(served) == render_models(installed)
    assert render_operations(served) == render_operations(installed)
