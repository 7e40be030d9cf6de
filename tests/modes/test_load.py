"""Calls of all kinds in one service: counted together."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from kallglot_ari.calls.orders import Outbound
from kallglot_ari.errors import ApiUnavailable, AriUnavailable, ServiceBusy
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.pbx import PbxService
from kallglot_ari.modes.stasis import StasisMode
from kallglot_ari.modes.trunk import TrunkMode
from kallglot_ari.settings import AgiSettings, AmiSettings, Settings, WebSettings
from tests.calls.script import plan
from tests.modes.test_registry import Bench
from tests.modes.trunk_fakes import AgiChannel

pytestmark = pytest.mark.real_time


class Lab(Bench):
    """All three modes beside each other."""

    def __init__(self, max_calls: int = 0) -> None:
        super().__init__()
        s = Settings()
        plant = self.plant
        self.load = Load(plant.metrics, max_calls)
        self.stasis = StasisMode(
            plant, s.service, s.kallglot, s.media, s.conference, s.features, "kg-t", self.journal, self.load
        )
        self.calls = self.stasis.calls
        self.trunk = TrunkMode(
            self.kallglot, self.store, plant.hub, kallglot=s.kallglot, trunk=s.trunk,
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


async def refused(lab: Lab) -> list[bool]:
    """Whether each kind of call is, in turn; none of them begins one."""
    assert lab.stasis.full in ("", "max_calls")
    found = [lab.stasis.full == "max_calls"]
    for call in (
        lab.stasis.originate(Outbound(customer="PJSIP/1", agent="PJSIP/2")),
        lab.pbx.incoming("c9", "1", "2"),
        lab.pbx.prepare(),
    ):
        try:
            await call
        except ServiceBusy:
            found.append(True)
    form = {"section": "dialplan", "Unique-ID": "c8", "Hunt-Destination-Number": "8"}
    found.append("not found" in await lab.pbx.freeswitch_dialplan(form))
    found.append((await AgiChannel(lab.trunk.agi_port, "9.9").agi("session"))["KALLGLOT_STATUS"] == "BUSY")
    return found


@pytest.mark.parametrize("kind", ["media", "trunk", "pbx"])
async def test_at_max_calls_a_call_of_one_kind_keeps_out_those_of_all(kind: str) -> None:
    lab = Lab(max_calls=1)
    await lab.trunk.start()
    if kind == "media":
        lab.calls.start(plan(call_id="kg-t-1"))
    elif kind == "trunk":
        await AgiChannel(lab.trunk.agi_port, "1.1").agi("session")
    else:
        answer = await lab.pbx.incoming("c1", "1", "2")
    assert await refused(lab) == [True] * 6
    if kind == "pbx":
        assert await lab.pbx.incoming("c1", "1", "2") == answer, "one that is known gets its answer"
    assert lab.active == 1
    await lab.stop()


async def test_calls_that_come_at_once_do_not_pass_the_limit_together() -> None:
    lab = Lab(max_calls=2)
    await lab.trunk.start()
    lab.kallglot.gate.clear()
    routed = [asyncio.ensure_future(lab.pbx.incoming(f"c{n}", "1", "2")) for n in range(4)]  # noqa: TID251
    agi = [asyncio.ensure_future(AgiChannel(lab.trunk.agi_port, f"{n}.1").agi("session")) for n in range(4)]  # noqa: TID251
    await asyncio.sleep(0.1)
    assert lab.active == 2
    lab.kallglot.gate.set()
    answers = await asyncio.gather(*routed, return_exceptions=True)
    variables = await asyncio.gather(*agi)
    taken = sum(isinstance(answer, dict) for answer in answers) + sum(bool(found["SESSION_ID"]) for found in variables)
    assert (taken, len(lab.kallglot.created), lab.active) == (2, 2, 2)
    await lab.stop()


async def test_a_call_that_gets_no_session_takes_no_place() -> None:
    lab = Lab(max_calls=1)
    lab.kallglot.create_error = ApiUnavailable("down")
    with pytest.raises(ApiUnavailable):
        await lab.pbx.incoming("c1", "1", "2")
    lab.kallglot.create_error = None
    assert lab.active == 0
    assert await lab.pbx.incoming("c2", "1", "2")
    assert lab.active == 1
    await lab.pbx.stop()
    await lab.stasis.close()
    await lab.outbox.stop(1)


async def test_no_call_is_placed_and_no_session_bought_while_asterisk_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()

    async def away(timeout: float) -> None:
        raise AriUnavailable("ARI: no connection")

    monkeypatch.setattr(lab.plant.ari, "wait_connected", away, raising=False)
    with pytest.raises(AriUnavailable):
        await lab.stasis.originate(Outbound(customer="PJSIP/1", agent="PJSIP/2"))
    assert lab.active == 0
    assert not lab.calls.runners()
    await lab.stop()
