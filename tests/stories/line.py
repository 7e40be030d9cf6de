"""The event socket between Asterisk and a process: events in order, none twice, and those of a broken connection lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from kallglot_ari.ari.decode import decode_event
from kallglot_ari.ari.socket import SocketEvent
from tests.stories.clock import some
from tests.stories.world import Life, World


class Line:
    """One connection."""

    def __init__(self, world: World, life: Life, sink: Callable[[SocketEvent], None]) -> None:
        self._world, self._life, self._sink = world, life, sink
        self._queue: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.deaf = False
        """The network is away: Asterisk does not know yet, and what it sends is lost."""
        self.broken = asyncio.Event()

    def put(self, document: dict[str, object]) -> None:
        if not self.deaf:
            self._queue.put_nowait(document)

    def deliver_what_waits(self) -> None:
        """What came since the socket was opened is there at once, behind the snapshot."""
        while not self._queue.empty():
            self._hand_on(self._queue.get_nowait())

    async def deliver(self) -> None:
        """Hand events on, until it breaks."""
        while True:
            document = await self._queue.get()
            chance, weather = self._world.dice.of("event", document["type"]), self._world.weather
            await asyncio.sleep(
                some(chance, 0.0, 0.002, 0.02) if weather.fair else some(chance, 0.0, 0.0, 0.001, 0.01, 0.05, 0.3)
            )
            if self.broken.is_set() or self._life.over:
                return
            self._hand_on(document)

    def _hand_on(self, document: dict[str, object]) -> None:
        thing = document.get("channel") or document.get("bridge")
        self._world.tell("event", document["type"], thing["id"] if isinstance(thing, dict) else "")
        self._sink(decode_event(orjson.dumps(document)))
