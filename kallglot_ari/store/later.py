"""What the database refused and nobody else will write again: calls' records and transcripts, written when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kallglot_ari import log
from kallglot_ari.errors import KallglotAriError

AGAIN = 5.0
"""Seconds between two attempts."""
KEPT_MAX = 5000
"""Writes kept; beyond it the oldest is lost, and told."""

Row = Mapping[str, Any]

_log = log.get(__name__)


class Later:
    """Keeps the newest write of each key. `execute` makes it again: what it is, the statement, and its row."""

    def __init__(self, execute: Callable[[str, Any, Row], Awaitable[Any]]) -> None:
        self._execute = execute
        self._kept: dict[tuple[str, ...], tuple[str, Any, Row]] = {}
        self._under_way: dict[tuple[str, ...], Row] = {}
        """The newest of each key that somebody writes himself."""

    def __len__(self) -> int:
        return len(self._kept)

    def begins(self, key: tuple[str, ...], row: Row) -> None:
        """`row` is being written: what is kept under `key`, or fails from now on, is older."""
        self._kept.pop(key, None)
        self._under_way[key] = row

    def ends(self, key: tuple[str, ...], row: Row) -> None:
        """`row` is written, or given up."""
        if self._under_way.get(key) is row:
            del self._under_way[key]

    def keep(self, key: tuple[str, ...], what: str, statement: Any, row: Row) -> None:
        """To be written later, unless something newer is under way."""
        if self._under_way.get(key) is not row:
            return
        self._kept[key] = what, statement, row
        while len(self._kept) > KEPT_MAX:
            lost = next(iter(self._kept))
            del self._kept[lost]
            _log.error("store_write_lost", what=" ".join(lost))

    async def run(self) -> None:
        """Write what is kept, every few seconds; ends by cancellation only."""
        while True:
            await asyncio.sleep(AGAIN)
            if self._kept and (written := await self.write()):
                _log.info("store_written_later", writes=written, left=len(self._kept))

    async def write(self) -> int:
        """Write what is kept, the oldest first, until one fails; returns how many were written."""
        written = 0
        for key, kept in list(self._kept.items()):
            if self._kept.get(key) is not kept:
                continue  # something newer is kept or written by now
            try:
                await self._execute(*kept)
            except KallglotAriError:
                break
            written += 1
            if self._kept.get(key) is kept:
                del self._kept[key]
        return written
