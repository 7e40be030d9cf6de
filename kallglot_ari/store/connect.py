"""From `store.url` to an engine: SQLite in WAL with a full sync at each commit, or PostgreSQL over asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool
from sqlalchemy.util import await_only

from kallglot_ari.errors import ConfigError

WRITE = "kallglot_write"
"""Execution option of a transaction that writes: in SQLite it takes the write lock at once, so that it cannot fail half-way."""
CONNECTIONS = 5
"""Kept open; PostgreSQL may have as many again."""
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_BUSY_RECOVERY)
_CACHE = 128
"""KiB of the file that each connection keeps; SQLite would keep 2,000, and the system has them anyway."""
_AGAIN = 0.01
"""Seconds between two attempts to turn a file to WAL."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the data lives. Either `path` (SQLite; None with `memory`) or `url` (PostgreSQL)."""

    path: Path | None = None
    memory: bool = False
    url: URL | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def sqlite(self) -> bool:
        return self.url is None

    @property
    def place(self) -> str:
        """As an error may show it: a file, or a host and a database, without user and password."""
        if self.url is None:
            return str(self.path or ":memory:")
        port = f":{self.url.port}" if self.url.port else ""
        return f"PostgreSQL {self.url.host or 'on this machine'}{port}, database {self.url.database}"


def parse(url: str) -> Target:
    """Read `store.url`.

    :raises ConfigError: names what was expected; never shows a password.
    """
    if url.startswith("sqlite:///"):
        return _sqlite(url.removeprefix("sqlite:///"))
    parts = urlsplit(url)
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ConfigError(
            "store.url: expected /, ? and # of a user or password as %2F, %3F and %23 (elsewhere @ as %40)"
        )
    try:
        port = parts.port
    except ValueError:
        raise ConfigError("store.url: expected a port number after the host") from None
    database = unquote(parts.path.lstrip("/"))
    if parts.scheme != "postgresql" or not database:
        raise ConfigError(
            "store.url: expected sqlite:///FILE, or postgresql://HOST:PORT/DATABASE with USER:PASSWORD@ before the host"
        )
    host = parts.hostname
    options: list[tuple[str, Any]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "sslmode":
            options.append(("ssl", value))
        elif name == "host":
            host = value
        else:
            raise ConfigError(f"store.url: unknown option {name!r}; expected sslmode or host")
    return Target(
        url=URL.create(
            "postgresql+asyncpg",
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            host=host,
            port=port,
            database=database,
        ),
        options=tuple(options),
    )


def _sqlite(name: str) -> Target:
    if name == ":memory:":
        return Target(memory=True)
    if not name or "?" in name or "\x00" in name:
        raise ConfigError(f"store.url: expected sqlite:///FILE, found sqlite:///{name}")
    path = Path(unquote(name)).absolute()
    if path.is_dir():
        raise ConfigError(f"store.url: expected a file, {path} is a folder")
    if path.exists() and not path.is_file():
        raise ConfigError(f"store.url: expected an ordinary file, found something else at {path}")
    if not path.parent.is_dir():
        raise ConfigError(f"store.url: the folder {path.parent} does not exist; make it, or name another file")
    return Target(path=path)


def make(path: Path) -> None:
    """A new database, with access for its owner alone, where there is none; what SQLite puts beside it has the same. It asks the disk."""
    with contextlib.suppress(OSError):  # there is one; or else SQLite says why not
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def engine_of(target: Target, *, busy_timeout: float) -> AsyncEngine:
    """An engine that has not connected yet. `busy_timeout` in seconds."""
    if target.sqlite:
        return _sqlite_engine(target, busy_timeout)
    assert target.url is not None
    try:
        return create_async_engine(
            target.url,
            pool_pre_ping=True,
            pool_size=CONNECTIONS,
            max_overflow=CONNECTIONS,
            pool_timeout=busy_timeout,
            hide_parameters=True,
            connect_args={
                "timeout": busy_timeout,
                "command_timeout": busy_timeout,
                # A commit is on disk when it returns, whatever the server's default is.
                "server_settings": {"application_name": "kallglot-ari", "synchronous_commit": "on"},
                **dict(target.options),
            },
        )
    except ModuleNotFoundError:
        raise ConfigError("store.url: PostgreSQL needs the asyncpg package: install kallglot-ari[postgresql]") from None


def _sqlite_engine(target: Target, busy_timeout: float) -> AsyncEngine:
    name = ":memory:" if target.memory else str(target.path)
    pool: dict[str, Any] = (
        {"poolclass": StaticPool}
        if target.memory
        else {"pool_size": CONNECTIONS, "max_overflow": 0, "pool_timeout": busy_timeout * 2, "pool_use_lifo": True}
    )
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=name),
        hide_parameters=True,
        connect_args={"timeout": busy_timeout},
        **pool,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun by us, below
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={int(busy_timeout * 1000)}")
        _to_wal(cursor, time.monotonic() + busy_timeout)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA cache_size=-{_CACHE}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _to_wal(cursor: Any, deadline: float) -> None:
    """Two programs that turn a new file to WAL at once: SQLite tells one of them at once that it is locked, whatever its time-out."""
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in _LOCKED or time.monotonic() >= deadline:
                raise
            await_only(asyncio.sleep(_AGAIN))
