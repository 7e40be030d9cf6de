"""Whether a call could be translated now, part by part: for `/readyz`, the metric, and a line in the log when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

from kallglot_ari import log
from kallglot_ari.ari.client import AriClient
from kallglot_ari.calls.interfaces import CallStore
from kallglot_ari.errors import AriError, StoreError
from kallglot_ari.media.engine import MediaEngine
from kallglot_ari.metrics import Metrics

EVERY = 10.0
"""Seconds between two looks when nobody asks."""
PATIENCE = 4.0
"""How long a part may take to say how it is, in seconds: less than `/readyz` waits for all of them."""

Check = Callable[[], Awaitable[list[str]]]
"""What is wrong with a part, each in words; nothing when it is well."""

_log = log.get(__name__)


class Readiness:
    """Asks the parts.

    :param others: more parts, which know at once: the name in the metric, and what is wrong ("" for nothing) in words.
    """

    def __init__(
        self,
        metrics: Metrics,
        ari: AriClient,
        media: MediaEngine,
        transport: str,
        store: CallStore,
        others: Mapping[str, Callable[[], Iterable[str]]],
    ) -> None:
        self._metrics = metrics
        self._ari, self._media, self._transport, self._store = ari, media, transport, store
        self._checks: dict[str, Check] = {"asterisk": self._asterisk}
        self._checks |= {component: partial(_said, what) for component, what in others.items()}
        self._checks["store"] = self._writes
        self._told: set[str] | None = None
        """The parts that the log said are not well; None before the first look."""

    async def reasons(self) -> list[str]:
        """Why a call could not be translated now."""
        found = dict(zip(self._checks, await asyncio.gather(*map(self._ask, self._checks)), strict=True))
        for component, reasons in found.items():
            self._metrics.ready.labels(component).set(not reasons)
        bad = {component for component, reasons in found.items() if reasons}
        every = [reason for reasons in found.values() for reason in reasons]
        if bad and bad != self._told:
            _log.warning("not_ready", reasons=every)
        elif not bad and self._told != bad:
            _log.info("ready")
        self._told = bad
        return every

    async def _ask(self, component: str) -> list[str]:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._checks[component]()
        except TimeoutError:
            return [f"{component}: no answer within {PATIENCE:g} s"]

    async def _asterisk(self) -> list[str]:
        if not self._ari.connected:
            return [self._ari.problem or "ARI: not connected"]
        if self._transport == "websocket" and not self._ari.supports("websocket_media"):
            return ['[media] transport = "websocket": this Asterisk is too old for it (20.16, 22.6)']
        try:
            await self._ari.channels.need(self._media.format.asterisk)
        except AriError as error:
            return [f"media: {error}"]
        return []

    async def _writes(self) -> list[str]:
        try:
            await self._store.check()
        except StoreError as error:
            return [f"store: {str(error).removeprefix('store: ')}"]
        return []

    async def watch(self) -> None:
        """Look every few seconds; ends by cancellation only."""
        while True:
            await asyncio.sleep(EVERY)
            await self.reasons()


async def _said(what: Callable[[], Iterable[str]]) -> list[str]:
    return list(filter(None, what()))
