"""A call's streams: those that end as they become ready, those that take another's place, and how they are counted."""

from __future__ import annotations

import asyncio

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import link
from kallglot_ari.calls.interfaces import StreamEnd
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.tasks import Tasks
from tests.calls.script import plan, session
from tests.modes.test_registry import Bench, OneStream


async def rung(machine: CallMachine, wanted: str) -> None:
    async with asyncio.timeout(5):
        while machine.view().translation != wanted:
            await asyncio.sleep(0)


async def test_a_session_that_ends_as_its_stream_becomes_ready_leaves_nobody_in_silence() -> None:
    bench = Bench()
    bench.kallglot.end_at_once = [StreamEnd(True, "timeout")]
    machine = bench.calls.start(plan(call_id="kg-t-1", on_unavailable="passthrough")).machine
    await rung(machine, "direct")
    assert bench.kallglot.streams[0].sink is None, "closed"
    await bench.gone()
    assert len(bench.kallglot.streams) == 1
    await bench.outbox.stop(1)


async def test_a_stream_that_closes_as_it_becomes_ready_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "STREAM_RETRIES", (0.0, 0.0))
    bench = Bench()
    bench.kallglot.end_at_once = [StreamEnd(False, "closed by the server with 1011")]
    machine = bench.calls.start(plan(call_id="kg-t-1")).machine
    await rung(machine, "up")
    assert len(bench.kallglot.streams) == 2
    await bench.gone()
    await bench.outbox.stop(1)


async def test_streams_that_are_opened_again_are_counted() -> None:
    bench = Bench()
    await bench.up("kg-t-1")
    counted = []
    for again, final in enumerate((False, True), 1):
        counted.append(bench.plant.metrics.registry.get_sample_value("kallglot_stream_reconnects_total"))
        bench.kallglot.streams[-1].ends(StreamEnd(final, "lost"))
        async with asyncio.timeout(5):
            while len(bench.kallglot.streams) == again:
                await asyncio.sleep(0)
        await rung(bench.calls.get("kg-t-1").machine, "up")
    counted.append(bench.plant.metrics.registry.get_sample_value("kallglot_stream_reconnects_total"))
    assert counted == [0, 1, 2], "the first is none"
    await bench.gone()
    await bench.outbox.stop(1)


async def test_a_stream_that_takes_anothers_place_is_closed_with_the_call_whatever_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, tasks, closing = Bench(), Tasks("test"), asyncio.Event()
    await bench.up("kg-t-1")
    actions, (old,) = bench.calls.actions("kg-t-1"), bench.kallglot.streams
    close = OneStream.close

    async def slow(self: OneStream) -> None:
        if self is old:
            closing.set()
            await asyncio.Event().wait()
        await close(self)

    monkeypatch.setattr(OneStream, "close", slow)
    opening = tasks.spawn(actions.execute(c.OpenStream(session(2))), name="open")
    async with asyncio.timeout(5):
        await closing.wait()
    opening.cancel()
    await asyncio.wait({opening})
    new = bench.kallglot.streams[1]
    sinks = [new.sink]
    await actions.execute(c.CloseStream("sess_2"))
    sinks.append(new.sink)
    assert [sink is None for sink in sinks] == [False, True]
    await bench.calls.close()
    await tasks.close()
    await bench.outbox.stop(1)
