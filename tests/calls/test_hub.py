"""The hub: order, bounds, replay, and what a slow reader is told."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls import interfaces
from kallglot_ari.calls.hub import LOST, Hub, Subscription
from kallglot_ari.clock import ManualClock
from kallglot_ari.tasks import Tasks


def make(**kwargs: Any) -> tuple[Hub, list[int]]:
    dropped: list[int] = []
    return Hub(ManualClock(), on_dropped=dropped.append, **kwargs), dropped


async def drain(reader: Subscription) -> list[dict[str, Any]]:
    """What is queued, without waiting for more."""
    reader.close()
    return [event async for event in reader]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


async def test_it_is_the_interface() -> None:
    hub: interfaces.Hub = make()[0]
    hub.publish("call.created", "c1", {})


async def test_an_event_has_all_its_fields() -> None:
    hub, _ = make()
    reader = hub.subscribe()
    hub.publish("call.state", "c1", {"state": "active"})
    assert await anext(reader) == {
        "id": hub.last_id,
        "type": "call.state",
        "call_id": "c1",
        "at": "2026-01-01T00:00:00.000Z",
        "data": {"state": "active"},
    }


async def test_events_count_from_the_subscription_not_from_the_first_read() -> None:
    hub, _ = make()
    hub.publish("before", "c1", {})
    reader = hub.subscribe()
    hub.publish("after", "c1", {})
    assert types(await drain(reader)) == ["after"]


async def test_a_reader_that_waits_is_woken() -> None:
    hub, _ = make()
    reader = hub.subscribe()
    waiting = Tasks("test").spawn(reader.__anext__(), name="reader")
    await asyncio.sleep(0)
    assert not waiting.done()
    hub.publish("now", "c1", {})
    assert (await waiting)["type"] == "now"


async def test_a_cancelled_wait_loses_nothing() -> None:
    hub, _ = make()
    reader = hub.subscribe()
    waiting = Tasks("test").spawn(reader.__anext__(), name="reader")
    await asyncio.sleep(0)
    waiting.cancel()
    hub.publish("kept", "c1", {})
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert types(await drain(reader)) == ["kept"]


async def test_what_is_published_later_does_not_change_what_was() -> None:
    hub, _ = make()
    reader = hub.subscribe()
    data = {"n": 1}
    hub.publish("x", "c1", data)
    data["n"] = 2
    assert (await anext(reader))["data"] == {"n": 1}


async def test_only_the_call_asked_for() -> None:
    hub, _ = make()
    reader = hub.subscribe(call_id="c2")
    for call in ("c1", "c2", "", "c2"):
        hub.publish("x", call, {})
    assert [event["call_id"] for event in await drain(reader)] == ["c2", "c2"]


async def test_a_slow_reader_loses_the_oldest_and_is_told() -> None:
    hub, dropped = make(queue=3)
    slow, quick = hub.subscribe(), hub.subscribe()
    for number in range(3):
        hub.publish(f"e{number}", "c1", {})
    assert [(await anext(quick))["type"] for _ in range(3)] == ["e0", "e1", "e2"]
    hub.publish("e3", "c1", {})
    hub.publish("e4", "c1", {})
    assert dropped == [1, 1]
    events = await drain(slow)
    assert types(events) == [LOST, "e2", "e3", "e4"]
    assert events[0]["data"] == {"count": 2}
    assert events[0]["id"] is None
    assert types(await drain(quick)) == ["e3", "e4"]


async def test_another_calls_events_push_nothing_out() -> None:
    hub, dropped = make(queue=2)
    reader = hub.subscribe(call_id="mine")
    hub.publish("a", "mine", {})
    for _ in range(10):
        hub.publish("x", "other", {})
    assert dropped == []
    assert types(await drain(reader)) == ["a"]


async def test_replay_goes_on_where_the_reader_stopped() -> None:
    hub, _ = make()
    for number in range(4):
        hub.publish(f"e{number}", "c1", {})
    assert types(await drain(hub.subscribe(after=hub.last_id - 2))) == ["e2", "e3"]
    assert types(await drain(hub.subscribe(after=hub.last_id))) == []


async def test_replay_tells_what_is_no_longer_kept() -> None:
    hub, dropped = make(replay=2)
    start = hub.last_id
    for number in range(5):
        hub.publish(f"e{number}", "c1", {})
    events = await drain(hub.subscribe(after=start))
    assert types(events) == [LOST, "e3", "e4"]
    assert events[0]["data"] == {"count": 3}
    assert dropped == [], "the ring's own loss is no slow reader"


async def test_an_id_of_an_earlier_run_gets_all_that_is_kept() -> None:
    hub, _ = make()
    before = hub.last_id - 100_000
    hub.publish("e0", "c1", {})
    assert types(await drain(hub.subscribe(after=before))) == ["e0"]


async def test_ids_rise_over_a_restart() -> None:
    clock = ManualClock()
    first = Hub(clock)
    for _ in range(50):
        first.publish("x", "c1", {})
    clock.advance(1)
    second = Hub(clock)
    second.publish("x", "c1", {})
    assert second.last_id > first.last_id


async def test_closing_the_hub_ends_readers_after_what_is_queued() -> None:
    hub, _ = make()
    reader = hub.subscribe()
    waiting = Tasks("test").spawn(hub.subscribe().__anext__(), name="reader")
    await asyncio.sleep(0)
    hub.publish("last", "c1", {})
    hub.close()
    assert types([event async for event in reader]) == ["last"]
    assert (await waiting)["type"] == "last"
    assert [event async for event in hub.subscribe()] == []
    hub.publish("late", "c1", {})


async def test_unsubscribed_readers_are_forgotten() -> None:
    hub, _ = make()
    reader = hub.subscribe()
    assert hub.readers == 1
    hub.unsubscribe(reader)
    hub.unsubscribe(reader)
    hub.publish("x", "c1", {})
    assert (hub.readers, len(reader)) == (0, 0)
    abandoned = hub.subscribe()
    del abandoned
    gc.collect()
    assert hub.readers == 0


@pytest.mark.parametrize(("queue", "replay"), [(0, 1), (-1, 1), (1, -1)])
def test_bounds_that_make_no_sense_are_refused(queue: int, replay: int) -> None:
    with pytest.raises(ValueError, match="expected queue >= 1"):
        Hub(ManualClock(), queue=queue, replay=replay)


@given(
    queue=st.integers(1, 8),
    replay=st.integers(0, 8),
    steps=st.lists(st.one_of(st.just("read"), st.sampled_from(["c1", "c2"])), max_size=60),
)
async def test_what_was_read_and_what_was_lost_is_all_there_was(queue: int, replay: int, steps: list[str]) -> None:
    hub, dropped = make(queue=queue, replay=replay)
    reader = hub.subscribe()
    published = lost = 0
    seen: list[int] = []
    for step in steps:
        if step == "read":
            if len(reader):
                event = await anext(reader)
                if event["type"] == LOST:
                    lost += event["data"]["count"]
                else:
                    seen.append(event["id"])
        else:
            hub.publish("x", step, {})
            published += 1
        assert len(reader) <= queue
    for event in await drain(reader):
        if event["type"] == LOST:
            lost += event["data"]["count"]
        else:
            seen.append(event["id"])
    assert seen == sorted(set(seen))
    assert len(seen) + lost == published
    assert lost == sum(dropped)
