"""The sweep against a real Asterisk: it removes what nobody owns, and a call never notices it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.modes import sweep
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import nothing_left, running, settings_for, until
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
