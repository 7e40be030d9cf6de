"""A damaged SQLite file is set aside, told, and never deleted; what it still gives of the outbox is carried over.

Everything here blocks: it is called in a thread, before the engine is made.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from kallglot_ari.errors import ConfigError, StoreError
from kallglot_ari.store.failures import explain, is_corrupt

RESCUED = ("kallglot_pending_sessions", "kallglot_mappings")
"""Tables whose rows are read out of a damaged file: a session that nobody ends costs money."""

_MAGIC = b"SQLite format 3\0"
"""What a database begins with."""


@dataclass(frozen=True, slots=True)
class Rescue:
    """What was set aside, and what could be read of it: rows by table, each a dict by column."""

    aside: Path
    reason: str
    rows: dict[str, list[dict[str, object]]] = field(default_factory=dict)


def inspect(path: Path, now: datetime, busy_timeout: float) -> Rescue | None:
    """Check the file, and set it aside when it is damaged.

    :param path: may be missing: a new database will be made.
    :raises ConfigError: it is another program's. :raises StoreError: locked, or not readable.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    if _is_something_else(path):
        raise ConfigError(f"store.url: expected a SQLite database or nothing, found another kind of file at {path}")
    damage = _damage(path, busy_timeout)
    if damage is None:
        return None
    rows = _rescue(path)
    return Rescue(_set_aside(path, now), damage, rows)


def _is_something_else(path: Path) -> bool:
    """Whether it is no database and never was: one that lost its header to a crash has zeros there."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_MAGIC))
    except OSError:  # SQLite says why
        return False
    return begin != _MAGIC and any(begin)


def _damage(path: Path, busy_timeout: float) -> str | None:
    try:
        connection = _read_only(path, busy_timeout)
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if is_corrupt(error):
            return str(error)
        raise StoreError(f"store.url: {path}: {str(explain(error, 'open')).removeprefix('store: ')}") from error
    if found != "ok":
        return found
    if tables and "kallglot_schema" not in tables:
        raise ConfigError(f"store.url: {path} is another program's database (it has no table kallglot_schema)")
    return None


def _read_only(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """Anything else would replay or delete the write-ahead log of a damaged file, which whoever repairs it needs."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=busy_timeout)


def _rescue(path: Path) -> dict[str, list[dict[str, object]]]:
    rows: dict[str, list[dict[str, object]]] = {}
    try:
        connection = _read_only(path, 0)
    except sqlite3.Error:
        return rows
    try:
        connection.row_factory = sqlite3.Row
        for table in RESCUED:
            kept = rows.setdefault(table, [])
            try:
                for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608 - our own names
                    kept.append(dict(row))
            except (sqlite3.Error, UnicodeDecodeError):
                continue  # what came before the damage is kept
    finally:
        connection.close()
    return rows


def _set_aside(path: Path, now: datetime) -> Path:
    stem = f"{path.name}.corrupt-{now:%Y%m%dT%H%M%SZ}"
    aside = path.with_name(stem)
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{stem}-{number}")
    try:
        # Its log first: under the new name it would be replayed into the new database. SQLite finds it under the
        # file's own name, so whoever repairs the file later has both.
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise StoreError(f"store: {path} is damaged and cannot be set aside: {error.strerror}") from error
    return aside
