"""The one place that starts asyncio tasks: each has a name and a keeper, and none fails unseen."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_log = logging.getLogger("kallglot_ari.tasks")


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait up to `seconds` for `event`; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def aside(work: Callable[[], T], *, name: str) -> asyncio.Future[T]:
    """Have `work` done on a thread of its own. It may hang for ever, as on a network disk that is away: no process waits for it to end."""
    found: Future[T] = Future()
    found.set_running_or_notify_cancel()

    def answer() -> None:
        try:
            found.set_result(work())
        except Exception as error:  # noqa: BLE001 - the asker's
            found.set_exception(error)

    threading.Thread(target=answer, name=f"kallglot-{name}", daemon=True).start()
    return asyncio.wrap_future(found)


class Tasks:
    """Keeps the tasks of one owner, so that closing the owner leaves none behind."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `coroutine` as a task named ``owner.name``; a failure is logged, awaited or not."""
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self._owner}.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", extra={"task": task.get_name()}, exc_info=error)

    async def close(self) -> None:
        """Cancel what still runs and wait until it is gone; what that starts on its way out goes too."""
        while tasks := self._others():
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for all to end by themselves; True if they did."""
        tasks = self._others()
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=timeout)
        return not pending

    def _others(self) -> set[asyncio.Task[Any]]:
        """All but the task that asks: it can wait for everything but itself."""
        return {task for task in self._tasks if not task.done()} - {asyncio.current_task()}
