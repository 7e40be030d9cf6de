"""Turns of a call: told at once, kept in order, bounded, and a store that fails hurts nobody."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from structlog.testing import capture_logs

from kallglot_ari.calls.interfaces import CallStore, Hub
from kallglot_ari.calls.model import TranscriptTurn
from kallglot_ari.clock import ManualClock
from kallglot_ari.errors import StoreError
from kallglot_ari.modes.transcripts import CONTEXT_MAX, TURNS_WAITING, Transcripts
from kallglot_ari.tasks import Tasks


class Listening:
    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def publish(self, event: str, call_id: str, data: dict[str, Any]) -> None:
        assert call_id == "c1"
        self.told.append((event, data))


class Slow:
    def __init__(self) -> None:
        self.kept: list[str] = []
        self.open = asyncio.Event()
        self.fails = False

    async def add_turn(self, call_id: str, turn: TranscriptTurn, at: float) -> None:
        await self.open.wait()
        if self.fails:
            raise StoreError("disk full")
        self.kept.append(turn.text)


def turn(text: str, *, final: bool = True) -> TranscriptTurn:
    return TranscriptTurn(id=text, speaker="agent", language="en", text=text, final=final)


def made() -> tuple[Transcripts, Slow, Listening, Tasks]:
    store, hub, tasks = Slow(), Listening(), Tasks("test")
    transcripts = Transcripts("c1", cast(CallStore, store), cast(Hub, hub), ManualClock(), tasks)
    return transcripts, store, hub, tasks


async def test_partial_ones_are_told_and_only_final_ones_kept() -> None:
    transcripts, store, hub, tasks = made()
    store.open.set()
    transcripts.take(turn("he", final=False))
    transcripts.take(turn("hello"))
    await tasks.join(2)
    assert [event for event, _ in hub.told] == ["transcript.partial", "transcript.final"]
    assert store.kept == ["hello"]
    assert transcripts.context() == "agent: hello"
    await tasks.close()


async def test_a_store_that_hangs_costs_the_oldest_and_no_listener() -> None:
    transcripts, store, hub, tasks = made()
    for number in range(TURNS_WAITING + 12):
        transcripts.take(turn(str(number)))
        await asyncio.sleep(0)
    assert len(hub.told) == TURNS_WAITING + 12
    with capture_logs() as logs:
        for number in range(TURNS_WAITING + 12, TURNS_WAITING + 20):
            transcripts.take(turn(str(number)))
        store.open.set()
        await tasks.join(2)
    assert [entry["event"] for entry in logs] == ["transcript_incomplete"], "that it is too slow was said once"
    assert logs[0]["turns"] == TURNS_WAITING + 20 - len(store.kept)
    assert store.kept[-1] == str(TURNS_WAITING + 19)
    assert TURNS_WAITING <= len(store.kept) < TURNS_WAITING + 12
    assert len(transcripts.context()) == CONTEXT_MAX
    await tasks.close()


async def test_a_store_that_fails_is_tried_again_with_the_next_turn() -> None:
    transcripts, store, _, tasks = made()
    store.open.set()
    store.fails = True
    transcripts.take(turn("one"))
    await tasks.join(2)
    store.fails = False
    transcripts.take(turn("two"))
    await tasks.join(2)
    assert store.kept == ["two"]
    await tasks.close()
