"""`calls.interfaces.CallStore` on SQLite and PostgreSQL.

Every write is all or nothing, and on disk when the method returns. A caller that is cancelled, or that gives up after `patience`, leaves
its write to finish in the background; a call's record or a turn that the database refuses is written when it is back. In SQLite our own
writers take turns, and those that wait for their turn share the next commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, TypeVar

from sqlalchemy import Select, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kallglot_ari import log
from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.calls.model import CallState, CallView, TranscriptTurn
from kallglot_ari.clock import Clock
from kallglot_ari.errors import ConfigError, KallglotAriError, StoreError
from kallglot_ari.settings import StoreSettings
from kallglot_ari.store import connect, damage, migrations, rows, schema, upserts
from kallglot_ari.store.later import Later, Row
from kallglot_ari.store.upserts import Insert, Upserts
from kallglot_ari.store.writer import Outcome, Writer, attempt
from kallglot_ari.tasks import Tasks

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

SEEN_SECONDS = 3 * 86400.0
"""How long a webhook's id is remembered: longer than its 8 deliveries take (about 41 h)."""
LIST_MAX = 1000
_RETENTION_EVERY = 3600.0
_SET_AHEAD = 86400.0
"""Seconds by which the clock may be set ahead between two looks at what is old."""
_RETENTION_BATCH = 500

_DELETE_MAPPING = delete(schema.mappings).where(
    schema.mappings.c.kind == bindparam("of"), schema.mappings.c.key == bindparam("named")
)

_log = log.get(__name__)


def open_store(
    settings: StoreSettings,
    clock: Clock,
    *,
    retention_days: float = 90,
    busy_timeout: float = 5.0,
    patience: float = 20.0,
) -> Store:
    """The store that `settings.url` names; nothing is opened before `Store.start`.

    :param retention_days: ended calls older than this are deleted with their transcripts; 0 keeps them for ever.
    :param busy_timeout: seconds to wait for another program's lock, a connection, or an answer of PostgreSQL.
    :param patience: seconds after which a method gives up waiting, whatever hangs.
    """
    return Store(settings, clock, retention_days=retention_days, busy_timeout=busy_timeout, patience=patience)


class Store:
    """Made by `open_store`. Every method :raises StoreError: when the database fails; the message says how."""

    def __init__(
        self, settings: StoreSettings, clock: Clock, *, retention_days: float, busy_timeout: float, patience: float
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._retention_days = retention_days
        self._busy_timeout = busy_timeout
        self._patience = patience
        self._engine: AsyncEngine | None = None
        self._writer: Writer | None = None
        self._one_reader: asyncio.Lock | None = None
        self._up = False
        self._later = Later(self._execute)
        self._tasks = Tasks("store")
        self._background = Tasks("store.background")

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the database, set a damaged file aside, bring the schema up to date.

        :raises ConfigError: `store.url` cannot be used as it stands. :raises StoreError: it may work later.
        """
        if self._engine is not None:
            return
        target = connect.parse(self._settings.url)
        rescue = None
        if target.path is not None:
            rescue = await asyncio.to_thread(damage.inspect, target.path, self._clock.wall(), self._busy_timeout)
            await asyncio.to_thread(connect.make, target.path)
        engine = connect.engine_of(target, busy_timeout=self._busy_timeout)
        if target.sqlite:
            turn = asyncio.Lock()
            self._writer = Writer(engine, turn, self._tasks)
            self._one_reader = turn if target.memory else None
        self._engine = engine
        try:
            now = self._clock.wall().timestamp()
            if steps := await self._write("migrate", lambda c: migrations.migrate(c, now)):
                _log.info("store_migrated", steps=steps, database=engine.dialect.name)
            if rescue is not None:
                await self._carry_over(rescue)
        except StoreError as error:
            await self.close()
            raise StoreError(f"store.url: {target.place}: {str(error).removeprefix('store: ')}") from error
        except KallglotAriError:
            await self.close()
            raise
        self._up = True
        self._background.spawn(self._later.run(), name="later")
        self._background.spawn(self._keep_retention(), name="retention")

    async def close(self) -> None:
        """Let what is being written finish, then disconnect. Harmless when closed already."""
        engine = self._engine
        if engine is None:
            return
        await self._background.close()
        if self._later:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._busy_timeout):
                    await self._later.write()
        if self._later:
            _log.error("store_writes_lost", writes=len(self._later))
        if self._engine is not engine:
            return
        self._engine, self._up = None, False
        await self._tasks.join(self._busy_timeout)
        await self._tasks.close()
        if self._writer is not None:
            self._writer.close()
        await engine.dispose()

    async def _carry_over(self, rescue: damage.Rescue) -> None:
        counts = {table: len(found) for table, found in rescue.rows.items()}
        _log.error(
            "store_damaged_file_set_aside", file=str(rescue.aside), reason=rescue.reason, rows_carried_over=counts
        )

        async def work(connection: AsyncConnection) -> None:
            for name, found in rescue.rows.items():
                table = schema.metadata.tables[name]
                for row in found:
                    known = {c.name: row[c.name] for c in table.columns if c.name in row}
                    await connection.execute(self._upserts.new(table).values(known))

        await self._write("carry over", work)

    # --- calls --------------------------------------------------------------------------------------------------------

    async def save_call(self, call: CallView) -> None:
        await self._keep_at_it(("call", call.id), "save call", self._upserts.call, rows.call_row(call))

    async def get_call(self, call_id: str) -> CallView | None:
        c = schema.calls.c
        query = select(c.view).where(c.id == rows.clean(call_id))
        view = await self._read("get call", lambda c: c.scalar(query))
        return None if view is None else rows.call_of(view)

    async def list_calls(self, *, limit: int = 100, active: bool | None = None) -> list[CallView]:
        """:param limit: at most 1,000."""
        c = schema.calls.c
        query = select(c.view).order_by(c.started_at.desc(), c.id.desc()).limit(max(0, min(limit, LIST_MAX)))
        if active is not None:
            ended = c.state == CallState.ENDED.value
            query = query.where(~ended if active else ended)

        async def work(connection: AsyncConnection) -> list[str]:
            return list((await connection.execute(query)).scalars())

        calls = []
        for number, view in enumerate(await self._read("list calls", work)):
            if number % 50 == 49:
                await asyncio.sleep(0)  # a thousand calls take longer to parse than the media may wait
            calls.append(rows.call_of(view))
        return calls

    async def add_turn(self, call_id: str, turn: TranscriptTurn, at: float) -> None:
        """:param at: Unix seconds. The same turn again (same id, speaker and words) replaces the first in its place."""
        row = rows.turn_row(call_id, turn, at)
        await self._keep_at_it(("turn", call_id, str(row["fingerprint"])), "add turn", self._upserts.turn, row)

    async def turns(self, call_id: str) -> list[dict[str, Any]]:
        """``{sequence, id, speaker, language, text, translation {language, text} or None, timestamp}`` each, in order."""
        c = schema.turns.c
        query = select(c.at, c.turn).where(c.call_id == rows.clean(call_id)).order_by(c.n)

        async def work(connection: AsyncConnection) -> list[tuple[float, str]]:
            return [(at, turn) for at, turn in await connection.execute(query)]

        found = await self._read("turns", work)
        return [rows.turn_json(number, at, turn) for number, (at, turn) in enumerate(found, 1)]

    # --- the outbox ---------------------------------------------------------------------------------------------------

    async def session_intended(self, pending: PendingSession) -> None:
        """Written before the request that creates the session. Again with the same key: what is known already is kept."""
        await self._execute("session intended", self._upserts.session_intended, rows.pending_row(pending))

    async def session_created(self, key: str, session_id: str, base_url: str) -> None:
        """A key that is not there is entered: whatever went wrong before, a session that exists must be ended."""
        new = PendingSession(key, "", session_id, base_url, created_at=self._clock.wall().timestamp())
        await self._execute("session created", self._upserts.session_created, rows.pending_row(new))

    async def session_to_end(self, key: str, reason: str) -> None:
        t = schema.pending
        await self._execute(
            "session to end", update(t).where(t.c.key == rows.clean(key)).values(reason=rows.clean(reason))
        )

    async def session_ended(self, key: str) -> None:
        t = schema.pending
        await self._execute("session ended", delete(t).where(t.c.key == rows.clean(key)))

    async def session_attempted(self, key: str) -> None:
        t = schema.pending
        await self._execute(
            "session attempted", update(t).where(t.c.key == rows.clean(key)).values(attempts=t.c.attempts + 1)
        )

    async def pending_sessions(self) -> list[PendingSession]:
        """The oldest first."""
        query = select(schema.pending).order_by(schema.pending.c.created_at, schema.pending.c.key)

        async def work(connection: AsyncConnection) -> list[PendingSession]:
            return [rows.pending_of(row) for row in (await connection.execute(query)).mappings()]

        return await self._read("pending sessions", work)

    # --- mappings -----------------------------------------------------------------------------------------------------

    async def put_mapping(self, kind: str, key: str, value: dict[str, Any], *, expires_at: float | None = None) -> bool:
        row = {"kind": rows.clean(kind), "key": rows.clean(key), "value": rows.dump(value), "expires_at": expires_at}
        return await self._execute("put mapping", self._upserts.new_mapping, row) > 0

    async def update_mapping(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Its expiry stays; a mapping that is not there stays away."""
        await self._execute(
            "update mapping", update(schema.mappings).where(*_mapping(kind, key)).values(value=rows.dump(value))
        )

    async def write_mappings(
        self, kind: str, changes: Mapping[str, dict[str, Any] | None], *, expires_at: float | None = None
    ) -> None:
        """In one transaction; those that are replaced get this expiry."""
        gone = [{"of": rows.clean(kind), "named": rows.clean(key)} for key, value in changes.items() if value is None]
        new = [
            {"kind": rows.clean(kind), "key": rows.clean(key), "value": rows.dump(value), "expires_at": expires_at}
            for key, value in changes.items()
            if value is not None
        ]

        replace = self._upserts.mapping

        async def work(connection: AsyncConnection) -> None:
            if gone:
                await connection.execute(_DELETE_MAPPING, gone)
            if new:
                await connection.execute(replace, new)

        await self._write("write mappings", work)

    async def get_mapping(self, kind: str, key: str) -> dict[str, Any] | None:
        query = select(schema.mappings.c.value).where(*_mapping(kind, key))
        value = await self._read("get mapping", lambda c: c.scalar(query))
        return None if value is None else rows.load(value)

    async def delete_mapping(self, kind: str, key: str) -> bool:
        """True when it was there."""
        return await self._execute("delete mapping", delete(schema.mappings).where(*_mapping(kind, key))) > 0

    async def mappings(self, kind: str) -> dict[str, dict[str, Any]]:
        c = schema.mappings.c
        return await self._mappings(select(c.key, c.value).where(c.kind == rows.clean(kind)).order_by(c.key))

    async def expired_mappings(self, kind: str, now: float) -> dict[str, dict[str, Any]]:
        """Those whose `expires_at` has come; they stay until they are deleted."""
        c = schema.mappings.c
        query = select(c.key, c.value).where(c.kind == rows.clean(kind), c.expires_at <= now).order_by(c.key)
        return await self._mappings(query)

    async def _mappings(self, query: Select[str, str]) -> dict[str, dict[str, Any]]:
        async def work(connection: AsyncConnection) -> dict[str, dict[str, Any]]:
            return {key: rows.load(value) for key, value in await connection.execute(query)}

        return await self._read("mappings", work)

    # --- webhooks, health, retention ----------------------------------------------------------------------------------

    async def seen_once(self, event_id: str, now: float) -> bool:
        row = {"id": rows.clean(event_id), "at": now, "forgotten": now - SEEN_SECONDS}
        return await self._execute("seen once", self._upserts.seen, row) > 0

    async def check(self) -> None:
        await self.put_mapping("_check", "_check", {})
        await self.delete_mapping("_check", "_check")

    async def delete_old(self) -> int:
        """Apply the retention now; returns the calls deleted. Ids and data of webhooks past their time go too."""
        now = self._clock.wall().timestamp()
        seen = schema.seen_events
        await self._execute("forget events", delete(seen).where(seen.c.at <= now - SEEN_SECONDS))
        kept = schema.mappings.c
        await self._execute(
            "forget webhooks", delete(schema.mappings).where(kept.kind.startswith("webhook:"), kept.expires_at <= now)
        )
        deleted = 0
        if self._retention_days <= 0:
            return deleted
        c = schema.calls.c
        old = select(c.id).where(c.started_at < now - self._retention_days * 86400).limit(_RETENTION_BATCH)

        async def work(connection: AsyncConnection) -> int:
            ids = list((await connection.execute(old)).scalars())
            await connection.execute(delete(schema.turns).where(schema.turns.c.call_id.in_(ids)))
            await connection.execute(delete(schema.calls).where(c.id.in_(ids)))
            return len(ids)

        while batch := await self._write("retention", work):
            deleted += batch
        return deleted

    async def _keep_retention(self) -> None:
        """A clock that was set far ahead since the last look may be wrong for a moment: what it makes old stays until the next."""
        before = inf
        while True:
            apart = self._clock.wall().timestamp() - self._clock.now()
            ahead, before = apart - before, apart
            try:
                if ahead > _SET_AHEAD:
                    _log.warning("store_retention_postponed", clock_set_ahead=round(ahead))
                elif deleted := await self.delete_old():
                    _log.info("store_old_calls_deleted", calls=deleted, days=self._retention_days)
            except KallglotAriError as error:
                _log.warning("store_retention_failed", error=str(error))
            await asyncio.sleep(_RETENTION_EVERY)

    # --- transactions -------------------------------------------------------------------------------------------------

    @property
    def _upserts(self) -> Upserts:
        return upserts.of(self._opened().dialect.name)

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreError("store: it is not open")
        return self._engine

    async def _keep_at_it(self, key: tuple[str, ...], what: str, statement: Insert, row: Row) -> None:
        self._later.begins(key, row)
        try:
            await self._execute(what, statement, row)
        except StoreError:
            if self._engine is not None:
                self._later.keep(key, what, statement, row)
            raise
        finally:
            self._later.ends(key, row)

    async def _execute(self, what: str, statement: Any, row: Row | None = None) -> int:
        """Run one statement, with the values of a row; returns the rows it touched."""

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement, row)).rowcount

        return await self._write(what, work)

    async def _write(self, what: str, work: Work[T]) -> T:
        engine = self._opened()
        if self._writer is not None:
            waiting = self._writer.put(what, work)
        else:
            waiting = self._start(engine, what, work, None, write=True)
        value: T = await self._outcome(what, waiting)
        return value

    async def _read(self, what: str, work: Work[T]) -> T:
        value: T = await self._outcome(what, self._start(self._opened(), what, work, self._one_reader, write=False))
        return value

    def _start(
        self, engine: AsyncEngine, what: str, work: Work[T], lock: asyncio.Lock | None, *, write: bool
    ) -> asyncio.Future[Outcome]:
        return self._tasks.spawn(attempt(engine, what, work, lock, write=write), name=what.replace(" ", "_"))

    async def _outcome(self, what: str, waiting: asyncio.Future[Outcome]) -> Any:
        done, _ = await asyncio.wait({waiting}, timeout=self._patience)
        if not done:
            raise StoreError(f"store: {what}: the database did not answer within {self._patience:g} s")
        if waiting.cancelled():
            raise StoreError(f"store: {what}: the store was closed")
        outcome = waiting.result()
        if self._up and isinstance(outcome.error, ConfigError):
            # it let us in before: a password, a grant or a database may come back
            raise StoreError(str(outcome.error)) from outcome.error
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


def _mapping(kind: str, key: str) -> tuple[Any, Any]:
    c = schema.mappings.c
    return c.kind == rows.clean(kind), c.key == rows.clean(key)
