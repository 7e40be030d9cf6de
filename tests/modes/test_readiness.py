"""Whether a call could be translated, part by part: asked, counted, and told when it changes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from kallglot_ari.errors import StoreError
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes import readiness
from kallglot_ari.modes.readiness import Readiness
from tests.modes.trunk_fakes import FakeStore


class Ari(SimpleNamespace):
    connected, problem = True, ""

    @property
    def channels(self) -> Any:
        async def need(_: str) -> None: ...

        return SimpleNamespace(need=need)


class Parts:
    def __init__(self) -> None:
        self.ari, self.store, self.api, self.metrics = Ari(), FakeStore(), "", Metrics()
        media = SimpleNamespace(format=SimpleNamespace(asterisk="ulaw"))
        self.readiness = Readiness(
            self.metrics, cast(Any, self.ari), cast(Any, media), "rtp", self.store, {"api": lambda: [self.api]}
        )

    def gauge(self, component: str) -> float | None:
        return self.metrics.registry.get_sample_value("kallglot_ready", {"component": component})


async def test_each_part_counts_and_a_change_is_told_once() -> None:
    parts = Parts()
    with capture_logs() as logged:
        assert await parts.readiness.reasons() == []
        assert await parts.readiness.reasons() == []
        parts.ari.connected, parts.ari.problem = False, "ARI: refused"
        assert await parts.readiness.reasons() == ["ARI: refused"]
        parts.ari.problem = "ARI: no answer"
        assert await parts.readiness.reasons() == ["ARI: no answer"]
        assert (parts.gauge("asterisk"), parts.gauge("api"), parts.gauge("store")) == (0, 1, 1)
        parts.api = "402"
        await parts.readiness.reasons()
        parts.ari.connected, parts.api = True, ""
        assert await parts.readiness.reasons() == []
    assert [(line["event"], line.get("reasons")) for line in logged] == [
        ("ready", None),
        ("not_ready", ["ARI: refused"]),
        ("not_ready", ["ARI: no answer", "402"]),
        ("ready", None),
    ]
    assert (parts.gauge("asterisk"), parts.gauge("api")) == (1, 1)


async def test_a_part_that_does_not_answer_is_named_and_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PATIENCE", 0.02)
    parts = Parts()

    async def hang() -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(parts.store, "check", hang)
    parts.api = "401"
    assert await parts.readiness.reasons() == ["401", "store: no answer within 0.02 s"]
    assert parts.gauge("store") == 0


async def test_it_is_looked_at_though_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "EVERY", 0.01)
    parts = Parts()

    async def refuse() -> None:
        raise StoreError("store: put mapping: disk full")

    monkeypatch.setattr(parts.store, "check", refuse)
    watching = asyncio.get_running_loop().create_task(parts.readiness.watch())
    async with asyncio.timeout(5):
        while parts.gauge("store") is None:
            await asyncio.sleep(0.01)
    watching.cancel()
    assert (parts.gauge("store"), parts.gauge("asterisk")) == (0, 1)
    assert await parts.readiness.reasons() == ["store: put mapping: disk full"]
