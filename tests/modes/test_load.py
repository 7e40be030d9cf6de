"""Calls of all kinds in one service: counted together."""

from __future__ import annotations

import asyncio

from pydantic import SecretStr

from kallglot_ari.modes.load import Load
from kallglot_ari.modes.pbx import PbxService
from kallglot_ari.modes.stasis import StasisMode
from kallglot_ari.modes.trunk import TrunkMode
from kallglot_ari.settings import AgiSettings, AmiSettings, Settings, WebSettings
from tests.calls.script import plan
from tests.modes.test_registry import Bench
from tests.modes.trunk_fakes import AgiChannel


class Lab(Bench):
    """All three modes beside each other."""

    def __init__(self) -> None:
        super().__init__()
        s = Settings()
        plant = self.plant
        self.load = Load(plant.metrics)
        self.stasis = StasisMode(
            plant, s.service, s.kallglot, s.media, s.conference, s.features, "kg-t", self.journal, self.load
        )
        self.calls = self.stasis.calls
        self.trunk = TrunkMode(
            self.kallglot, self.store, plant.hub, kallglot=s.kallglot, trunk=s.trunk, service=s.service,
            agi=AgiSettings(port=0), ami=AmiSettings(), metrics=plant.metrics, clock=self.clock, load=self.load,
            instance="t",
        )  # fmt: skip
        self.pbx = PbxService(
            self.kallglot, self.store, plant.hub, kallglot=s.kallglot, trunk=s.trunk, web=WebSettings(token=SecretStr("")),
            metrics=plant.metrics, clock=self.clock, load=self.load, instance="t",
        )  # fmt: skip

    @property
    def active(self) -> float | None:
        return self.plant.metrics.registry.get_sample_value("kallglot_calls_active")

    async def stop(self) -> None:
        await self.stasis.close()
        await self.pbx.stop()
        await self.trunk.stop(grace=2)
        await self.outbox.stop(1)


async def test_calls_of_all_kinds_are_counted_together() -> None:
    lab = Lab()
    await lab.trunk.start()
    channel = AgiChannel(lab.trunk.agi_port, "1.1")
    assert (await channel.agi("session"))["SESSION_ID"]
    assert await lab.pbx.incoming("c1", "1", "2")
    lab.calls.start(plan(call_id="kg-t-1"))
    assert lab.active == 3
    await lab.gone()
    assert lab.active == 2
    assert await lab.pbx.hangup("c1")
    assert not await lab.pbx.hangup("c1")
    await channel.agi("end", "hangup=1")
    async with asyncio.timeout(5):
        while lab.trunk.calls():
            await asyncio.sleep(0.002)
    assert lab.active == 0
    await lab.stop()
