"""Sessions that may exist although nobody saw them: an answer that never came, or that could not be read."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from kallglot_ari.errors import ApiError
from kallglot_ari.kallglot import rest
from kallglot_ari.kallglot.asking import Api
from kallglot_ari.log import get
from kallglot_ari.tasks import Tasks

WAITS = (2.0, 15.0, 60.0, 300.0)
"""Seconds before each time that an address is asked."""
_LIMIT = 1000
_REMEMBERED = 20_000

_log = get("kallglot_ari.kallglot.client")


class Settler:
    """Asks such addresses again, with the same key: the answer names the session, and it is ended unless somebody uses it.

    Asking creates (and ends at once) the session that was not created the first time: that costs a credit, an unseen session
    costs half an hour.
    """

    def __init__(self, api: Api, end: Callable[[str, str, str], Awaitable[None]], rng: random.Random) -> None:
        self._api = api
        self._end = end
        self._rng = rng
        self._tasks = Tasks("kallglot.settle")
        self._by_key: dict[str, list[asyncio.Task[None]]] = {}
        self._used: OrderedDict[str, None] = OrderedDict()

    def wanted_again(self, key: str) -> None:
        """The creation with `key` is being asked for once more: whatever it yields is no longer unseen."""
        for task in self._by_key.pop(key, []):
            task.cancel()

    def used(self, session_id: str) -> None:
        """`session_id` was handed to somebody, who will end it."""
        self._used[session_id] = None
        if len(self._used) > _REMEMBERED:
            self._used.popitem(last=False)

    def doubtful(self, url: str, body: dict[str, Any], key: str) -> None:
        """`url` may have created a session for `key`."""
        if len(self._tasks) >= _LIMIT:
            _log.error("session_doubtful_dropped", url=url)
            return
        self._by_key.setdefault(key, []).append(self._tasks.spawn(self._settle(url, body, key), name="ask"))

    async def close(self) -> None:
        await self._tasks.close()

    async def _settle(self, url: str, body: dict[str, Any], key: str) -> None:
        for wait in WAITS:
            await asyncio.sleep(wait * self._rng.uniform(0.8, 1.2))
            try:
                answer = await self._api.ask("settle", "POST", url, "/sessions", self._api.timeout, body=body, key=key)
            except ApiError as error:
                if error.retryable:
                    continue
                break
            session_id = rest.session_id_of(answer.data)
            if session_id and session_id not in self._used:
                _log.warning("session_unseen_ended", session=session_id, url=url)
                await self._end(session_id, url, f"{key}.end")
            break
        else:
            _log.error("session_doubtful_given_up", url=url, hint="the server ends an idle session after 30 minutes")
        self._by_key.pop(key, None)
