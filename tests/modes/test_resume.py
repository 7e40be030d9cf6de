"""What becomes of the calls that an earlier run left, where what it wrote of one of them cannot be used."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from kallglot_ari.ari.models import AsteriskInfo
from kallglot_ari.ari.snapshot import Snapshot
from kallglot_ari.calls import adopt
from kallglot_ari.clock import ManualClock
from kallglot_ari.modes.resume import Resume
from kallglot_ari.tasks import Tasks
from tests.calls.script import Script


class _Calls:
    """A registry that notes who is taken up."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.tasks = Tasks("test")

    def take_up(self, machine: Any) -> tuple[Any, Any]:
        self.taken.append(machine.plan.call_id)
        return SimpleNamespace(id=machine.plan.call_id, tasks=self.tasks, post=lambda event: None), None

    def go_on(self, runner: Any, commands: Any) -> None:
        pass


async def test_a_call_that_cannot_be_taken_up_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script()
    script.talking()
    good = adopt.write(script.machine)
    bad = orjson.loads(orjson.dumps(good).replace(b"kg-t-1", b"kg-t-0"))
    rows = {
        "kg-t-0": bad, "kg-t-2": [], "kg-t-3": {"form": 1}, "kg-t-4": good | {"started": "2026-11-28T08:00:00"}, "kg-t-1": good,
    }  # fmt: skip
    resumed = adopt.resume

    def fails(written: adopt.Written, *args: Any, **options: Any) -> adopt.Resumed:
        if written.plan.call_id == "kg-t-0":
            raise ZeroDivisionError("a fault of ours")
        return resumed(written, *args, **options)

    monkeypatch.setattr(adopt, "resume", fails)
    decided: list[tuple[str, set[str]]] = []
    forgotten: list[str] = []

    async def left() -> dict[str, Any]:
        return rows

    async def none(**_: Any) -> list[Any]:
        return []

    plant: Any = SimpleNamespace(
        clock=ManualClock(),
        outbox=SimpleNamespace(decide=lambda call, keys=(): decided.append((call, set(keys)))),
        store=SimpleNamespace(list_calls=none),
    )
    journal: Any = SimpleNamespace(read=left, forget=forgotten.append, inherited=frozenset())
    calls = _Calls()
    resume = Resume(plant, journal, calls, "kg-t", embedded=False)  # type: ignore[arg-type]
    assert await resume.read() == ["kg-t-0", "kg-t-1"]
    resume.connected(Snapshot((22, 0, 0), AsteriskInfo(), None, (), ()), None)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert calls.taken == ["kg-t-1"]
    # What was once kept is kept: a second decision would not end it.
    assert decided == [("kg-t-0", set()), ("kg-t-1", {"kg-t-1.s1"})], "the session of what cannot go on is ended"
    assert sorted(forgotten) == ["kg-t-0", "kg-t-2", "kg-t-3", "kg-t-4"]
    await resume.close()
    await calls.tasks.close()
