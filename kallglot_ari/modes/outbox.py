"""Sessions cost money until they are ended: each is written down before it is created, and struck out when it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict, fields, replace
from typing import Any
from urllib.parse import urlsplit

from kallglot_ari.calls.interfaces import CallStore, PendingSession, Translator
from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.clock import Clock
from kallglot_ari.errors import ApiError, ApiNotFound, ApiUnauthorized, KallglotAriError, StoreError
from kallglot_ari.log import Lasting, get, of_call
from kallglot_ari.metrics import Metrics
from kallglot_ari.tasks import Tasks

SWEEP_SECONDS = 5.0
MAX_PAUSE = 300.0
PATIENCE = 0.5
"""Seconds that a call waits for the store before it goes on."""
WATCH_SECONDS = 30.0
KEY_LIFE = 23 * 3600.0
"""Kallglot keeps an idempotency key for about 24 h. After that the same key would buy a second session, while the first, unused
for over 30 minutes, was ended by the server long ago."""
_ENDED = 1000
_AT_ONCE = 10
"""Sessions that the sweep ends at a time: after an outage of the API hundreds wait, and each of them costs money."""

_log = get(__name__)


class Outbox:
    """Creates and ends sessions so that none is forgotten, whatever fails in between, a restart included.

    A store that fails does not stop a call: the rows are kept in memory as well, and the log says so.
    """

    def __init__(
        self,
        translator: Translator,
        store: CallStore,
        metrics: Metrics,
        clock: Clock,
        *,
        prefix: str,
        embedded: str = "",
        earlier: str = "",
    ) -> None:
        """:param earlier: the prefix before names were unique; another service may have it too."""
        self._translator = translator
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._prefix = prefix
        self._embedded = embedded
        self._earlier = earlier
        self._waiting: set[str] = set()
        self._kept: set[str] = set()
        self._rows: dict[str, PendingSession] = {}
        self._not_before: dict[str, float] = {}
        self._busy: set[str] = set()
        self._unwritten: set[str] = set()
        self._ended: dict[str, None] = {}
        self._taken_over = False
        self._leaving = False
        self._watched: dict[str, tuple[float, Callable[[], set[str]]]] = {}
        self._next_look = 0.0
        self._tasks = Tasks("outbox")
        self._writes = Tasks("outbox.writes")
        self._unreadable = Lasting(_log, "outbox_unreadable", "error")
        self._slow = Lasting(_log, "store_slow")

    @property
    def pending(self) -> int:
        """Sessions that shall end and are not known to have."""
        return sum(bool(row.reason) for row in self._rows.values())

    async def start(self, waiting: Iterable[str] = ()) -> None:
        """Take over what an earlier run of this instance left behind, and begin to end it.

        :param waiting: calls that may be taken up again: their sessions are let alone until `decide`.
        """
        self._waiting = set(waiting)
        await self._take_over()
        self._tasks.spawn(self._sweep(), name="sweep")

    async def _read(self) -> list[PendingSession] | None:
        """What the store has; None, and told, when it cannot be read."""
        try:
            rows = await self._store.pending_sessions()
        except StoreError as error:
            self._unreadable.failed(str(error))
            return None
        self._unreadable.worked()
        return rows

    async def _take_over(self) -> None:
        rows = await self._read()
        if rows is None:
            return
        self._taken_over = True
        left = [row for row in rows if self._left_by_us(row) and row.key not in self._rows | self._ended]
        for row in [row for row in left if self._died_with_it(row)]:
            left.remove(row)
            await self._strike(row.key)
        let_alone = {row.key for row in left if row.call_id in self._waiting or row.key in self._kept}
        self._rows |= {row.key: row if row.key in let_alone else _to_end(row) for row in left}
        if left:
            _log.warning("sessions_left_by_an_earlier_run", count=len(left), waiting=len(let_alone))
        self._count()

    def _left_by_us(self, row: PendingSession) -> bool:
        if row.key.startswith(f"{self._prefix}-"):
            return True
        return (
            bool(self._earlier)
            and row.key.startswith(f"{self._earlier}-")
            and bool(row.reason or row.call_id in self._waiting)
        )

    def _died_with_it(self, row: PendingSession) -> bool:
        """An embedded Kallglot is gone with its process, and so are its sessions."""
        host = urlsplit(row.base_url).hostname
        return bool(self._embedded) and row.base_url != self._embedded and host in ("127.0.0.1", "::1")

    def decide(self, call_id: str, keep: Iterable[str] = ()) -> None:
        """A call that was waited for goes on with the sessions of these keys; its others are ended."""
        self._waiting.discard(call_id)
        self._kept |= set(keep)
        for key, row in self._rows.items():
            if row.call_id == call_id and key not in self._kept:
                self._rows[key] = _to_end(row)
        self._count()

    def watch(self, prefix: str, live: Callable[[], set[str]], *, only_to_end: bool = False) -> None:
        """Also end what another part of this service wrote down by itself and left: rows whose key begins with `prefix`.

        A row is left when it says that its session shall end, or when it is older than this call of `watch`.

        :param live: the keys of that part's live calls; those are let alone.
        :param only_to_end: an old row may be another service's.
        """
        self._watched[prefix] = (0.0 if only_to_end else self._clock.wall().timestamp(), live)
        self._next_look = 0.0

    def _knows(self, key: str) -> bool:
        return key in self._rows or key in self._ended

    async def _look(self) -> None:
        self._next_look = self._clock.now() + WATCH_SECONDS
        rows = await self._read()
        if rows is None:
            return
        for prefix, (since, live) in self._watched.items():
            alive = live()
            for row in rows:
                left = row.key.startswith(prefix) and row.key not in alive and not self._knows(row.key)
                if left and (row.reason or row.created_at < since):
                    self._rows[row.key] = replace(row, reason=row.reason or "error")
        self._count()

    def leave(self) -> None:
        """The calls go on in the next run: a creation that is cut off from now on is not ended, for it is asked for again there."""
        self._leaving = True

    async def stop(self, timeout: float = 5.0) -> None:
        """Try once more to end what is pending, for `timeout` seconds; the rest stays in the store."""
        deadline = self._clock.now() + timeout
        await self._tasks.close()
        for key, row in list(self._rows.items()):
            if row.reason and self._clock.now() < deadline:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(deadline - self._clock.now()):
                        await self._try(key)
        await self._writes.join(2.0)
        await self._writes.close()
        if self.pending:
            _log.warning("sessions_still_to_end", count=self.pending)

    async def create(self, key: str, call_id: str, request: SessionRequest) -> Session:
        """Create a session. :raises ApiError:"""
        self._refuse_ended(key)
        row = PendingSession(
            key=key, call_id=call_id, request=asdict(request), created_at=self._clock.wall().timestamp()
        )
        before = self._rows.get(key)
        if before is not None:  # asked again after a restart
            row = replace(row, session_id=before.session_id, base_url=before.base_url, created_at=before.created_at)
        self._rows[key] = row
        await self._quietly(key, self._store.session_intended(row))
        try:
            session = await self._translator.create_session(request, idempotency_key=key)
            self._refuse_ended(key)
            self._rows[key] = replace(row, session_id=session.id, base_url=session.base_url)
            await self._quietly(key, self._store.session_created(key, session.id, session.base_url))
        except BaseException as error:
            if isinstance(error, ApiError) and (key in self._ended or not row.session_id):
                # Nothing was asked for, so there is nothing to end: after an outage thousands of sessions would be bought for it.
                never = before is None and not error.sent
                if never or not error.retryable:
                    await self._strike(key)
                    raise
            if self._leaving and isinstance(error, asyncio.CancelledError):
                raise
            # It may have been created, and only the answer was lost or nobody waits for it: ask again later, then end it.
            self._rows[key] = replace(self._rows[key], reason="error")
            self._not_before[key] = self._clock.now() + SWEEP_SECONDS
            self._count()
            if isinstance(error, Exception):
                await self._quietly(key, self._store.session_to_end(key, "error"))
            raise
        return session

    def _refuse_ended(self, key: str) -> None:
        """A killed run may have asked under this key and not written so down: what nobody went on with was ended."""
        if key in self._ended:
            raise ApiNotFound(f"the session of {key} was ended")

    async def end(self, key: str, session_id: str, reason: str) -> None:
        """End it now if that can be; otherwise the sweep goes on trying. Never raises for an API that fails.

        Once is enough: the first reason stays, for the same idempotency key with another one is refused.
        """
        row = self._rows.get(key)
        if row is None:
            if key in self._ended or not session_id:
                return
            row = PendingSession(key=key, call_id="", session_id=session_id)
        self._rows[key] = row = replace(row, session_id=row.session_id or session_id, reason=row.reason or reason)
        reason = row.reason
        self._count()
        await self._quietly(key, self._store.session_to_end(key, reason))
        await self._try(key)

    async def _try(self, key: str) -> None:
        row = self._rows.get(key)
        if row is None or key in self._busy:
            return
        self._busy.add(key)
        try:
            with of_call(row.call_id):
                if not row.session_id:
                    row = await self._ask_again(row)
                if row.session_id:
                    await self._translator.end_session(
                        row.session_id, row.reason, base_url=row.base_url, idempotency_key=f"{key}.end"
                    )
        except ApiNotFound:
            await self._strike(key)
        except KallglotAriError as error:
            await self._failed(key, str(error))
        except Exception as error:  # noqa: BLE001 - one row that cannot be handled must not stop the sweep of all others
            _log.error("outbox_row_crashed", key=key, exc_info=error)
            await self._failed(key, type(error).__name__)
        else:
            await self._strike(key)
        finally:
            self._busy.discard(key)

    async def _ask_again(self, row: PendingSession) -> PendingSession:
        """The row with its session's id; without one if there is no such session."""
        if row.created_at and self._clock.wall().timestamp() - row.created_at > KEY_LIFE:
            return row
        try:
            session = await self._translator.create_session(_request(row.request), idempotency_key=row.key)
        except ApiError as error:
            if error.retryable or isinstance(error, ApiUnauthorized):
                raise
            return row
        self._rows[row.key] = row = replace(row, session_id=session.id, base_url=session.base_url)
        await self._quietly(row.key, self._store.session_created(row.key, session.id, session.base_url))
        return row

    async def _failed(self, key: str, why: str) -> None:
        row = self._rows[key] = replace(self._rows[key], attempts=self._rows[key].attempts + 1)
        pause = min(SWEEP_SECONDS * 2 ** min(row.attempts - 1, 10), MAX_PAUSE) * random.uniform(0.8, 1.2)
        self._not_before[key] = self._clock.now() + pause
        _log.warning(
            "session_not_ended",
            call=row.call_id,
            session=row.session_id,
            attempt=row.attempts,
            again_in=round(pause),
            error=why,
        )
        await self._quietly(key, self._store.session_attempted(key))

    async def _strike(self, key: str) -> None:
        self._ended[key] = None
        while len(self._ended) > _ENDED:
            del self._ended[next(iter(self._ended))]
        self._rows.pop(key, None)
        self._not_before.pop(key, None)
        self._count()
        await self._quietly(key, self._store.session_ended(key))

    async def _sweep(self) -> None:
        postponed = Lasting(_log, "outbox_sweep_postponed", "error")
        while True:
            try:
                await self._sweep_once()
                postponed.worked()
            except KallglotAriError as error:
                postponed.failed(str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _sweep_once(self) -> None:
        if not self._taken_over:
            await self._take_over()
        if self._watched and self._next_look <= self._clock.now():
            await self._look()
        now = self._clock.now()
        due = [k for k, row in self._rows.items() if row.reason and self._not_before.get(k, 0) <= now]
        for first in range(0, len(due), _AT_ONCE):
            await asyncio.gather(*(self._try(key) for key in due[first : first + _AT_ONCE]))
        await self._write_again()

    async def _quietly(self, key: str, writing: Coroutine[Any, Any, None]) -> None:
        """Wait for the store, but not for long: a call goes first, and what is slow is written all the same."""
        write = self._writes.spawn(self._written(key, writing), name="write")
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(write)
            self._slow.worked()
        except TimeoutError:
            self._slow.failed(f"a write takes longer than {PATIENCE:g} s")

    async def _written(self, key: str, writing: Coroutine[Any, Any, None], *, again: bool = False) -> bool:
        try:
            await writing
        except StoreError as error:
            self._unwritten.add(key)
            (_log.debug if again else _log.error)("outbox_not_written", key=key, error=str(error))
            return False
        return True

    async def _write_again(self) -> None:
        """What the store did not take, as it is now: a row that stays unwritten would be forgotten with this process."""
        for key in sorted(self._unwritten):
            self._unwritten.discard(key)
            row = self._rows.get(key)
            again = self._store.session_ended(key) if row is None else self._store.session_intended(row)
            if not await self._written(key, again, again=True):
                return

    def _count(self) -> None:
        self._metrics.sessions_pending_end.set(self.pending)


def _to_end(row: PendingSession) -> PendingSession:
    return replace(row, reason=row.reason or "error")


def _request(data: dict[str, Any] | None) -> SessionRequest:
    """Of a row that another version wrote, the fields that this one knows."""
    known = {field.name for field in fields(SessionRequest)}
    return SessionRequest(**{name: value for name, value in (data or {}).items() if name in known})
