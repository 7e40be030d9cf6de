"""Everything that happens, for whoever listens: server-sent events, the dashboard, `kallglot-ari calls --watch`.

A publisher never waits and never fails. Each reader has a bounded queue; one that is too slow loses the oldest events, which
are counted, and is told how many by an event of its own, ``events.lost``. The last events are kept for readers that come back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from weakref import WeakSet

from kallglot_ari.clock import Clock

LOST = "events.lost"
"""Type of the event that tells a reader what it missed; `data` is ``{"count": n}``."""


class Subscription(AsyncIterator[dict[str, Any]]):
    """One reader's view of the hub; made by `Hub.subscribe`. It ends when the hub or the subscription is closed."""

    def __init__(self, call_id: str | None, limit: int, on_dropped: Callable[[int], None]) -> None:
        self._call_id = call_id
        self._limit = limit
        self._on_dropped = on_dropped
        self._events: deque[dict[str, Any]] = deque()
        self._lost = 0
        self._ready = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Events that wait to be read."""
        return len(self._events)

    def offer(self, event: dict[str, Any]) -> None:
        """Queue `event` if it is one of this reader's; the oldest goes when there is no room."""
        if self._closed or (self._call_id is not None and event["call_id"] != self._call_id):
            return
        if len(self._events) >= self._limit:
            self._events.popleft()
            self._lost += 1
            self._on_dropped(1)
        self._events.append(event)
        self._ready.set()

    def missed(self, count: int) -> None:
        """Tell the reader that `count` events are gone that it asked for."""
        self._lost += count
        self._ready.set()

    def close(self) -> None:
        """End the iteration once what is queued was read. Harmless when closed already."""
        self._closed = True
        self._ready.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """The next event; cancelling the wait loses nothing."""
        while True:
            if self._lost:
                lost, self._lost = self._lost, 0
                # No id of its own: a reader that comes back with the last id it saw must not skip anything.
                return {"id": None, "type": LOST, "call_id": self._call_id or "", "at": "", "data": {"count": lost}}
            if self._events:
                return self._events.popleft()
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()


class Hub:
    """Implements `calls.interfaces.Hub`. To be used on one event loop.

    :param on_dropped: told how many events a slow reader has just lost.
    :param queue: events kept for each reader. :param replay: events kept for readers that come back.
    """

    def __init__(
        self, clock: Clock, *, on_dropped: Callable[[int], None] = lambda _: None, queue: int = 1000, replay: int = 1000
    ) -> None:
        if queue < 1 or replay < 0:
            raise ValueError(f"expected queue >= 1 and replay >= 0, found {queue} and {replay}")
        self._clock = clock
        self._on_dropped = on_dropped
        self._queue = queue
        self._ring: deque[dict[str, Any]] = deque(maxlen=replay)
        # Ids go on rising over a restart (until 1,000 events a second are exceeded for the whole of a run), so a
        # reader's Last-Event-ID from before it is never ahead of us.
        self._last_id = int(clock.wall().timestamp() * 1000)
        self._first_id = self._last_id + 1
        self._readers: WeakSet[Subscription] = WeakSet()
        self._closed = False

    @property
    def last_id(self) -> int:
        """Id of the newest event; that of none yet is the id before the first."""
        return self._last_id

    @property
    def readers(self) -> int:
        """Subscriptions that are open."""
        return len(self._readers)

    def publish(self, event: str, call_id: str, data: dict[str, Any]) -> None:
        """Hand an event to every reader: ``{id, type, call_id, at, data}``, `at` in ISO 8601 (UTC). Never waits."""
        self._last_id += 1
        entry = {
            "id": self._last_id,
            "type": event,
            "call_id": call_id,
            "at": self._clock.wall().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": dict(data),
        }
        self._ring.append(entry)
        for reader in tuple(self._readers):
            reader.offer(entry)

    def subscribe(self, *, call_id: str | None = None, after: int | None = None) -> Subscription:
        """Listen from now on, or from the event after id `after`; what is no longer kept of that is told by ``events.lost``.

        Events count from this call, not from the first `anext`.
        """
        reader = Subscription(call_id, self._queue, self._on_dropped)
        if after is not None:
            oldest = self._ring[0]["id"] if self._ring else self._last_id + 1
            if (gone := oldest - max(after + 1, self._first_id)) > 0 and call_id is None:
                reader.missed(gone)
            for event in self._kept(after):
                reader.offer(event)
        if self._closed:
            reader.close()
        else:
            self._readers.add(reader)
        return reader

    def _kept(self, after: int) -> Iterator[dict[str, Any]]:
        return (event for event in self._ring if event["id"] > after)

    def unsubscribe(self, reader: Subscription) -> None:
        """End a subscription and forget what it has not read."""
        self._readers.discard(reader)
        reader.close()

    def close(self) -> None:
        """End every subscription; what is queued can still be read."""
        self._closed = True
        for reader in tuple(self._readers):
            reader.close()
        self._readers.clear()
