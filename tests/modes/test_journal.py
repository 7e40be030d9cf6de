"""The journal goes on writing, whatever the store says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from kallglot_ari.errors import ConfigError, StoreError
from kallglot_ari.modes import journal as module
from kallglot_ari.modes.journal import Journal
from tests.modes.trunk_fakes import FakeStore

pytestmark = pytest.mark.real_time


class Store(FakeStore):
    """Refuses once, as PostgreSQL does when a password was changed."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    async def write_mappings(
        self, kind: str, changes: Mapping[str, dict[str, Any] | None], *, expires_at: float | None = None
    ) -> None:
        if not self.refused:
            self.refused += 1
            raise ConfigError("store.url: PostgreSQL: wrong user or password")
        await super().write_mappings(kind, changes, expires_at=expires_at)


async def test_a_store_that_refuses_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.005)
    monkeypatch.setattr(module, "EVERY", 0.005)
    store = Store()
    store.maps["live:kg-a", "kg-a-1"] = {}, None
    journal = Journal(store, "kg-a")
    await journal.read()
    journal.start()
    journal.forget("kg-a-1")
    async with asyncio.timeout(5):
        while store.maps:
            await asyncio.sleep(0.002)
    assert store.refused == 1
    await journal.close()


async def test_a_place_that_the_store_refused_is_written_when_it_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after that, the next run would bind another port than its calls send to."""
    monkeypatch.setattr(module, "AGAIN", 0.005)
    store = FakeStore()
    store.fail = True
    journal = Journal(store, "kg-a")
    journal.start()
    with capture_logs() as logs:
        await journal.settle(rtp=["127.0.0.1", 4000])
        await asyncio.sleep(0.02)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "place_not_written",
        "live_calls_not_written",
    ]
    store.fail = False
    async with asyncio.timeout(5):
        while await journal.place() != {"rtp": ["127.0.0.1", 4000]}:
            await asyncio.sleep(0.002)
    await journal.close()


async def test_what_was_left_under_the_earlier_name_is_taken_over_once() -> None:
    store = FakeStore()
    store.maps["live:kg-old", "kg-old-1"] = {"form": 1}, None
    store.maps["place:kg-old", "place"] = {"rtp": ["127.0.0.1", 4000]}, None
    journal = Journal(store, "kg-new", "kg-old")
    assert await journal.place() == {"rtp": ["127.0.0.1", 4000]}
    assert await journal.read() == {"kg-old-1": {"form": 1}}
    assert journal.inherited == {"kg-old-1"}
    assert await store.mappings("live:kg-old") == {}
    await journal.settle(rtp=["127.0.0.1", 4000])
    store.maps["live:kg-old", "kg-old-2"] = {}, None
    again = Journal(store, "kg-new", "kg-old")
    assert set(await again.read()) == {"kg-old-1"}, "who still has that name is somebody else"


async def test_a_claim_that_a_full_disk_refused_is_not_taken_for_another_run_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service left its calls and ended, as often as it was started."""
    store, write = FakeStore(), FakeStore.write_mappings
    await Journal(store, "kg-a").claim("killed")

    async def full(*_: object, **__: object) -> None:
        raise StoreError("store: database or disk is full")

    monkeypatch.setattr(FakeStore, "write_mappings", full)
    journal = Journal(store, "kg-a")
    await journal.claim("now")
    assert await journal.held("now")
    assert await journal.holder() == "killed"
    monkeypatch.setattr(FakeStore, "write_mappings", write)
    assert await journal.held("now")
    assert await journal.holder() == "now", "there is room again"
    await Journal(store, "kg-a").claim("next")
    assert not await journal.held("now")


async def test_a_run_that_claims_while_ours_is_not_written_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    store, write = FakeStore(), FakeStore.write_mappings
    await Journal(store, "kg-a").claim("killed")
    journal = Journal(store, "kg-a")

    async def full(*_: object, **__: object) -> None:
        raise StoreError("store: database or disk is full")

    monkeypatch.setattr(FakeStore, "write_mappings", full)
    await journal.claim("now")
    monkeypatch.setattr(FakeStore, "write_mappings", write)
    await Journal(store, "kg-a").claim("next")
    assert not await journal.held("now")


async def test_a_run_of_the_earlier_name_is_asked_to_let_go() -> None:
    store = FakeStore()
    before = Journal(store, "kg-old")
    await before.claim("before")
    taking = asyncio.get_running_loop().create_task(Journal(store, "kg-new", "kg-old").take_over("now", 5.0))
    async with asyncio.timeout(5):
        while await before.holder() != "now":
            await asyncio.sleep(0.005)
    await before.release("before")
    assert await taking
