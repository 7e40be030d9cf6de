"""Connections that are open before a call needs them, and addresses that are asked whether they are well again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from urllib.parse import urlsplit

import aiohttp

from kallglot_ari.clock import Clock
from kallglot_ari.errors import ApiError
from kallglot_ari.kallglot.asking import Api
from kallglot_ari.log import get
from kallglot_ari.tasks import Tasks

CONNECTIONS = 4
"""Kept open to every address."""
_EVERY = 20.0
"""Seconds between touches: less than any usual idle time-out of a server or a firewall."""
_LOOK_EVERY = 1.0
_SOON = 5.0
"""After a stream took a connection: calls that come close together cause one round of touches, not one each."""
_ORIGINS = 8

_log = get("kallglot_ari.kallglot.client")


class Warmer:
    """Keeps `api`'s connections warm."""

    def __init__(self, api: Api, clock: Clock, rng: random.Random) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._tasks = Tasks("kallglot.warm")
        self._origins: dict[str, None] = {}
        self._due = 0.0

    async def start(self) -> None:
        """Open the connections; those that cannot be opened are tried again later."""
        await self._warm()
        self._tasks.spawn(self._keep(), name="keep")

    async def close(self) -> None:
        await self._tasks.close()

    def stream_opened(self, url: str) -> None:
        """A stream took one of the warm connections (or needed one at a host of its own): have another one ready soon."""
        parts = urlsplit(url)
        hosts = {urlsplit(base).netloc for base in self._api.addresses.urls}
        if parts.scheme == "wss" and parts.netloc not in hosts and len(self._origins) < _ORIGINS:
            self._origins.setdefault(f"https://{parts.netloc}/")
        self._due = min(self._due, self._clock.now() + _SOON)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY * self._rng.uniform(0.8, 1.2))
            now = self._clock.now()
            for url in self._api.addresses.urls:
                breaker = self._api.addresses.breaker(url)
                if not breaker.closed and breaker.allows(now):
                    await self._touch(url)
            if now >= self._due:
                await self._warm()

    async def _warm(self) -> None:
        self._due = self._clock.now() + _EVERY
        now = self._clock.now()
        touches = [self._touch(url) for url in self._api.addresses.allowed(now) for _ in range(CONNECTIONS)] + [
            self._touch_origin(origin) for origin in self._origins for _ in range(CONNECTIONS)
        ]
        await asyncio.gather(*touches)

    async def _touch(self, url: str) -> None:
        """Whether the address answers its breaker learns; what it says of the key is for `probe` to tell."""
        with contextlib.suppress(ApiError):
            await self._api.probe(url, self._api.timeout)

    async def _touch_origin(self, origin: str) -> bool:
        """Any answer will do; the key is not sent there."""
        limits = aiohttp.ClientTimeout(total=self._api.timeout)
        try:
            async with self._api.http.session.get(origin, timeout=limits, allow_redirects=False) as response:
                await response.content.read(65536)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _log.debug("stream_warm_failed", origin=origin, why=type(error).__name__)
            return False
        return True
