"""What the signals do to a service that runs or drains: with a service that only writes down what it was told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kallglot_ari import serve as served
from kallglot_ari.settings import Settings

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Told:
    """A service whose calls go on until `over`."""

    def __init__(self) -> None:
        self.replaced, self.over = asyncio.Event(), asyncio.Event()
        self.ari = SimpleNamespace(connected=True)
        self.started = asyncio.Event()
        self.told: list[str] = []

    async def start(self) -> None:
        self.started.set()

    async def stop(self, *, seconds: float | None = None) -> None:
        self.told.append("drain" if seconds is None else f"stop in {seconds} s")
        if seconds is None:
            await self.over.wait()

    async def hand_over(self) -> None:
        self.told.append("hand over")

    def calls(self) -> list[Any]:
        return []

    async def live(self) -> list[str]:
        return []


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Told]:
    service = Told()
    monkeypatch.setattr(served, "Service", lambda *_, **__: service)
    monkeypatch.setattr(served, "more_descriptors", lambda: None)
    yield service
    for number in SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)


async def draining(service: Told) -> asyncio.Task[int]:
    running = asyncio.get_running_loop().create_task(served.serve(Settings()))
    await service.started.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    while not service.told:
        await asyncio.sleep(0)
    return running


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGTERM, "stop in 0 s"), (signal.SIGINT, "stop in 0 s"), (signal.SIGUSR1, "hand over")],
)
async def test_a_second_signal_does_not_wait_for_the_drain(service: Told, number: signal.Signals, told: str) -> None:
    running = await draining(service)
    os.kill(os.getpid(), number)
    assert await asyncio.wait_for(running, 5) == 0
    assert service.told == ["drain", told]


async def test_a_run_that_drains_lets_another_take_its_calls_over(service: Told) -> None:
    running = await draining(service)
    service.replaced.set()
    assert await asyncio.wait_for(running, 5) == 0
    assert service.told == ["drain", "hand over"]


async def test_a_drain_that_ends_by_itself_is_the_end(service: Told) -> None:
    running = await draining(service)
    service.over.set()
    assert await asyncio.wait_for(running, 5) == 0
    assert service.told == ["drain"]
