"""Live calls, written down as they change, so that a service that was killed can take them up again."""

from __future__ import annotations

import asyncio
from typing import Any

from kallglot_ari.calls import adopt
from kallglot_ari.calls.interfaces import CallStore
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.errors import KallglotAriError, StoreError
from kallglot_ari.log import Lasting, get
from kallglot_ari.tasks import Tasks

EVERY = 0.1
"""Seconds between two writes; all calls that changed meanwhile go into one transaction."""
AGAIN = 1.0
"""Seconds after a write that failed."""
_FAIR = 20
"""Calls turned to JSON before the event loop gets its turn."""
LOOK = 0.1
PLACE, CLAIM = "place", "claim"

_log = get(__name__)


class Journal:
    """The last state of every live call of this instance. A store that fails does not hurt a call."""

    def __init__(self, store: CallStore, prefix: str, earlier: str = "") -> None:
        """:param earlier: the prefix before names were unique; what a run with it left in this store is taken over once."""
        self._store = store
        self._kind = f"live:{prefix}"
        self._place = f"{PLACE}:{prefix}"
        self._claim = f"{CLAIM}:{prefix}"
        self._earlier = earlier
        self.inherited: frozenset[str] = frozenset()
        """Calls with the earlier prefix."""
        self._changed: dict[str, CallRunner | None] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._unplaced: dict[str, Any] | None = None
        """Where this run is to be found, while that is not written."""
        self._wake = asyncio.Event()
        self._tasks = Tasks("journal")
        self._before: str | None = None
        """While our claim is not written: whose is there, empty when that is not known either."""
        self._unclaimed = Lasting(_log, "claim_not_written", "error")
        self._unreadable = Lasting(_log, "claim_unreadable", "error")
        self._unwritten = Lasting(_log, "live_calls_not_written", "error")

    async def read(self) -> dict[str, dict[str, Any]]:
        """What an earlier run left, by call; empty, and told, when the store cannot be read."""
        try:
            if self._earlier:
                await self._inherit()
            self._last = await self._store.mappings(self._kind)
        except StoreError as error:
            _log.error("live_calls_unreadable", error=str(error))
        self.inherited = frozenset(i for i in self._last if self._earlier and i.startswith(f"{self._earlier}-"))
        return dict(self._last)

    async def _inherit(self) -> None:
        if await self._store.mappings(self._place):
            return  # it has run under its own name since; the earlier one is another service's, or nobody's
        left = await self._store.mappings(f"live:{self._earlier}")
        if left:
            await self._store.write_mappings(self._kind, left)
            await self._store.write_mappings(f"live:{self._earlier}", dict.fromkeys(left))
            _log.warning("live_calls_of_an_earlier_name", calls=len(left))

    async def place(self) -> dict[str, Any]:
        """What `settle` kept last."""
        try:
            found = await self._store.mappings(self._place)
            if not found and self._earlier:
                found = await self._store.mappings(f"{PLACE}:{self._earlier}")
            return found.get(PLACE, {})
        except StoreError:
            return {}

    async def settle(self, **place: Any) -> None:
        """Keep where this run is to be found; what the store refuses is written later, as calls are."""
        self._unplaced = place
        try:
            await self._placed()
        except StoreError as error:
            _log.error("place_not_written", error=str(error))
            self._wake.set()

    async def _placed(self) -> None:
        """:raises StoreError:"""
        if self._unplaced is not None:
            await self._store.write_mappings(self._place, {PLACE: self._unplaced})
            self._unplaced = None

    # --- whose calls they are -----------------------------------------------------------------------------------------

    async def claim(self, run: str) -> None:
        """The calls of this instance are this run's."""
        before = await self.holder()
        try:
            await self._store.write_mappings(self._claim, {CLAIM: {"run": run, "released": ""}})
        except KallglotAriError as error:
            self._unclaimed.failed(str(error))
            self._before = before
        else:
            self._unclaimed.worked()
            self._before = None

    async def held(self, run: str) -> bool:
        """Whether nobody has claimed them since `run` did. A claim that could not be written is written now: until then the one
        that is read is that of the run before, which is dead.
        """
        holder = await self.holder()
        if holder in ("", run):
            return True
        if self._before not in ("", holder):
            return False
        await self.claim(run)
        return True

    async def holder(self) -> str:
        """The run whose calls they are; empty when nobody's, or when it cannot be read."""
        return str((await self._claimed()).get("run", ""))

    async def release(self, run: str) -> None:
        """`run` has let go of everything."""
        await self._store.write_mappings(self._claim, {CLAIM: {"run": await self.holder(), "released": run}})

    async def take_over(self, run: str, seconds: float) -> bool:
        """Claim the calls and wait up to `seconds` until who had them has let go; False if it did not."""
        before = await self.holder()
        if not before and self._earlier:
            as_before = Journal(self._store, self._earlier)
            if await as_before.holder():
                return await as_before.take_over(run, seconds)
        await self.claim(run)
        for _ in range(round(seconds / LOOK)):
            if not before or (await self._claimed()).get("released") == before:
                return True
            await asyncio.sleep(LOOK)
        return False

    async def _claimed(self) -> dict[str, Any]:
        try:
            claimed = (await self._store.mappings(self._claim)).get(CLAIM, {})
        except KallglotAriError as error:
            self._unreadable.failed(str(error))
            return {}
        self._unreadable.worked()
        return claimed

    # --- writing ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write."""
        self._tasks.spawn(self._run(), name="write")

    def changed(self, runner: CallRunner) -> None:
        """Something happened to this call; it is written soon."""
        if not runner.machine.finished:
            self._changed[runner.id] = runner
            self._wake.set()

    def forget(self, call_id: str) -> None:
        """This call is over."""
        self._changed[call_id] = None
        self._wake.set()

    async def flush(self) -> None:
        """Write what is not yet written. :raises StoreError:"""
        await self._flush_calls()
        await self._placed()

    async def _flush_calls(self) -> None:
        pending, self._changed = self._changed, {}
        changes: dict[str, dict[str, Any] | None] = {}
        for number, (call_id, runner) in enumerate(pending.items(), 1):
            if runner is None:
                changes[call_id] = None
            elif (value := adopt.write(runner.machine)) != self._last.get(call_id):
                changes[call_id] = value
            if number % _FAIR == 0:
                await asyncio.sleep(0)
        if not changes:
            return
        try:
            await self._store.write_mappings(self._kind, changes)
        except BaseException:
            self._changed = {**pending, **self._changed}
            raise
        for call_id, written in changes.items():
            if written is None:
                self._last.pop(call_id, None)
            else:
                self._last[call_id] = written

    async def close(self) -> None:
        """Write the rest and stop."""
        await self._tasks.close()
        try:
            await self.flush()
        except StoreError as error:
            _log.error("live_calls_not_written", error=str(error))

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
                self._unwritten.worked()
            except KallglotAriError as error:
                self._unwritten.failed(str(error))
                self._wake.set()
                await asyncio.sleep(AGAIN)
            await asyncio.sleep(EVERY)
