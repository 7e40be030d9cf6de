"""Trunk calls on an Asterisk that we are not connected to: only their dialplan tells their end, and when that was not heard Kallglot does."""

from __future__ import annotations

import asyncio

from kallglot_ari import log
from kallglot_ari.calls.model import EndReason
from kallglot_ari.modes.pbx_lost import Api, LostCalls
from kallglot_ari.modes.trunk_book import TrunkBook
from kallglot_ari.tasks import Tasks

_log = log.get(__name__)

LOOK_SECONDS = 60.0


class LostTrunkCalls:
    """Asks Kallglot about the sessions of old calls; one that is over there has lost its call."""

    def __init__(self, book: TrunkBook, api: Api) -> None:
        self._book = book
        self._lost = LostCalls(api)
        self._tasks = Tasks("trunk-lost")

    def start(self) -> None:
        self._tasks.spawn(self._look_now_and_then(), name="look")

    async def stop(self) -> None:
        await self._tasks.close()

    async def sweep(self) -> int:
        """One round; how many calls that ended."""
        calls = {call.id: call for call in self._book if call.elsewhere and not call.ending()}
        started = {call_id: call.started_at.timestamp() for call_id, call in calls.items()}
        ended = 0
        for call_id in self._lost.due(started, self._book.clock.wall().timestamp()):
            call = calls[call_id]
            session = call.opened[-1].session
            if await self._lost.over(session.id, session.base_url):
                _log.info("trunk_call_found_gone", call=call.id, session=session.id)
                self._book.finish(call, EndReason.TIMEOUT)
                ended += 1
        return ended

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.sweep()
