"""A service for any PBX, with stand-ins for Kallglot, the database and the hub."""

from __future__ import annotations

from pydantic import SecretStr

from kallglot_ari.clock import ManualClock
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.pbx import PbxService
from kallglot_ari.settings import Endpoint, KallglotSettings, TrunkSettings, WebSettings
from tests.modes.trunk_fakes import FakeHub, FakeStore, FakeTranslator


class Lab:
    def __init__(self, *, store: FakeStore | None = None, token: str = "", **options: object) -> None:
        self.api, self.store, self.hub = FakeTranslator(), store or FakeStore(), FakeHub()
        self.clock = ManualClock()
        ends = (Endpoint(uri="eu.example:5071", priority=2), Endpoint(uri="sip.example", priority=1))
        trunk = TrunkSettings.model_validate({"endpoints": ends, **options})
        metrics = Metrics()
        self.pbx = PbxService(
            self.api, self.store, self.hub, kallglot=KallglotSettings(), trunk=trunk,
            web=WebSettings(token=SecretStr(token)), metrics=metrics, clock=self.clock, load=Load(metrics), instance="t1",
        )  # fmt: skip
