"""The sweep against a real Asterisk: it removes what nobody owns, and a call never notices it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kallglot_ari.ari.rest import Rest
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.modes import sweep
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import nothing_left, running, settings_for, until
from tests.asterisk.stage import staged
from tests.double.server import KallglotDouble

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


async def test_what_nobody_owns_goes_and_a_call_stays(
    asterisk: LabAsterisk,
    phones: PhoneFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sweep, "EVERY", 0.05)
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk, tmp_path, double, service={"instance": "sweep"})) as service,
    ):
        customer = await phones(asterisk, "customer")
        await phones(asterisk, "agent", on_call=0.2)
        await customer.call("101")
        session = await double.wait_session()
        await session.wait_audio("agent", 0.3)
        await customer.dtmf("5")
        for name in ("kg-sweep-dead.b", "kg-other-dead.b"):
            await service.ari.bridges.create_with_id(name, type="mixing", name=name)
        left = ["kg-sweep-dead.b"]

        async def look() -> None:
            while left[0] in {bridge.id for bridge in await service.ari.bridges.list()}:
                await asyncio.sleep(0.02)

        await asyncio.wait_for(look(), 5)
        await asyncio.sleep(1)
        assert "kg-other-dead.b" in {bridge.id for bridge in await service.ari.bridges.list()}, "another instance's"
        assert len(service.calls()) == 1
        assert len(service.calls()[0].legs) == 2
        await service.ari.bridges.destroy("kg-other-dead.b")
        await customer.hangup()
        await until(lambda: not service.calls())
        await nothing_left(service, asterisk)
        assert [s.ends for s in double.sessions.values()] != [[]]
    said = capsys.readouterr().out
    assert said.count("nobody_s_things_removed") == 1
    assert "event_missed" not in said


async def test_media_made_while_nobody_listens_is_made_again(
    asterisk: LabAsterisk, phones: PhoneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of events alone is cut as a call begins: Asterisk makes its media channels, and lets go of them at once."""
    sockets: list[Any] = []
    opened = Rest.event_socket

    async def keep(rest: Rest, *args: Any, **options: Any) -> Any:
        await asyncio.sleep(0.5 if sockets else 0)
        sockets.append(await opened(rest, *args, **options))
        return sockets[-1]

    monkeypatch.setattr(Rest, "event_socket", keep)
    async with staged(asterisk, phones, tmp_path) as stage:
        channels = stage.service.ari.channels
        make = channels.create_external_media

        async def cut_off(*args: Any, **options: Any) -> Any:
            if len(sockets) == 1:
                await sockets[0].close()
                await asyncio.sleep(0.1)
            return await make(*args, **options)

        monkeypatch.setattr(channels, "create_external_media", cut_off)
        customer = await stage.phone("customer")
        agent = await stage.phone("agent")
        await customer.call("101")
        await until(lambda: len(sockets) == 2 and stage.service.ari.connected, what="connected again")
        await agent.wait_incoming()
        await agent.answer()
        await stage.active(2)
        await stage.talk(customer, agent)
        await stage.over(customer)


async def test_a_call_that_is_lost_with_asterisk_ended_with_an_error(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with staged(asterisk22, phones, tmp_path) as stage:
        await stage.call()
        (call,) = stage.service.calls()
        await asterisk22.restart(gracefully=False)
        await until(lambda: not stage.service.calls(), 20, "the call is over")
        await nothing_left(stage.service, asterisk22)
        assert [(s.end_reason, len(s.ends)) for s in stage.double.sessions.values()] == [("error", 1)]
        ended = await stage.service.store.get_call(call.id)
        assert ended is not None
        assert ended.end_reason == "error"
    assert "problem='Asterisk was started anew'" in capsys.readouterr().out
