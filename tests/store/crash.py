"""A service that is killed (SIGKILL) at the Nth statement, for every N, or at a random moment: what was acknowledged must be there.

Run as ``python -m tests.store.crash URL STEP RANDOM_KILLS``. Each service is a fork of this process, which is much faster than a
new interpreter for each; prints how many died, or what was lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.clock import SystemClock
from kallglot_ari.settings import StoreSettings
from kallglot_ari.store import Store, open_store, schema
from tests.store.test_contract import NOW, call, turn

STEPS = (
    "call", "intended", "created", "turn", "mapping", "seen", "call again", "to end", "attempted", "ended", "unmapped",
)  # fmt: skip


async def perform(store: Store, step: str) -> None:
    match step:
        case "call":
            await store.save_call(call("c1", state="setup"))
        case "intended":
            await store.session_intended(PendingSession("key", "c1", created_at=NOW))
        case "created":
            await store.session_created("key", "sess_1", "https://api")
        case "turn":
            await store.add_turn("c1", turn(1), NOW)
        case "mapping":
            assert await store.put_mapping("pbx", "k", {"n": 1})
        case "seen":
            assert await store.seen_once("evt", SystemClock().wall().timestamp())
        case "call again":
            await store.save_call(call("c1", state="ended"))
        case "to end":
            await store.session_to_end("key", "completed")
        case "attempted":
            await store.session_attempted("key")
        case "ended":
            await store.session_ended("key")
        case "unmapped":
            assert await store.delete_mapping("pbx", "k")


async def state(store: Store) -> dict[str, Any]:
    """All that the steps leave in the store."""
    found = await store.get_call("c1")
    return {
        "call": found and found.state,
        "turns": len(await store.turns("c1")),
        "pending": [(p.session_id, p.reason, p.attempts) for p in await store.pending_sessions()],
        "mapping": await store.get_mapping("pbx", "k"),
    }


EXPECTED: list[dict[str, Any]] = []
"""State after 0, 1, 2 … steps; filled by a run that nobody kills."""


async def service(url: str, acknowledged: Path) -> None:
    store = open_store(StoreSettings(url=url), SystemClock(), retention_days=0)
    await store.start()
    with acknowledged.open("a", buffering=1) as told:
        for step in STEPS:
            await perform(store, step)
            told.write(step + "\n")
    await store.close()


def kill_at(number: int) -> None:
    """Die at the Nth of: before a statement, after it, before a commit."""
    seen = 0

    def count(*_: Any, **__: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(Engine, name, count)


def run_and_kill(url: str, acknowledged: Path, *, number: int = 0, after: float | None = None) -> bool:
    """True when the service was killed, False when it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if number:
                kill_at(number)
            asyncio.run(service(url, acknowledged))
            status = 0
        finally:
            os._exit(status)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the service failed by itself"
    return False


async def reset(url: str) -> None:
    if url.startswith("sqlite"):
        for file in Path(url.removeprefix("sqlite:///")).parent.iterdir():
            file.unlink()
        return
    store = open_store(StoreSettings(url=url), SystemClock(), retention_days=0)
    await store.start()
    assert store._engine is not None
    async with store._engine.begin() as connection:
        await connection.execute(text("DROP TABLE " + ", ".join(schema.metadata.tables)))
    await store.close()


async def verify(url: str, acknowledged: Path) -> None:
    steps = acknowledged.read_text().splitlines() if acknowledged.exists() else []
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = open_store(StoreSettings(url=url), SystemClock(), retention_days=0)
    await store.start()
    found = await state(store)
    possible = EXPECTED[len(steps) : len(steps) + 2]
    assert found in possible, f"after {steps[-1:]}: expected one of {possible}, found {found}"
    if "seen" in steps:
        assert not await store.seen_once("evt", SystemClock().wall().timestamp())
    await store.close()


async def learn(url: str) -> None:
    store = open_store(StoreSettings(url=url), SystemClock(), retention_days=0)
    await store.start()
    EXPECTED.append(await state(store))
    for step in STEPS:
        await perform(store, step)
        EXPECTED.append(await state(store))
    await store.close()


def main(url: str, step: int, random_kills: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        acknowledged = Path(folder) / "acknowledged"
        asyncio.run(learn(url))
        killed = 0
        moments: list[dict[str, Any]] = [{"number": n} for n in range(1, 100_000, step)]
        for moment in moments:
            asyncio.run(reset(url))
            acknowledged.unlink(missing_ok=True)
            if not run_and_kill(url, acknowledged, **moment):
                break
            killed += 1
            asyncio.run(verify(url, acknowledged))
        rng = random.Random(7)
        for _ in range(random_kills):
            asyncio.run(reset(url))
            acknowledged.unlink(missing_ok=True)
            run_and_kill(url, acknowledged, after=rng.uniform(0.01, 0.12))
            asyncio.run(verify(url, acknowledged))
        print(killed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
