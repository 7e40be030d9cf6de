"""Webhooks that the sandbox sends: signed, and sent again until somebody takes them."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import aiohttp
import orjson

from kallglot_ari.clock import Clock
from kallglot_ari.kallglot import webhooks
from kallglot_ari.log import get
from kallglot_ari.sandbox.sessions import iso
from kallglot_ari.tasks import Tasks

SCHEDULE = (5.0, 60.0, 300.0, 1800.0, 7200.0, 36_000.0, 102_600.0)
"""Seconds between the 8 deliveries: 41 hours in all."""
_UNDER_WAY = 1000
_ANSWER_WITHIN = 30.0

_log = get("kallglot_ari.sandbox.hooks")


class Hooks:
    """Sends events to one endpoint. To be made on the running event loop."""

    def __init__(self, url: str, secret: str, clock: Clock, *, schedule: Sequence[float] = SCHEDULE) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._schedule = tuple(schedule)
        self._kinds: frozenset[str] | None = None
        self._tls: ssl.SSLContext | bool = True
        self._tasks = Tasks("sandbox.hooks")
        self._http: aiohttp.ClientSession | None = None
        self.counts: Counter[str] = Counter()
        """``delivered``, ``given_up``, ``dropped``."""

    def aim(self, url: str, secret: str, kinds: Iterable[str], tls: ssl.SSLContext | bool = True) -> None:
        """From now on only events of these `kinds`, to this endpoint, which `tls` knows the certificate of; True: as anybody's."""
        self._url, self._secret, self._kinds, self._tls = url, secret, frozenset(kinds), tls

    def post(self, kind: str, data: dict[str, Any]) -> None:
        """Send an event soon; without a URL nothing happens. Beyond 1000 under way, new ones are dropped and counted."""
        if not self._url or (self._kinds is not None and kind not in self._kinds):
            return
        if len(self._tasks) >= _UNDER_WAY:
            self.counts["dropped"] += 1
            return
        event_id = f"evt_{secrets.token_hex(12)}"
        body = orjson.dumps(
            {
                "id": event_id,
                "type": kind,
                "api_version": "2026-01-01",
                "created_at": iso(self._clock.wall()),
                "data": data,
            }
        )
        self._tasks.spawn(self._deliver(event_id, kind, body), name=kind)

    async def close(self) -> None:
        """Give what is under way a moment, then drop it."""
        await self._tasks.join(0.5)
        await self._tasks.close()
        if self._http is not None:
            await self._http.close()

    async def _deliver(self, event_id: str, kind: str, body: bytes) -> None:
        first = int(self._clock.wall().timestamp())
        for count, wait in enumerate((*self._schedule, None)):
            if await self._once(event_id, body, count, first):
                self.counts["delivered"] += 1
                return
            if wait is not None:
                await asyncio.sleep(wait)
        self.counts["given_up"] += 1
        _log.warning("webhook_given_up", event_type=kind, deliveries=len(self._schedule) + 1)

    async def _once(self, event_id: str, body: bytes, count: int, first: int) -> bool:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN))
        headers = {
            "Content-Type": "application/json",
            webhooks.SIGNATURE_HEADER: webhooks.sign(body, self._secret, at=int(self._clock.wall().timestamp())),
            webhooks.ID_HEADER: event_id,
            webhooks.RETRY_HEADER: str(count),
            webhooks.TIMESTAMP_HEADER: str(first),
        }
        try:
            async with self._http.post(
                self._url, data=body, headers=headers, allow_redirects=False, ssl=self._tls
            ) as response:
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _log.debug("webhook_attempt_failed", why=type(error).__name__)
            return False
