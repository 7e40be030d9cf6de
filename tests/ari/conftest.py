from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kallglot_ari.ari import AriClient
from kallglot_ari.clock import SystemClock
from kallglot_ari.metrics import Metrics
from tests.ari.fake import FakeAsterisk


@pytest.fixture
async def fake() -> AsyncIterator[FakeAsterisk]:
    async with FakeAsterisk() as server:
        yield server


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(fake: FakeAsterisk, metrics: Metrics) -> AsyncIterator[AriClient]:
    """Not started."""
    made = AriClient(fake.settings(), metrics, SystemClock())
    yield made
    await made.close()
