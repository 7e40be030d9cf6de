"""An engine that runs, on either kind of socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from kallglot_ari.clock import SystemClock
from kallglot_ari.media.engine import MediaEngine
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import MediaSettings

Running = Callable[..., AbstractAsyncContextManager[MediaEngine]]


@pytest.fixture(params=[True, False], ids=["batched", "plain"])
def batched(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def running(metrics: Metrics) -> Running:
    @asynccontextmanager
    async def run(
        *, encoding: str = "mulaw", sample_rate: int = 8000, chunk_ms: int = 100, batched: bool | None = None, **settings: object
    ) -> AsyncIterator[MediaEngine]:  # fmt: skip
        engine = MediaEngine(
            MediaSettings.model_validate(settings), encoding=encoding, sample_rate=sample_rate,
            chunk_ms=chunk_ms, metrics=metrics, clock=SystemClock(), batched=batched,
        )  # fmt: skip
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()

    return run


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """A sample of the registry, 0 when it is not there."""
    return metrics.registry.get_sample_value(name, labels) or 0.0
