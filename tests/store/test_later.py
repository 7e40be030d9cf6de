"""What is written later never replaces what was written since."""

from __future__ import annotations

from typing import Any

from kallglot_ari.errors import StoreError
from kallglot_ari.store.later import Later, Row

KEY = ("call", "c1")


class Database:
    def __init__(self) -> None:
        self.written: list[Row] = []
        self.away = False

    async def execute(self, what: str, statement: Any, row: Row) -> None:
        if self.away:
            raise StoreError("away")
        self.written.append(row)


async def test_the_newest_that_failed_is_written() -> None:
    database = Database()
    later = Later(database.execute)
    for n in (1, 2):
        row = {"n": n}
        later.begins(KEY, row)
        later.keep(KEY, "save call", None, row)
        later.ends(KEY, row)
    assert await later.write() == 1
    assert database.written == [{"n": 2}]
    assert len(later) == 0


async def test_one_that_fails_while_a_newer_is_under_way_is_not_kept() -> None:
    database = Database()
    later = Later(database.execute)
    first, second = {"n": 1}, {"n": 2}
    later.begins(KEY, first)
    later.begins(KEY, second)
    later.keep(KEY, "save call", None, first)
    later.ends(KEY, first)
    assert await later.write() == 0
    later.keep(KEY, "save call", None, second)
    later.ends(KEY, second)
    await later.write()
    assert database.written == [second]


async def test_what_was_kept_gives_way_to_one_that_begins() -> None:
    database = Database()
    later = Later(database.execute)
    first, second = {"n": 1}, {"n": 2}
    later.begins(KEY, first)
    later.keep(KEY, "save call", None, first)
    later.ends(KEY, first)
    later.begins(KEY, second)
    assert await later.write() == 0
    later.ends(KEY, second)
    assert len(later) == 0


async def test_while_the_database_is_away_it_stays() -> None:
    database = Database()
    later = Later(database.execute)
    row = {"n": 1}
    later.begins(KEY, row)
    later.keep(KEY, "save call", None, row)
    later.ends(KEY, row)
    database.away = True
    assert await later.write() == 0
    assert len(later) == 1
