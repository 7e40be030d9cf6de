"""Asterisk stays away: a call of which nothing is heard either is given up, one that is heard goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from kallglot_ari.calls import events as e
from kallglot_ari.calls.model import CallView, LegQuality, LegView
from kallglot_ari.clock import ManualClock
from kallglot_ari.modes import away as module
from kallglot_ari.modes.away import PATIENCE, Away
from tests.modes.test_registry import Bench


class Calls:
    """Calls with as many packets as the test says."""

    def __init__(self, **packets: int) -> None:
        self.packets = packets
        self.lost: list[tuple[str, str]] = []

    def views(self) -> list[CallView]:
        return [
            CallView(call, "", "active", "m", "de", "en", None, legs=[LegView("customer", "1", quality=LegQuality(n))])  # type: ignore[arg-type]
            for call, n in self.packets.items()
        ]

    def get(self, call_id: str) -> Any:
        def post(event: e.Event) -> None:
            assert isinstance(event, e.AsteriskLost)
            self.lost.append((call_id, event.problem))
            del self.packets[call_id]

        return SimpleNamespace(post=post)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.0)


async def looks(clock: ManualClock, seconds: float) -> None:
    await asyncio.sleep(0.01)
    clock.advance(seconds)
    await asyncio.sleep(0.01)


async def test_a_call_of_which_nothing_is_heard_is_given_up_and_no_other() -> None:
    calls, clock = Calls(dead=700, alive=700), ManualClock()
    away = Away(calls, clock)  # type: ignore[arg-type]
    away.begins()
    away.begins()
    await looks(clock, PATIENCE - 1)
    assert calls.lost == []
    calls.packets["alive"] += 1
    await looks(clock, 1)
    assert calls.lost == [("dead", "nothing was heard of Asterisk for 300 s")]
    await looks(clock, PATIENCE - 2)
    assert len(calls.lost) == 1
    await away.close()


async def test_asterisk_that_is_back_in_time_loses_no_call() -> None:
    calls, clock = Calls(c=700), ManualClock()
    away = Away(calls, clock)  # type: ignore[arg-type]
    away.begins()
    await looks(clock, PATIENCE - 1)
    away.ends()
    away.ends()
    await looks(clock, PATIENCE)
    away.begins()
    await looks(clock, PATIENCE - 1)
    assert calls.lost == []
    await away.close()


async def test_its_session_is_ended() -> None:
    bench, clock = Bench(), ManualClock()
    await bench.up("kg-t-1")
    away = Away(bench.calls, clock)
    away.begins()
    await looks(clock, PATIENCE)
    assert await bench.calls.wait_empty(5)
    assert bench.kallglot.ended == [("sess_1", "error")]
    await away.close()
    await bench.outbox.stop(1)
