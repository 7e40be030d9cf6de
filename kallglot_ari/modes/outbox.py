"""Sessions cost money until they are ended: each is written down before it is created, and struck out when it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import asdict, replace
from typing import Any

from kallglot_ari.calls.interfaces import CallStore, PendingSession, Translator
from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.clock import Clock
from kallglot_ari.errors import ApiError, ApiNotFound, KallglotAriError, StoreError
from kallglot_ari.log import get
from kallglot_ari.metrics import Metrics
from kallglot_ari.tasks import Tasks

SWEEP_SECONDS = 5.0
MAX_PAUSE = 300.0

_log = get(__name__)


class Outbox:
    """Creates and ends sessions so that none is forgotten, whatever fails in between, a restart included.

    A store that fails does not stop a call: the rows are kept in memory as well, and the log says so.
    """

    def __init__(
        self, translator: Translator, store: CallStore, metrics: Metrics, clock: Clock, *, prefix: str
    ) -> None:
        self._translator = translator
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._prefix = prefix
        self._rows: dict[str, PendingSession] = {}
        self._not_before: dict[str, float] = {}
        self._busy: set[str] = set()
        self._tasks = Tasks("outbox")
        self._wake = asyncio.Event()

    @property
    def pending(self) -> int:
        """Sessions that shall end and are not known to have."""
        return sum(bool(row.reason) for row in self._rows.values())

    async def start(self) -> None:
        """Take over what an earlier run of this instance left behind, and begin to end it."""
        try:
            for row in await self._store.pending_sessions():
                if row.key.startswith(self._prefix):
                    self._rows[row.key] = replace(row, reason=row.reason or "error")
        except StoreError as error:
            _log.error("outbox_unreadable", error=str(error))
        if self._rows:
            _log.warning("sessions_left_by_an_earlier_run", count=len(self._rows))
        self._count()
        self._tasks.spawn(self._sweep(), name="sweep")

    async def stop(self, timeout: float = 5.0) -> None:
        """Try once more to end what is pending, for `timeout` seconds; the rest stays in the store."""
        deadline = self._clock.now() + timeout
        self._not_before.clear()
        self._wake.set()
        for key in list(self._rows):
            if self._rows[key].reason and self._clock.now() < deadline:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(deadline - self._clock.now()):
                        await self._try(key)
        await self._tasks.close()
        if self.pending:
            _log.warning("sessions_still_to_end", count=self.pending)

    async def create(self, key: str, call_id: str, request: SessionRequest) -> Session:
        """Create a session. :raises ApiError:"""
        row = PendingSession(
            key=key, call_id=call_id, request=asdict(request), created_at=self._clock.wall().timestamp()
        )
        self._rows[key] = row
        await self._quietly(self._store.session_intended(row))
        try:
            session = await self._translator.create_session(request, idempotency_key=key)
        except ApiError as error:
            if error.retryable:
                # It may have been created and only the answer was lost: ask again later, then end it.
                self._rows[key] = replace(row, reason="error")
                self._not_before[key] = self._clock.now() + SWEEP_SECONDS
                await self._quietly(self._store.session_to_end(key, "error"))
            else:
                await self._strike(key)
            self._count()
            raise
        except asyncio.CancelledError:
            self._rows[key] = replace(row, reason="error")
            raise
        self._rows[key] = replace(row, session_id=session.id, base_url=session.base_url)
        await self._quietly(self._store.session_created(key, session.id, session.base_url))
        return session

    async def end(self, key: str, session_id: str, reason: str) -> None:
        """End it now if that can be; otherwise the sweep goes on trying. Never raises for an API that fails."""
        row = self._rows.get(key) or PendingSession(key=key, call_id="", session_id=session_id)
        self._rows[key] = replace(row, reason=reason)
        self._count()
        await self._quietly(self._store.session_to_end(key, reason))
        await self._try(key)

    async def _try(self, key: str) -> None:
        row = self._rows.get(key)
        if row is None or key in self._busy:
            return
        self._busy.add(key)
        try:
            session_id, base_url = row.session_id, row.base_url
            if not session_id:
                session = await self._translator.create_session(_request(row.request), idempotency_key=key)
                session_id, base_url = session.id, session.base_url
            await self._translator.end_session(session_id, row.reason, base_url=base_url, idempotency_key=f"{key}.end")
        except KallglotAriError as error:
            if isinstance(error, ApiNotFound) or (
                not row.session_id and isinstance(error, ApiError) and not error.retryable
            ):
                await self._strike(key)
                return
            attempts = row.attempts + 1
            pause = min(SWEEP_SECONDS * 2 ** min(attempts - 1, 10), MAX_PAUSE) * random.uniform(0.8, 1.2)
            self._rows[key] = replace(row, attempts=attempts)
            self._not_before[key] = self._clock.now() + pause
            _log.warning(
                "session_not_ended", session=row.session_id, attempt=attempts, again_in=round(pause), error=str(error)
            )
            await self._quietly(self._store.session_attempted(key))
        else:
            await self._strike(key)
        finally:
            self._busy.discard(key)

    async def _strike(self, key: str) -> None:
        self._rows.pop(key, None)
        self._not_before.pop(key, None)
        self._count()
        await self._quietly(self._store.session_ended(key))

    async def _sweep(self) -> None:
        while True:
            now = self._clock.now()
            due = [k for k, row in self._rows.items() if row.reason and self._not_before.get(k, 0) <= now]
            for key in due[:20]:
                await self._try(key)
            self._wake.clear()
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _quietly(self, writing: Any) -> None:
        try:
            await writing
        except StoreError as error:
            _log.error("outbox_not_written", error=str(error))

    def _count(self) -> None:
        self._metrics.sessions_pending_end.set(self.pending)


def _request(data: dict[str, Any] | None) -> SessionRequest:
    return SessionRequest(**(data or {}))
