"""An engine that runs, on every kind of socket, with machine code and without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import numpy as np
import pytest

from kallglot_ari.audio.codecs import g711
from kallglot_ari.audio.conceal import Concealer
from kallglot_ari.audio.frame import Pcm
from kallglot_ari.clock import SystemClock
from kallglot_ari.media.engine import MediaEngine
from kallglot_ari.media.native import LIBRARY, Native
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import MediaSettings
from tests.asterisk.conftest import missing
from tests.audio.signals import tone

Running = Callable[..., AbstractAsyncContextManager[MediaEngine]]


@pytest.fixture(scope="session")
def library() -> Native:
    """The machine code, which a machine with a C compiler has."""
    if LIBRARY is None:
        missing("kallglot_ari/media/_tick.so; it is built when the package is installed and there is a C compiler")
    assert LIBRARY is not None
    return LIBRARY


@pytest.fixture(params=["native", "numpy", "plain"])
def way(request: pytest.FixtureRequest) -> dict[str, object]:
    """What packets are taken and sent by, as arguments of `MediaEngine`."""
    native = request.getfixturevalue("library") if request.param == "native" else None
    return {"batched": request.param != "plain", "library": native}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def running(metrics: Metrics) -> Running:
    @asynccontextmanager
    async def run(
        *, encoding: str = "mulaw", sample_rate: int = 8000, chunk_ms: int = 100, batched: bool | None = None,
        library: Native | None = LIBRARY, **settings: object
    ) -> AsyncIterator[MediaEngine]:  # fmt: skip
        engine = MediaEngine(
            MediaSettings.model_validate(settings), encoding=encoding, sample_rate=sample_rate,
            chunk_ms=chunk_ms, metrics=metrics, clock=SystemClock(), batched=batched, library=library,
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


START = "MEDIA_START connection_id:c1 channel:WebSocket/INCOMING/0x1 channel_id:leg format:ulaw optimal_frame_size:160"
"""What a chan_websocket of Asterisk's says first."""


def ulaw(seconds: float, hertz: float = 400) -> bytes:
    """A tone as mu-law."""
    return g711.PCM_TO_ULAW[tone(8000, seconds, hertz).view(np.uint16)].tobytes()


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of each piece of sound that is made up from now on."""
    made: list[int] = []
    lost = Concealer.lost

    def counted(self: Concealer, samples: int) -> Pcm:
        made.append(samples)
        return lost(self, samples)

    monkeypatch.setattr(Concealer, "lost", counted)
    return made
