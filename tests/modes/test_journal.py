"""The journal goes on writing, whatever the store says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from kallglot_ari.errors import ConfigError
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
