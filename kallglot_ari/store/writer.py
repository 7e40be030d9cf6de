"""SQLite has one writer at a time: what is to be written meanwhile goes to disk together, with the next commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kallglot_ari.errors import KallglotAriError, StoreError
from kallglot_ari.store import connect
from kallglot_ari.store.failures import explain
from kallglot_ari.tasks import Tasks

TOGETHER = 64
"""Writes in one transaction at most: those that came first must not wait long for those that came last."""
WAITING_MAX = 20_000
"""Writes that may wait for the disk; more are refused."""

Work = Callable[[AsyncConnection], Awaitable[Any]]


@dataclass(slots=True)
class Outcome:
    """What a transaction came to; errors travel as values so that a caller that left is no unhandled failure."""

    value: Any = None
    error: KallglotAriError | None = None


@dataclass(slots=True, eq=False)
class _Write:
    what: str
    work: Work
    outcome: asyncio.Future[Outcome]


async def attempt(engine: AsyncEngine, what: str, work: Work, lock: asyncio.Lock | None, *, write: bool) -> Outcome:
    """One transaction, under `lock` if there is one."""
    try:
        async with AsyncExitStack() as stack:
            if lock is not None:
                await stack.enter_async_context(lock)
            connection = await stack.enter_async_context(engine.connect())
            await connection.execution_options(**{connect.WRITE: write})
            async with connection.begin():
                return Outcome(await work(connection))
    except (SQLAlchemyError, OSError, TimeoutError, KallglotAriError) as error:
        return Outcome(error=_explained(error, what))


def _explained(error: BaseException, what: str) -> KallglotAriError:
    failure = explain(error, what)
    failure.__cause__ = error if failure is not error else None
    return failure


class Writer:
    """Carries out writes in the order in which they came. Each is on disk, whole, when its future is done; a failure is its own."""

    def __init__(self, engine: AsyncEngine, lock: asyncio.Lock, tasks: Tasks) -> None:
        self._engine = engine
        self._lock = lock
        self._tasks = tasks
        self._waiting: deque[_Write] = deque()
        self._batch: list[_Write] = []
        self._busy = False

    def put(self, what: str, work: Work) -> asyncio.Future[Outcome]:
        """:raises StoreError: so many wait already that the database must be taken for dead."""
        if len(self._waiting) >= WAITING_MAX:
            raise StoreError(f"store: {what}: {WAITING_MAX} writes wait for the database already")
        write = _Write(what, work, asyncio.get_running_loop().create_future())
        self._waiting.append(write)
        if not self._busy:
            self._busy = True
            self._tasks.spawn(self._run(), name="write")
        return write.outcome

    def close(self) -> None:
        """What still waits fails; to be called when no task of ours runs any more."""
        for write in (*self._batch, *self._waiting):
            _settle(write, Outcome(error=StoreError(f"store: {write.what}: the store was closed")))
        self._waiting.clear()

    async def _run(self) -> None:
        try:
            while self._waiting:
                self._batch = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
                await self._carry_out(self._batch)
        finally:
            self._busy = False

    async def _carry_out(self, batch: list[_Write]) -> None:
        values: list[Any] = []

        async def all_of_them(connection: AsyncConnection) -> None:
            for write in batch:
                values.append(await write.work(connection))

        together = await attempt(self._engine, batch[0].what, all_of_them, self._lock, write=True)
        if together.error is None:
            for write, value in zip(batch, values, strict=True):
                _settle(write, Outcome(value))
        elif len(batch) == 1 or _nobody_s_fault(together.error, values):
            for write in batch:
                cause = together.error.__cause__
                error = together.error if cause is None else _explained(cause, write.what)
                _settle(write, Outcome(error=error))
        else:  # one of them cannot be written, and nothing is: each alone, so that the others are
            for write in batch:
                _settle(write, await attempt(self._engine, write.what, write.work, self._lock, write=True))


def _nobody_s_fault(error: KallglotAriError, values: list[Any]) -> bool:
    """Another program holds the lock: nothing was tried, and each one alone would wait as long again."""
    return not values and "locked" in str(error)


def _settle(write: _Write, outcome: Outcome) -> None:
    if not write.outcome.done():
        write.outcome.set_result(outcome)
