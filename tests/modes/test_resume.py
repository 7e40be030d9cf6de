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
from kallglot_ari.calls import events as e
from kallglot_ari.clock import ManualClock
from kallglot_ari.modes.resume import Resume
from kallglot_ari.tasks import Tasks
from tests.calls.script import Script


class _Calls:
    """A registry that notes who is taken up."""

    def __init__(self, actions: Any = None) -> None:
        self.taken: list[str] = []
        self.went_on: list[str] = []
        self.posted: list[e.Event] = []
        self.tasks = Tasks("test")
        self._actions = actions

    def take_up(self, machine: Any) -> tuple[Any, Any]:
        self.taken.append(machine.plan.call_id)
        return SimpleNamespace(id=machine.plan.call_id, tasks=self.tasks, post=self.posted.append), self._actions

    def go_on(self, runner: Any, commands: Any) -> None:
        self.went_on.append(runner.id)


def _plant(decided: list[tuple[str, set[str]]]) -> Any:
    async def none(**_: Any) -> list[Any]:
        return []

    return SimpleNamespace(
        clock=ManualClock(),
        outbox=SimpleNamespace(decide=lambda call, keys=(): decided.append((call, set(keys)))),
        store=SimpleNamespace(list_calls=none),
    )


def _journal(rows: dict[str, Any], forgotten: list[str]) -> Any:
    async def left() -> dict[str, Any]:
        return rows

    return SimpleNamespace(read=left, forget=forgotten.append, inherited=frozenset())


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

    calls = _Calls()
    resume = Resume(_plant(decided), _journal(rows, forgotten), calls, "kg-t", embedded=False)  # type: ignore[arg-type]
    assert await resume.read() == ["kg-t-0", "kg-t-1"]
    resume.connected(Snapshot((22, 0, 0), AsteriskInfo(), None, (), ()), None)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert calls.taken == ["kg-t-1"]
    # What was once kept is kept: a second decision would not end it.
    assert decided == [("kg-t-0", set()), ("kg-t-1", {"kg-t-1.s1"})], "the session of what cannot go on is ended"
    assert sorted(forgotten) == ["kg-t-0", "kg-t-2", "kg-t-3", "kg-t-4"]
    await resume.close()
    await calls.tasks.close()


async def test_a_call_whose_media_meet_a_fault_of_ours_goes_on_with_others() -> None:
    """It stood still for ever, its parties in silence and its session open."""

    async def take_up(_: Any) -> Any:
        raise ZeroDivisionError("a fault of ours")

    script = Script()
    script.talking()
    legs = script.machine.legs.values()
    ids = [channel for leg in legs for channel in (leg.channel_id, leg.media_id)]
    snapshot: Any = SimpleNamespace(
        channels=[SimpleNamespace(id=channel, name=channel, state="Up") for channel in ids],
        bridges=[SimpleNamespace(id=leg.bridge_id, channels=[leg.channel_id, leg.media_id]) for leg in legs],
        application=SimpleNamespace(channel_ids=ids),
    )
    calls = _Calls(SimpleNamespace(take_up=take_up))
    resume = Resume(_plant([]), _journal({"kg-t-1": adopt.write(script.machine)}, []), calls, "kg-t", embedded=False)  # type: ignore[arg-type]
    await resume.read()
    resume.start(same_port=True)
    resume.connected(snapshot, None)  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    assert calls.went_on == ["kg-t-1"]
    assert calls.posted == [e.ChannelLeft(leg.media_id) for leg in legs]
    await resume.close()
    await calls.tasks.close()
