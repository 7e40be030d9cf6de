"""Numbered steps: each once, all or nothing, and in the end the tables the code works with."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.exc import DBAPIError

from kallglot_ari.clock import ManualClock
from kallglot_ari.settings import StoreSettings
from kallglot_ari.store import connect, migrations, open_store, schema
from tests.store.conftest import Open


def shape(metadata: MetaData) -> dict[str, object]:
    return {
        table.name: (
            {column.name: column.nullable and not column.primary_key for column in table.columns},
            [column.name for column in table.primary_key],
            {(index.name, tuple(c.name for c in index.columns), bool(index.unique)) for index in table.indexes},
        )
        for table in metadata.sorted_tables
    }


async def test_the_steps_make_the_tables_the_code_knows(url: str, opened: Open) -> None:
    store = await opened(url)

    def reflect(connection: Connection) -> MetaData:
        found = MetaData()
        found.reflect(connection, only=lambda name, _: name.startswith("kallglot_"))
        return found

    async with store._engine.connect() as connection:
        assert shape(await connection.run_sync(reflect)) == shape(schema.metadata)


async def test_every_step_once(url: str) -> None:
    engine = connect.engine_of(connect.parse(url), busy_timeout=5)
    steps = {1: ("CREATE TABLE one (n {identity}, a TEXT)",), 2: ("ALTER TABLE one ADD COLUMN b TEXT",)}
    try:
        async with engine.begin() as connection:
            assert await migrations.migrate(connection, 1.0, {1: steps[1]}) == [1]
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO one (a) VALUES ('kept')"))
        async with engine.begin() as connection:
            assert await migrations.migrate(connection, 2.0, steps) == [2]
        async with engine.begin() as connection:
            assert await migrations.migrate(connection, 3.0, steps) == []
            found = (await connection.execute(text("SELECT n, a, b FROM one"))).all()
            applied = (await connection.execute(text("SELECT version, applied_at FROM kallglot_schema"))).all()
        assert [tuple(row) for row in found] == [(1, "kept", None)]
        assert [tuple(row) for row in applied] == [(1, 1.0), (2, 2.0)]
    finally:
        await engine.dispose()


async def test_a_step_that_fails_leaves_the_version_before_it(url: str) -> None:
    engine = connect.engine_of(connect.parse(url), busy_timeout=5)
    bad = {1: ("CREATE TABLE one (a TEXT)",), 2: ("CREATE TABLE two (a TEXT)", "NONSENSE")}
    try:
        async with engine.begin() as connection:
            await migrations.migrate(connection, 1.0, {1: bad[1]})
        with pytest.raises(DBAPIError, match="NONSENSE"):
            async with engine.begin() as connection:
                await migrations.migrate(connection, 2.0, bad)
        async with engine.connect() as connection:
            tables = await connection.run_sync(lambda c: inspect(c).get_table_names())
            version = (await connection.execute(text("SELECT max(version) FROM kallglot_schema"))).scalar()
        assert sorted(tables) == ["kallglot_schema", "one"]
        assert version == 1
    finally:
        await engine.dispose()


async def test_services_that_start_at_once_take_turns(url: str) -> None:
    stores = [open_store(StoreSettings(url=url), ManualClock()) for _ in range(6)]
    try:
        await asyncio.gather(*(store.start() for store in stores))
        await asyncio.gather(*(store.check() for store in stores))
    finally:
        await asyncio.gather(*(store.close() for store in stores))


def test_the_numbers_have_no_gap() -> None:
    assert sorted(migrations.STEPS) == list(range(1, len(migrations.STEPS) + 1))
