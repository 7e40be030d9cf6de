"""kill -9 of the service at any statement, and of the whole database server: nothing acknowledged is lost, nothing is half done."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from kallglot_ari.errors import StoreError
from tests.store.conftest import Open, Postgres
from tests.store.test_contract import call


def crash(url: str, step: int, random_kills: int) -> int:
    """How many services died, each leaving a database in order."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.crash", url, str(step), str(random_kills)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


def test_killed_at_every_statement_sqlite(tmp_path: Path) -> None:
    assert crash(f"sqlite:///{tmp_path}/calls.db", 1, 5) >= 60


def test_killed_at_every_fifth_statement_postgresql(postgres: Postgres) -> None:
    assert crash(postgres.database(), 5, 3) >= 8


async def test_power_cut_of_postgresql(postgres_to_kill: Postgres, opened: Open) -> None:
    url = postgres_to_kill.database()
    store = await opened(url, busy_timeout=2.0)
    acknowledged: list[str] = []
    failures: list[StoreError] = []

    async def write(worker: int) -> None:
        for number in range(1000):
            try:
                await store.save_call(call(f"{worker}-{number}", minutes=number))
            except StoreError as error:
                failures.append(error)
                return
            acknowledged.append(f"{worker}-{number}")

    writers = asyncio.gather(*(write(worker) for worker in range(4)))
    while len(acknowledged) < 40:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(postgres_to_kill.kill)
    await writers
    assert len(failures) == 4
    assert all(failure.retryable for failure in failures)
    (postgres_to_kill.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
    await asyncio.to_thread(postgres_to_kill.start)
    await store.save_call(call("after"))  # the same store goes on: no restart of the service is needed
    kept = {found.id for found in await store.list_calls(limit=1000)}
    assert {*acknowledged[-900:], "after"} <= kept
