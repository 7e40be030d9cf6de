"""The same store on SQLite and on a PostgreSQL of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from kallglot_ari.clock import ManualClock
from kallglot_ari.settings import StoreSettings
from kallglot_ari.store import Store, open_store


def _programs() -> Path | None:
    """The folder of initdb and postgres: Debian keeps them out of PATH, the newest version counts."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    found = shutil.which("initdb")
    candidates = [*folders, *([Path(found).parent] if found else [])]
    return next((folder for folder in candidates if (folder / "initdb").exists()), None)


@dataclass
class Postgres:
    """A PostgreSQL server of this test run, on a free port, in a folder of its own."""

    programs: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    databases: int = field(default=0)

    def run(self, *command: str | Path) -> None:
        done = subprocess.run([*self.user, *map(str, command)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command[0]}: {done.stderr or done.stdout}"

    @property
    def user(self) -> list[str]:
        """PostgreSQL refuses to run as root."""
        return ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []

    def start(self) -> None:
        command = [
            self.programs / "postgres", "-D", self.folder / "data", "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
            "-c", "max_connections=60", "-c", "shared_buffers=16MB",
        ]  # fmt: skip
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen([*self.user, *map(str, command)], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            ready = subprocess.run(
                [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], timeout=10
            )
            if ready.returncode == 0:
                return
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to every process of it at once, as in a power cut."""
        if self.process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(self.process.pid)
            every = [started, *started.children(recursive=True)]
            for process in every:
                process.suspend()  # first: none may see another die and tidy up
            for process in every:
                process.kill()
        self.process.wait(60)
        self.process = None

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.run(self.programs / "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "kallglot", name)
        return f"postgresql://kallglot@127.0.0.1:{self.port}/{name}"


def make_postgres() -> Postgres:
    programs = _programs()
    if programs is None:
        missing("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="kallglot-pg-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Postgres(programs, folder, port)
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    server.run(programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "kallglot", "-E", "UTF8", "--no-sync")
    server.start()
    return server


def missing(what: str) -> None:
    """Half of the store untested is a failure in CI, and said aloud elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(f"NOT TESTED ON POSTGRESQL: {what}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = make_postgres()
    yield server
    server.kill()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def postgres_to_kill() -> Iterator[Postgres]:
    """One that a test may kill."""
    server = make_postgres()
    yield server
    server.kill()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/calls.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


Open = Callable[..., Any]


@pytest.fixture
async def opened(clock: ManualClock) -> AsyncIterator[Open]:
    """Opens stores and closes them after the test."""
    stores: list[Store] = []

    async def open_(url: str, **options: Any) -> Store:
        store = open_store(StoreSettings(url=url), clock, **options)
        stores.append(store)
        await store.start()
        return store

    yield open_
    for store in stores:
        await store.close()


@pytest.fixture
async def store(url: str, opened: Open) -> Store:
    found: Store = await opened(url)
    return found
