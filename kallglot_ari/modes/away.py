"""Asterisk that stays away, and the sound of its calls with it: nobody is there any more, and their sessions cost money."""

from __future__ import annotations

import asyncio

from kallglot_ari.calls import events as e
from kallglot_ari.clock import Clock
from kallglot_ari.modes.registry import Registry
from kallglot_ari.tasks import Tasks

PATIENCE = 300.0
"""Seconds without Asterisk and without a packet of a call, after which it is given up. With packets it goes on: only ARI is away then."""
LOOK = 10.0
"""Seconds between two looks."""


class Away:
    """Watches the calls while Asterisk is away."""

    def __init__(self, calls: Registry, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._tasks = Tasks("away")
        self._watching: asyncio.Task[None] | None = None

    def begins(self) -> None:
        """The connection to Asterisk is lost."""
        if self._watching is None:
            self._watching = self._tasks.spawn(self._watch(), name="watch")

    def ends(self) -> None:
        """It is there again; what is gone is found by comparison."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def close(self) -> None:
        await self._tasks.close()

    async def _watch(self) -> None:
        heard: dict[str, tuple[int, float]] = {}
        while True:
            now = self._clock.now()
            for call in self._calls.views():
                packets = sum(leg.quality.packets_received for leg in call.legs)
                before, since = heard.get(call.id, (-1, now))
                if packets != before:
                    heard[call.id] = packets, now
                elif now - since >= PATIENCE:
                    self._calls.get(call.id).post(e.AsteriskLost(f"nothing was heard of Asterisk for {PATIENCE:g} s"))
            await asyncio.sleep(LOOK)
