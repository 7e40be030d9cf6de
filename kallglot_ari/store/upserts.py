"""What inserts a row or replaces it, one statement for all rows.

A statement that is made anew for each row leaves a hundred objects, some for every column, that only the garbage collector frees.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from sqlalchemy import ColumnElement, Table, bindparam, func, or_
from sqlalchemy.dialects import postgresql, sqlite

from kallglot_ari.calls.model import CallState
from kallglot_ari.store import schema

Insert = sqlite.Insert | postgresql.Insert


@cache
def of(dialect: str) -> Upserts:
    """Made at their first use."""
    return Upserts(dialect)


class Upserts:
    """Of one dialect; their parameters are rows."""

    def __init__(self, dialect: str) -> None:
        self._postgresql = dialect == "postgresql"
        self.call = self._call()
        self.turn = self._replacing(schema.turns, ("call_id", "fingerprint"), ("turn",))
        self.session_created = self._replacing(schema.pending, ("key",), ("session_id", "base_url"))
        self.session_intended = self._intended()
        self.mapping = self._replacing(schema.mappings, ("kind", "key"), ("value", "expires_at"))
        self.new_mapping = self.new(schema.mappings)
        self.seen = self._seen()
        """Its parameters: the row, and `forgotten`, when an event must have been seen to be taken as new."""

    def new(self, table: Table) -> Insert:
        """A row that is there already stays as it is."""
        return self._into(table).on_conflict_do_nothing()

    def _into(self, table: Table) -> Insert:
        return postgresql.insert(table) if self._postgresql else sqlite.insert(table)

    def _replacing(self, table: Table, index: Iterable[str], changed: Iterable[str]) -> Insert:
        insert = self._into(table)
        return insert.on_conflict_do_update(
            index_elements=list(index), set_={name: insert.excluded[name] for name in changed}
        )

    def _call(self) -> Insert:
        """A call that has ended stays so: of writes that PostgreSQL is given at once, an earlier one may come last."""
        table = schema.calls
        insert = self._into(table)
        return insert.on_conflict_do_update(
            index_elements=["id"],
            set_={name: insert.excluded[name] for name in ("session_id", "state", "started_at", "view")},
            where=or_(table.c.state != CallState.ENDED, insert.excluded.state == CallState.ENDED),
        )

    def _intended(self) -> Insert:
        """What is known of a session already is not replaced by nothing."""
        table = schema.pending
        insert = self._into(table)
        changed: dict[str, ColumnElement[object]] = {
            name: insert.excluded[name] for name in ("call_id", "request", "attempts")
        }
        for name in ("session_id", "base_url", "reason"):
            changed[name] = func.coalesce(func.nullif(insert.excluded[name], ""), table.c[name])
        return insert.on_conflict_do_update(index_elements=["key"], set_=changed)

    def _seen(self) -> Insert:
        table = schema.seen_events
        insert = self._into(table)
        return insert.on_conflict_do_update(
            index_elements=["id"], set_={"at": insert.excluded.at}, where=table.c.at <= bindparam("forgotten")
        )
