"""A full disk, a lock that is not let go, a damaged file, a folder that is missing, a server that is away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.clock import ManualClock
from kallglot_ari.errors import ConfigError, KallglotAriError, StoreError
from kallglot_ari.settings import StoreSettings
from kallglot_ari.store import Store, open_store
from tests.store.conftest import Open, Postgres
from tests.store.test_contract import call, turn

pytestmark = pytest.mark.real_time


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "calls.db"


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """Another program that has the write lock."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def fill_up(store: Store) -> None:
    for number in range(200):
        await store.add_turn("before", turn(number, "x" * 5000), 1.0)


class TestLocked:
    async def test_writes_fail_after_the_time_out_and_reads_go_on(self, file: Path, opened: Open) -> None:
        store = await opened(f"sqlite:///{file}", busy_timeout=0.1)
        await store.save_call(call())
        with held(file):
            with pytest.raises(StoreError, match="another program holds the database"):
                await store.save_call(call("c2"))
            with pytest.raises(StoreError, match="locked"):
                await store.check()
            assert await store.get_call("c1") == call()
        await store.save_call(call("c2"))
        await store.check()

    async def test_a_lock_that_is_let_go_in_time_is_waited_for(self, file: Path, opened: Open) -> None:
        store = await opened(f"sqlite:///{file}", busy_timeout=5.0)
        with held(file):
            saving = asyncio.get_running_loop().create_task(store.save_call(call()))
            await asyncio.sleep(0.05)
            assert not saving.done()
        await saving
        assert await store.get_call("c1") == call()

    async def test_waiting_for_a_lock_does_not_hold_up_the_event_loop(self, file: Path, opened: Open) -> None:
        store = await opened(f"sqlite:///{file}", busy_timeout=0.3)
        loop = asyncio.get_running_loop()
        with held(file):
            saving = loop.create_task(store.save_call(call()))
            ticks = 0
            while not saving.done():
                await asyncio.sleep(0.01)
                ticks += 1
            assert saving.exception() is not None
        assert ticks >= 15

    async def test_locked_from_the_start(self, file: Path, opened: Open) -> None:
        await (await opened(f"sqlite:///{file}")).close()
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        try:
            with pytest.raises(
                StoreError, match=f"^store.url: {re.escape(str(file))}: .*another program holds the database"
            ):
                await opened(f"sqlite:///{file}", busy_timeout=0.1)
        finally:
            connection.close()


class TestDiskFull:
    async def test_said_survived_and_over_when_there_is_room(self, file: Path, opened: Open) -> None:
        store = await opened(f"sqlite:///{file}", busy_timeout=0.5)
        await store.save_call(call("before"))
        assert store._engine is not None

        async def room(pages: int) -> None:
            # SQLite's own bound fails as a full disk does, in every connection that has it.
            async with contextlib.AsyncExitStack() as stack:
                connections = [await stack.enter_async_context(store._engine.connect()) for _ in range(5)]
                for connection in connections:
                    await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        await room(1)
        with pytest.raises(StoreError, match="the disk is full"):
            await fill_up(store)
        assert await store.get_call("before") == call("before")
        await room(1_000_000)
        await store.save_call(call("after"))
        await store.check()

    @pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
    async def test_a_file_system_without_a_byte_left(self, tmp_path: Path, opened: Open) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip("this machine lets nobody mount (a container without CAP_SYS_ADMIN)")
        try:
            store = await opened(f"sqlite:///{disk}/calls.db", busy_timeout=0.5)
            await store.save_call(call("before"))
            (disk / "filler").touch()
            with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(b"x" * 4096)
            with pytest.raises(StoreError, match="the disk is full"):
                await fill_up(store)
            assert await store.get_call("before") == call("before")
            (disk / "filler").unlink()
            await store.save_call(call("after"))
            assert await store.get_call("after") == call("after")
            await store.close()
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


class TestDamaged:
    async def fill(self, file: Path, opened: Open) -> None:
        store = await opened(f"sqlite:///{file}")
        for number in range(60):
            await store.save_call(call(f"c{number}", metadata={"k": "v" * 300}))
        await store.session_intended(PendingSession("key", "c1", "sess_1", "https://api", created_at=1.0))
        await store.put_mapping("pbx", "k", {"n": 1}, expires_at=5.0)
        await store.close()

    def aside(self, file: Path) -> list[Path]:
        return sorted(path for path in file.parent.glob("*.corrupt-*") if not path.name.endswith(("-wal", "-shm")))

    @pytest.mark.parametrize("content", [b"[service]\n", b"not a database, " * 300, b"SQLite format 2\0" * 99])
    async def test_a_file_of_something_else_is_left_as_it_is(self, file: Path, opened: Open, content: bytes) -> None:
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"store\.url: expected a SQLite database or nothing"):
            await opened(f"sqlite:///{file}")
        assert file.read_bytes() == content
        assert self.aside(file) == []

    @pytest.mark.parametrize("rubbish", [b"\x00" * 8192, b"SQLite format 3\x00" + b"\xff" * 9000])
    async def test_a_database_that_is_none_any_more(
        self, file: Path, opened: Open, clock: ManualClock, rubbish: bytes, caplog: Any
    ) -> None:
        file.write_bytes(rubbish)
        store = await opened(f"sqlite:///{file}")
        await store.save_call(call())
        (aside,) = self.aside(file)
        assert aside.name == "calls.db.corrupt-20260101T000000Z"
        assert aside.read_bytes() == rubbish, "set aside, not deleted"

    async def test_damaged_pages_and_what_is_carried_over(self, file: Path, opened: Open) -> None:
        await self.fill(file, opened)
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name='kallglot_calls'").fetchone()
        content = bytearray(file.read_bytes())
        content[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
        file.write_bytes(content)
        store = await opened(f"sqlite:///{file}")
        assert await store.list_calls() == []
        assert await store.pending_sessions() == [PendingSession("key", "c1", "sess_1", "https://api", created_at=1.0)]
        assert await store.expired_mappings("pbx", 6.0) == {"k": {"n": 1}}
        assert [path.read_bytes() for path in self.aside(file)] == [bytes(content)]

    async def test_cut_short(self, file: Path, opened: Open) -> None:
        await self.fill(file, opened)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        store = await opened(f"sqlite:///{file}")
        await store.check()
        assert len(self.aside(file)) == 1

    async def test_twice_in_one_second_overwrites_nothing(self, file: Path, opened: Open) -> None:
        for rubbish in (b"SQLite format 3\0first" * 999, b"SQLite format 3\0secon" * 999):
            file.write_bytes(rubbish)
            await (await opened(f"sqlite:///{file}")).close()
        assert [path.read_bytes()[16:21] for path in self.aside(file)] == [b"first", b"secon"]

    async def test_a_write_ahead_log_that_belongs_to_the_damaged_file_goes_with_it(
        self, file: Path, opened: Open
    ) -> None:
        file.write_bytes(bytes(4096))
        Path(f"{file}-wal").write_bytes(b"old log")
        await (await opened(f"sqlite:///{file}")).save_call(call())
        (aside,) = self.aside(file)
        assert Path(f"{aside}-wal").read_bytes() == b"old log"

    async def test_found_while_running_it_is_said(self, file: Path, opened: Open) -> None:
        await self.fill(file, opened)
        store = await opened(f"sqlite:///{file}")
        await store.list_calls(limit=1)
        with file.open("r+b") as raw:
            raw.seek(4096)
            raw.write(b"\xa5" * 4096 * 20)
        await store.close()
        store = await opened(f"sqlite:///{file}")
        await store.check()
        assert len(self.aside(file)) == 1

    async def test_a_new_one_is_for_its_owner_alone(self, file: Path, opened: Open) -> None:
        before = os.umask(0o022)
        try:
            store = await opened(f"sqlite:///{file}")
            await store.put_mapping("kind", "key", {})
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
        assert modes == {f"{file.name}{suffix}": 0o600 for suffix in ("", "-wal", "-shm")}

    async def test_an_empty_file_is_a_new_database(self, file: Path, opened: Open) -> None:
        file.touch()
        await (await opened(f"sqlite:///{file}")).check()
        assert self.aside(file) == []

    async def test_another_programs_database_is_left_alone(self, file: Path, opened: Open) -> None:
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("CREATE TABLE astdb (key TEXT)")
        with pytest.raises(ConfigError, match="another program's database"):
            await opened(f"sqlite:///{file}")
        assert self.aside(file) == []


class TestUnusable:
    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("sqlite:///{dir}/none/x.db", "the folder .*none does not exist"),
            ("sqlite:///{dir}", "expected a file, .* is a folder"),
            ("sqlite:////dev/null", "expected an ordinary file"),
            ("sqlite:///{dir}/x.db?mode=ro", r"expected sqlite:///FILE, found .*\?mode=ro"),
            ("sqlite:///", "expected sqlite:///FILE"),
            ("postgresql://u:secret@h:99999/d", "expected a port number"),
            ("postgresql://u:1/secret@h/d", "expected /, [?] and # of a user or password as %2F, %3F and %23"),
            ("postgresql://u:p?secret@h/d", "expected /, [?] and # of a user or password as %2F, %3F and %23"),
            (
                "postgresql://u:secret@h",
                "expected sqlite:///FILE, or postgresql://HOST:PORT/DATABASE with USER:PASSWORD@ before the host",
            ),
            ("postgresql://u:secret@h/d?colour=red", "unknown option 'colour'; expected sslmode or host"),
        ],
    )
    async def test_the_url(self, tmp_path: Path, opened: Open, url: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            await opened(url.replace("{dir}", str(tmp_path)))
        assert "secret" not in str(caught.value)
        assert str(caught.value).startswith("store.url: ")

    async def test_a_newer_release_wrote_it(self, file: Path, opened: Open) -> None:
        await (await opened(f"sqlite:///{file}")).close()
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("INSERT INTO kallglot_schema VALUES (999, 0)")
        with pytest.raises(ConfigError, match="has schema version 999, this release knows versions up to"):
            await opened(f"sqlite:///{file}")

    async def test_a_folder_that_may_not_be_written(self, opened: Open) -> None:
        with pytest.raises(StoreError, match=r"^store\.url: /proc/calls\.db: migrate: unable to open database file"):
            await opened("sqlite:////proc/calls.db")

    async def test_postgresql_is_away(self, opened: Open) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            with pytest.raises(StoreError, match="the database cannot be reached") as caught:
                await opened(f"postgresql://u:secret@127.0.0.1:{port}/d")
        assert "secret" not in str(caught.value)
        assert str(caught.value).startswith(f"store.url: PostgreSQL 127.0.0.1:{port}, database d: ")
        assert caught.value.retryable

    async def test_postgresql_says_nothing(self, opened: Open) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]
            with pytest.raises(StoreError, match="did not answer in time"):
                await opened(f"postgresql://u:secret@127.0.0.1:{port}/d?sslmode=disable", busy_timeout=0.3)

    async def test_postgresql_has_no_such_database(self, postgres: Postgres, opened: Open) -> None:
        with pytest.raises(ConfigError, match="there is no such database"):
            await opened(f"postgresql://kallglot@127.0.0.1:{postgres.port}/nothing")

    async def test_postgresql_refuses_while_running(
        self, postgres: Postgres, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kallglot_ari.store.later.AGAIN", 0.01)
        url = postgres.database()
        store = await opened(url)
        programs, name = postgres.programs, url.rpartition("/")[2]
        server = ("-h", "127.0.0.1", "-p", str(postgres.port), "-U", "kallglot")
        postgres.run(programs / "dropdb", *server, "--force", name)
        with contextlib.suppress(StoreError):
            await store.check()  # the connection that is cut
        with pytest.raises(StoreError, match="there is no such database"):
            await store.check()
        with pytest.raises(StoreError):
            await store.save_call(call())
        await asyncio.sleep(0.1)
        assert {task.get_name() for task in store._background._tasks} == {
            "store.background.later", "store.background.retention"
        }  # fmt: skip
        with pytest.raises(ConfigError, match="there is no such database"):
            await opened(url)

    async def test_postgresql_has_no_such_user(self, postgres: Postgres, opened: Open) -> None:
        with pytest.raises(KallglotAriError, match="PostgreSQL: ") as caught:
            await opened(f"postgresql://stranger:secret@127.0.0.1:{postgres.port}/postgres")
        assert "secret" not in str(caught.value)


class TestPatience:
    async def test_a_database_that_hangs_is_given_up(self, postgres: Postgres, opened: Open) -> None:
        url = postgres.database()
        store = await opened(url, busy_timeout=30.0, patience=0.2)
        other = await opened(url)
        assert other._engine is not None
        async with other._engine.begin() as connection:
            await connection.execute(text("LOCK TABLE kallglot_calls IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(StoreError, match=r"did not answer within 0\.2 s"):
                await store.save_call(call())
        await asyncio.sleep(0.05)
        assert await other.get_call("c1") == call(), "what was under way finishes as a whole"

    def test_nothing_of_the_password_in_repr(self) -> None:
        store = open_store(StoreSettings(url="postgresql://u:secret@h/d"), ManualClock())
        assert "secret" not in repr(store)


class TestWrittenLater:
    async def test_records_and_turns_that_were_refused_are_there_when_the_lock_is_gone(
        self, file: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kallglot_ari.store.later.AGAIN", 0.05)
        store = await opened(f"sqlite:///{file}", busy_timeout=0.1)
        await store.save_call(call("c1", state="active"))
        with held(file):
            for number in range(3):
                with pytest.raises(StoreError):
                    await store.add_turn("c1", turn(number), float(number))
            with pytest.raises(StoreError):
                await store.save_call(call("c1", state="ended"))
            with pytest.raises(StoreError):
                await store.put_mapping("pbx", "k", {})
        async with asyncio.timeout(5):
            while store._later:
                await asyncio.sleep(0.02)
        assert await store.get_call("c1") == call("c1", state="ended")
        assert len(await store.turns("c1")) == 3
        assert await store.get_mapping("pbx", "k") is None, "its writer was told, and decides"

    async def test_what_is_newer_is_not_written_over(self, file: Path, opened: Open) -> None:
        store = await opened(f"sqlite:///{file}", busy_timeout=0.1)
        with held(file), pytest.raises(StoreError):
            await store.save_call(call("c1", state="active"))
        await store.save_call(call("c1", state="ended"))
        assert await store._later.write() == 0
        assert await store.get_call("c1") == call("c1", state="ended")

    async def test_a_store_that_is_closed_tries_once_more(self, file: Path, opened: Open) -> None:
        store = await opened(f"sqlite:///{file}", busy_timeout=0.1)
        with held(file), pytest.raises(StoreError):
            await store.save_call(call("c1"))
        await store.close()
        assert await (await opened(f"sqlite:///{file}")).get_call("c1") == call("c1")

    async def test_what_is_lost_in_the_end_is_told(
        self, file: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("kallglot_ari.store.later.KEPT_MAX", 2)
        store = await opened(f"sqlite:///{file}", busy_timeout=0.05)
        with held(file):
            for number in range(3):
                with pytest.raises(StoreError):
                    await store.save_call(call(f"c{number}"))
            await store.close()
        said = capsys.readouterr().out
        assert "store_write_lost" in said
        assert "call c0" in said
        assert "store_writes_lost" in said
