from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kallglot_ari.modes import outbox
from tests.modes.outbox_bench import Bench
from tests.modes.trunk_lab import Lab


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(outbox, "SWEEP_SECONDS", 0.002)
    bench = Bench()
    yield bench
    bench.kallglot.end_error = None
    await bench.outbox.stop(0)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    lab = Lab()
    await lab.mode.start()
    yield lab
    await lab.mode.stop(grace=2)


@pytest.fixture
async def followed() -> AsyncIterator[Lab]:
    lab = Lab(ami_user="kallglot")
    await lab.mode.start()
    yield lab
    await lab.mode.stop(grace=2)
