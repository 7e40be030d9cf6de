"""One story, from its seed."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import structlog

from kallglot_ari.modes import outbox
from kallglot_ari.modes.stasis import StasisMode
from tests.stories import promises
from tests.stories.clock import VirtualLoop
from tests.stories.script import Mix, Script
from tests.stories.service import PREFIX
from tests.stories.world import World

CLEARING, RESTING, LEAVING = 60.0, 400.0, 200.0
"""Seconds after which all that was broken works, for which nothing happens, and after which nothing may be left."""


def tell(seed: int, mix: Mix) -> World:
    """Play a story; the world afterwards, with its lines and the promises that were broken."""
    world = World(seed)
    with _logs(world), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            runner.run(_play(world, mix))
        except Exception:
            world.breaks(f"A story comes to its end: {traceback.format_exc()}")
    return world


async def _play(world: World, mix: Mix) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: world.breaks(f"Nothing crashes: {context}"))
    script = Script(world, mix)
    with _chance(world):
        world.does(promises.watch(script))
        await script.play()
        await script.clears_up()
        await asyncio.sleep(CLEARING + RESTING)
        promises.at_rest(script)
        await script.all_leave()
        await asyncio.sleep(LEAVING)
        promises.at_the_end(script)


@contextmanager
def _chance(world: World) -> Iterator[None]:
    """What the service itself leaves to chance is the story's."""
    names = world.dice.of("names")

    def new_id(_: StasisMode) -> str:
        return f"{PREFIX}-{names.getrandbits(40):010x}"

    with patch.object(StasisMode, "new_id", new_id), patch.object(outbox, "random", world.dice.of("outbox")):
        yield


@contextmanager
def _logs(world: World) -> Iterator[None]:
    """The log's lines are the story's, and what crashed breaks a promise."""

    def take(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event.get("event"))
        if "crashed" in name or name in ("task_failed", "live_call_not_taken_up", "live_call_unreadable"):
            world.breaks(f"Nothing crashes: {event}")
        else:
            world.tell("log", name, *(f"{k}={v}" for k, v in event.items() if k != "event"))
        raise structlog.DropEvent

    class Tasks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            world.breaks(f"Nothing crashes: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}")

    processors = structlog.get_config()["processors"]
    before, handler = processors.copy(), Tasks()
    tasks = logging.getLogger("kallglot_ari.tasks")
    tasks.addHandler(handler)
    processors[:] = [take]
    structlog.configure(processors=processors)
    try:
        yield
    finally:
        processors[:] = before
        structlog.configure(processors=processors)
        tasks.removeHandler(handler)
