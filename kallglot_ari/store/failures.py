"""What a database says when it fails, in one line that says what to do; never with the URL's password."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from kallglot_ari.errors import ConfigError, KallglotAriError, StoreError

CORRUPT = ("malformed", "not a database", "database corruption", "unsupported file format")
"""Words of SQLite's messages for a file that cannot be used any more (SQLITE_CORRUPT, SQLITE_NOTADB)."""


def is_corrupt(error: BaseException) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and any(words in str(error).lower() for words in CORRUPT)


def explain(error: BaseException, what: str) -> KallglotAriError:
    """The project's error for `error`, which came while doing `what`."""
    if isinstance(error, KallglotAriError):
        return error
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig
        if not isinstance(cause, sqlite3.Error):
            cause = cause.__cause__ or cause
    if isinstance(error, PoolTimeout):
        return StoreError(f"store: {what}: every connection to the database is in use")
    if isinstance(cause, sqlite3.Error):
        return _sqlite(cause, what)
    return _postgresql(cause, what)


def _sqlite(error: sqlite3.Error, what: str) -> StoreError:
    said = str(error)
    if is_corrupt(error):
        hint = "the file is damaged; when the service is started again it sets the file aside and begins a new one"
    elif "locked" in said:
        hint = "another program holds the database; expected it to let go within the busy time-out"
    elif "disk is full" in said or "full" in said:
        hint = "the disk is full; make room, nothing else is needed"
    elif "readonly" in said:
        hint = "the file or its folder cannot be written by this user"
    elif "unable to open" in said:
        hint = "the file cannot be opened: folder missing, no permission, or no file descriptor left"
    else:
        return StoreError(f"store: {what}: {said}")
    return StoreError(f"store: {what}: {said}: {hint}")


_REFUSED = {
    "28P01": "wrong user or password",
    "28000": "the server does not let this user in",
    "3D000": "there is no such database",
    "42501": "the user may not do this",
}


def _postgresql(error: BaseException, what: str) -> KallglotAriError:
    state = str(getattr(error, "sqlstate", "") or "")
    if state in _REFUSED:
        return ConfigError(f"store.url: PostgreSQL: {_REFUSED[state]} ({what})")
    if isinstance(error, TimeoutError):
        return StoreError(f"store: {what}: the database did not answer in time")
    if isinstance(error, OSError):
        return StoreError(f"store: {what}: the database cannot be reached: {error.strerror or type(error).__name__}")
    if isinstance(error, SQLAlchemyError):
        return StoreError(f"store: {what}: {type(error).__name__}")
    first = (str(error).splitlines() or [""])[0]
    return StoreError(f"store: {what}: {first or type(error).__name__}")
