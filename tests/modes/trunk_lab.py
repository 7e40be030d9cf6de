"""Trunk mode with an API in memory, a dialplan that speaks FastAGI, and a manager interface that says what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kallglot_ari.calls.interfaces import CallStore, Hub
from kallglot_ari.clock import ManualClock
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.pbx_lost import Api
from kallglot_ari.modes.trunk import TrunkMode
from kallglot_ari.modes.trunk_follow import Follower
from kallglot_ari.settings import AgiSettings, AmiSettings, Endpoint, KallglotSettings, TrunkSettings
from tests.modes.trunk_fakes import AgiChannel, FakeHub, FakeStore, FakeTranslator


class Lab:
    """A trunk mode and all that it talks to."""

    def __init__(
        self,
        *,
        ami_user: str = "",
        max_calls: int = 0,
        store: FakeStore | None = None,
        instance: str = "t1",
        ari: Any = None,
    ) -> None:
        self.api, self.store, self.hub = FakeTranslator(), store or FakeStore(), FakeHub()
        self.clock, self.metrics = ManualClock(), Metrics()
        api: Api = self.api
        durable: CallStore = self.store
        hub: Hub = self.hub
        ends = (Endpoint(uri="eu.example:5071", priority=2), Endpoint(uri="sip.example", priority=1))
        self.mode = TrunkMode(
            api, durable, hub,
            kallglot=KallglotSettings(), trunk=TrunkSettings(endpoints=ends), agi=AgiSettings(port=0),
            ami=AmiSettings(username=ami_user, port=1),
            metrics=self.metrics, clock=self.clock, load=Load(self.metrics, max_calls), instance=instance,
            ari=ari, app="kallglot",
        )  # fmt: skip

    @property
    def follower(self) -> Follower:
        assert self.mode._follower is not None
        return self.mode._follower

    def channel(self, uniqueid: str = "1.1", linkedid: str = "") -> AgiChannel:
        return AgiChannel(self.mode.agi_port, uniqueid, linkedid=linkedid)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)

    async def quiet(self) -> None:
        """Wait until no call is left."""
        await self.until(lambda: not self.mode.calls())
        await self.until(lambda: not self.api.open and not self.store.pending)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0


def who(uniqueid: str, linkedid: str = "1.1") -> tuple[str, str, str]:
    return uniqueid, f"PJSIP/x-{uniqueid}", linkedid
