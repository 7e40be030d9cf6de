"""A store that writes slowly, one after the other as SQLite does, and at times refuses to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.calls.model import CallView
from tests.modes.trunk_fakes import FakeStore
from tests.stories.clock import some
from tests.stories.world import Life, World


@dataclass
class Disk:
    """What is left of a process that was killed."""

    calls: dict[str, CallView] = field(default_factory=dict)
    pending: dict[str, PendingSession] = field(default_factory=dict)
    maps: dict[tuple[str, str], tuple[dict[str, Any], float | None]] = field(default_factory=dict)


class StoryStore(FakeStore):
    """One process's connection to the disk."""

    def __init__(self, world: World, life: Life, disk: Disk) -> None:
        super().__init__()
        self._world, self._life = world, life
        self.calls, self.pending, self.maps = disk.calls, disk.pending, disk.maps
        self._turn = asyncio.Lock()

    async def _commits(self, what: str) -> None:
        """:raises StoreError: as long as the weather says so."""
        weather = self._world.weather
        chance = self._world.dice.of("store", what)
        async with self._turn:
            await self._life.passes(
                some(chance, 0.001, 0.005) if weather.fair else some(chance, 0.001, 0.005, 0.005, 0.02, 0.7)
            )
            self.fail = weather.store_fails
            self._write(what)

    async def session_intended(self, pending: PendingSession) -> None:
        await self._commits(f"intended {pending.key}")
        if old := self.pending.get(pending.key):  # what is known of it is not replaced by nothing
            pending = replace(
                old,
                call_id=pending.call_id,
                request=pending.request,
                attempts=pending.attempts,
                session_id=pending.session_id or old.session_id,
                base_url=pending.base_url or old.base_url,
                reason=pending.reason or old.reason,
            )
        self.pending[pending.key] = pending

    async def session_created(self, key: str, session_id: str, base_url: str) -> None:
        await self._commits(f"created {key}")
        now = self._world.clock.wall().timestamp()
        row = self.pending.get(key) or PendingSession(key, "", created_at=now)
        self.pending[key] = replace(row, session_id=session_id, base_url=base_url)

    async def session_to_end(self, key: str, reason: str) -> None:
        await self._commits(f"to end {key}")
        if key in self.pending:
            self.pending[key] = replace(self.pending[key], reason=reason)

    async def session_ended(self, key: str) -> None:
        await self._commits(f"ended {key}")
        self.pending.pop(key, None)

    async def save_call(self, call: CallView) -> None:
        """One that is refused is kept and written later, as `store.later` does; one that has ended stays so."""
        await self._life.passes(0.001)
        while self._world.weather.store_fails:
            await self._life.passes(1.0)
        before = self.calls.get(call.id)
        if before is None or before.state != "ended" or call.state == "ended":
            self.calls[call.id] = call

    async def list_calls(self, *, limit: int = 100, active: bool | None = None) -> list[CallView]:
        found = [call for call in self.calls.values() if active is None or active is (call.state != "ended")]
        return found[:limit]

    async def write_mappings(
        self, kind: str, changes: Mapping[str, dict[str, Any] | None], *, expires_at: float | None = None
    ) -> None:
        await self._commits(f"{kind} {' '.join(sorted(changes))}")
        for key, value in changes.items():
            if value is None:
                self.maps.pop((kind, key), None)
            else:
                self.maps[kind, key] = (value, expires_at)
