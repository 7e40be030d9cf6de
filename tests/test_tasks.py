"""Tasks: named, kept, and none left behind or failing unseen."""

from __future__ import annotations

import asyncio
import logging

import pytest

from kallglot_ari.tasks import Tasks


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_task_has_a_name_a_keeper_and_a_result() -> None:
    tasks = Tasks("call-1")

    async def two() -> int:
        return 2

    task = tasks.spawn(two(), name="leg")
    assert task.get_name() == "call-1.leg"
    assert len(tasks) == 1
    assert await task == 2
    assert len(tasks) == 0


async def test_a_failure_is_logged_with_the_tasks_name(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ValueError("why")

    tasks = Tasks("part")
    tasks.spawn(fails(), name="one")
    with caplog.at_level(logging.ERROR, "kallglot_ari.tasks"):
        assert await tasks.join(5)
    (record,) = caplog.records
    assert record.getMessage() == "task_failed"
    assert record.__dict__["task"] == "part.one"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "why"


async def test_a_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks("part")
    task = tasks.spawn(for_ever(), name="one")
    await tasks.close()
    assert task.cancelled()
    assert len(tasks) == 0
    assert not caplog.records


async def test_close_waits_for_what_a_task_does_on_its_way_out() -> None:
    tasks, steps = Tasks("part"), []

    async def slow_end() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0)
            steps.append("ended")

    tasks.spawn(slow_end(), name="one")
    await asyncio.sleep(0)
    await tasks.close()
    assert steps == ["ended"]


async def test_close_takes_what_is_started_meanwhile() -> None:
    tasks = Tasks("part")
    late: list[asyncio.Task[None]] = []

    async def starts_another() -> None:
        try:
            await for_ever()
        finally:
            late.append(tasks.spawn(for_ever(), name="late"))

    tasks.spawn(starts_another(), name="one")
    await asyncio.sleep(0)
    await tasks.close()
    assert late[0].cancelled()
    assert len(tasks) == 0


async def test_close_lets_a_task_that_fails_on_its_way_out_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        try:
            await for_ever()
        finally:
            raise ValueError("on the way out")

    tasks = Tasks("part")
    tasks.spawn(fails(), name="one")
    await asyncio.sleep(0)
    await tasks.close()
    assert [record.getMessage() for record in caplog.records] == ["task_failed"]


async def test_a_task_may_close_its_own_keeper_and_goes_on() -> None:
    tasks = Tasks("part")
    other = tasks.spawn(for_ever(), name="other")

    async def closes() -> str:
        await tasks.close()
        return "still here"

    assert await tasks.spawn(closes(), name="one") == "still here"
    assert other.cancelled()


async def test_a_task_may_join_its_own_keeper() -> None:
    tasks = Tasks("part")

    async def joins() -> bool:
        return await tasks.join(5)

    assert await asyncio.wait_for(tasks.spawn(joins(), name="one"), 1)


async def test_closing_nothing_and_closing_twice() -> None:
    tasks = Tasks("part")
    await tasks.close()
    tasks.spawn(for_ever(), name="one")
    await tasks.close()
    await tasks.close()
    assert await tasks.join(0)


async def test_join_says_whether_all_ended_and_stops_none() -> None:
    tasks, gate = Tasks("part"), asyncio.Event()
    waits = tasks.spawn(gate.wait(), name="waits")
    assert not await tasks.join(0.01)
    assert not waits.done()
    gate.set()
    assert await tasks.join(5)


def test_without_an_event_loop_nothing_starts() -> None:
    coroutine = for_ever()
    with pytest.raises(RuntimeError, match="no running event loop"):
        Tasks("part").spawn(coroutine, name="one")
    coroutine.close()
