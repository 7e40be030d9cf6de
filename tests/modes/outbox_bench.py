"""An outbox between a Kallglot and a store in memory, both of which fail when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.clock import ManualClock
from kallglot_ari.errors import (
    StoreError,
)
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.outbox import MAX_PAUSE, Outbox
from tests.modes.trunk_fakes import FakeStore, FakeTranslator

REQUEST = SessionRequest(source_language="de", target_language="en", metadata={"ticket": "7"})
KEY = "kg-a-1.k1"


class Kallglot(FakeTranslator):
    """Remembers keys as the API does, and can lose answers, fail a number of times, or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.lose_answer: Exception | None = None
        self.end_errors: list[Exception] = []
        self.create_keys: list[str] = []
        self.end_keys: list[str] = []

    async def create_session(self, request: SessionRequest, *, idempotency_key: str) -> Session:
        self.create_keys.append(idempotency_key)
        session = await super().create_session(request, idempotency_key=idempotency_key)
        if self.lose_answer is not None:
            error, self.lose_answer = self.lose_answer, None
            raise error
        return session

    async def end_session(
        self, session_id: str, reason: str, *, base_url: str = "", idempotency_key: str = ""
    ) -> dict[str, Any]:
        self.end_keys.append(idempotency_key)
        assert base_url == "https://a", "a session is ended where it was created"
        if self.end_errors:
            raise self.end_errors.pop(0)
        return await super().end_session(session_id, reason, base_url=base_url, idempotency_key=idempotency_key)


class Store(FakeStore):
    """Unknown keys are harmless, as the Protocol says; attempts are counted; reads can fail too."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def session_created(self, key: str, session_id: str, base_url: str) -> None:
        self._write("created")
        await self.gate.wait()
        if key in self.pending:
            self.pending[key] = replace(self.pending[key], session_id=session_id, base_url=base_url)

    async def session_to_end(self, key: str, reason: str) -> None:
        self._write("to_end")
        if key in self.pending:
            self.pending[key] = replace(self.pending[key], reason=reason)

    async def session_attempted(self, key: str) -> None:
        self._write("attempted")
        if key in self.pending:
            self.pending[key] = replace(self.pending[key], attempts=self.pending[key].attempts + 1)

    async def pending_sessions(self) -> list[PendingSession]:
        if self.unreadable:
            raise StoreError("locked")
        return await super().pending_sessions()


class Bench:
    """An outbox with everything it needs, and a hand on the clock."""

    def __init__(self) -> None:
        self.kallglot, self.store, self.metrics, self.clock = Kallglot(), Store(), Metrics(), ManualClock()
        self.outbox = self.another()

    def another(self) -> Outbox:
        return Outbox(self.kallglot, self.store, self.metrics, self.clock, prefix="kg-a")

    async def creates(self, stage: str) -> tuple[asyncio.Event, asyncio.Task[Session]]:
        """A creation under way that waits for its answer (`creation`) or for the store to note it (`note`); what it waits for, and it."""
        await self.outbox.start()
        gate = self.kallglot.gate if stage == "creation" else self.store.gate
        gate.clear()
        creating = asyncio.get_running_loop().create_task(self.outbox.create(KEY, "kg-a-1", REQUEST))
        await self.kallglot.asked.wait()
        await asyncio.sleep(0)
        return gate, creating

    async def until(self, condition: Callable[[], object], *, step: float = MAX_PAUSE) -> None:
        """Let the time go on, `step` seconds a sweep, until `condition` holds."""
        async with asyncio.timeout(5):
            while not condition():
                self.clock.advance(step)
                await asyncio.sleep(0.002)

    @property
    def gauge(self) -> float | None:
        return self.metrics.registry.get_sample_value("kallglot_sessions_pending_end")

    def settled(self) -> bool:
        """Nothing costs money, nothing is left to do."""
        return not (self.kallglot.open or self.store.pending or self.outbox.pending or self.gauge)
