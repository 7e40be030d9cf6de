"""What a page sees of `/api/v1/events`."""

from __future__ import annotations

import json
import time
from typing import Any

import aiohttp

from kallglot_ari.tasks import Tasks
from tests.asterisk.running import until


class Events:
    """Reads them until the end; `seen` has each with its arrival, monotonic seconds."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._tasks = Tasks("events")
        self.seen: list[tuple[float, dict[str, Any]]] = []
        self.open = False

    async def __aenter__(self) -> Events:
        self._tasks.spawn(self._read(), name="read")
        await until(lambda: self.open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()

    async def _read(self) -> None:
        async with aiohttp.ClientSession() as http, http.get(f"{self._url}/api/v1/events") as response:
            self.open = True
            async for line in response.content:
                if line.startswith(b"data: "):
                    self.seen.append((time.monotonic(), json.loads(line[6:])))

    async def wait(self, kind: str, number: int = 0) -> tuple[float, dict[str, Any]]:
        """The `number`th event of a kind, from 0, and when it was seen."""
        await until(lambda: sum(event["type"] == kind for _, event in self.seen) > number, what=kind)
        return [(at, event) for at, event in self.seen if event["type"] == kind][number]
