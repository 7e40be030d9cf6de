"""A machine that stood still, or whose clock was set, says so."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from kallglot_ari.modes import stillness


class Clock:
    """Goes on by what the test says at each look: monotonic seconds, and by how much more the wall clock."""

    def __init__(self, *steps: tuple[float, float]) -> None:
        self.steps = list(steps)
        self.seconds, self.more = 100.0, 0.0
        self.looks = 0

    def now(self) -> float:
        self.looks += 1
        if self.looks % 2 == 0 and self.steps:
            seconds, more = self.steps.pop(0)
            self.seconds, self.more = self.seconds + seconds, self.more + more
        return self.seconds

    def wall(self) -> datetime:
        return datetime(2026, 11, 28, tzinfo=UTC) + timedelta(seconds=self.seconds + self.more)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([(1.0, 0.0), (1.9, 0.5)], []),
        ([(41.0, 0.0)], [("stood_still", 40.0)]),
        ([(1.0, 3600.0), (1.0, -7200.0)], [("clock_set", 3600.0), ("clock_set", -7200.0)]),
        ([(4.0, 100.0)], [("stood_still", 3.0), ("clock_set", 100.0)]),
    ],
)
async def test_it_is_told(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[float, float]], told: list[tuple[str, float]]
) -> None:
    monkeypatch.setattr(asyncio, "sleep", lambda _, sleep=asyncio.sleep: sleep(0))
    clock = Clock(*steps)
    with capture_logs() as logged:
        watching = asyncio.get_running_loop().create_task(stillness.watch(clock))
        while clock.steps:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        watching.cancel()
    assert [(line["event"], line["seconds"]) for line in logged] == told
