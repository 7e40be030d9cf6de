"""Taking up the calls of a run that was killed: their channels, bridges and media go on where they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from kallglot_ari.ari.snapshot import Snapshot
from kallglot_ari.calls import adopt
from kallglot_ari.calls import events as e
from kallglot_ari.calls.model import CallState, DialplanStatus
from kallglot_ari.errors import AriError, StoreError
from kallglot_ari.log import get
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.journal import Journal
from kallglot_ari.modes.registry import Registry
from kallglot_ari.tasks import Tasks

PATIENCE = 60.0
"""Seconds that sessions wait for Asterisk to be there; after them they are ended, and the calls go on with new ones."""

_log = get(__name__)


def _lent(left: dict[str, adopt.Written]) -> dict[str, set[str]]:
    """Call → channels with its name that are parties of other calls: they came back from the dialplan, or were transferred."""
    lent: dict[str, set[str]] = {}
    for call_id, written in left.items():
        for leg in written.legs:
            name = leg.channel_id.partition(".")[0]
            if leg.up and name != call_id and name in left:
                lent.setdefault(name, set()).add(leg.channel_id)
    return lent


def _without(seen: adopt.Seen, channels: set[str] | None) -> adopt.Seen:
    if not channels:
        return seen
    return replace(seen, channels={i: name for i, name in seen.channels.items() if adopt.dialled(i) not in channels})


class Resume:
    """Decides once, at the first connection to Asterisk, what becomes of each call that was left.

    :param embedded: the sessions of the earlier run were in its process, and are gone.
    """

    def __init__(self, plant: Plant, journal: Journal, calls: Registry, prefix: str, *, embedded: bool) -> None:
        self._plant = plant
        self._journal = journal
        self._calls = calls
        self._prefix = prefix
        self._sessions_lost = embedded
        self._left: dict[str, adopt.Written] = {}
        self._unreadable: list[str] = []
        self._same_port = False
        self.finishing: set[str] = set()
        """Parties of calls that were killed while they ended: they are let go as those would have."""
        self._tasks = Tasks("resume")

    async def read(self) -> list[str]:
        """Ids of the calls that may be taken up."""
        for call_id, value in (await self._journal.read()).items():
            written = adopt.read(value)
            if written is None:
                self._unreadable.append(call_id)
                _log.error("live_call_unreadable", call=call_id)
            else:
                self._left[call_id] = written
        return [i for i, w in self._left.items() if w.state not in (CallState.ENDING, CallState.ENDED)]

    def start(self, *, same_port: bool) -> None:
        """:param same_port: our RTP goes from and to where the earlier run's did."""
        self._same_port = same_port
        if self._left:
            self._tasks.spawn(self._give_up_waiting(), name="patience")

    async def close(self) -> None:
        await self._tasks.close()

    async def _give_up_waiting(self) -> None:
        await asyncio.sleep(PATIENCE)
        if self._left:
            _log.error("asterisk_not_there", calls=len(self._left), effect="their sessions are ended")
            self._sessions_lost = True
            for call_id in self._left:
                self._plant.outbox.decide(call_id)

    def connected(self, snapshot: Snapshot, give_back: Callable[[str, DialplanStatus], Awaitable[None]]) -> None:
        """The first connection: every call that was left is taken up, or its end is finished."""
        left, self._left = self._left, {}
        if not left and not self._unreadable:
            self._tasks.spawn(self._close_records(), name="records")
            return
        seen = adopt.Seen(
            {channel.id: channel.name for channel in snapshot.channels},
            frozenset(snapshot.application.channel_ids if snapshot.application else ()),
            frozenset(channel.id for channel in snapshot.channels if channel.state == "Up"),
            {bridge.id: frozenset(bridge.channels) for bridge in snapshot.bridges},
        )
        for call_id in self._unreadable:
            self._journal.forget(call_id)
        lent = _lent(left)
        for call_id, written in left.items():
            if written.state in (CallState.ENDING, CallState.ENDED):
                self.finishing |= {leg.channel_id for leg in written.legs}
                self._tasks.spawn(self._finish(written, seen, give_back), name=f"finish-{call_id}")
            else:
                try:
                    self._take_up(written, _without(seen, lent.get(call_id)))
                except Exception as error:  # noqa: BLE001 - what is written of one call must not take all others with it
                    _log.error("live_call_not_taken_up", call=call_id, exc_info=error)
                    self._plant.outbox.decide(call_id)
                    self._journal.forget(call_id)
        self._tasks.spawn(self._close_records(), name="records")

    def _take_up(self, written: adopt.Written, seen: adopt.Seen) -> None:
        clock = self._plant.clock
        resumed = adopt.resume(written, seen, clock.now(), clock.wall(), sessions_lost=self._sessions_lost)
        runner, actions = self._calls.take_up(resumed.machine)
        self._plant.outbox.decide(runner.id, () if self._sessions_lost else written.keys)

        async def begin() -> None:
            lost: list[e.Event] = [
                e.ChannelLeft(leg.media_id) for leg in resumed.machine.legs.values() if leg.media_usable
            ]
            if self._same_port:
                try:
                    lost = await actions.take_up(resumed.machine)
                except Exception as error:  # noqa: BLE001 - the call would stand still for ever, and its session cost money
                    _log.error("media_not_taken_up", call=runner.id, exc_info=error)
            self._calls.go_on(runner, resumed.commands)
            for event in lost:
                runner.post(event)

        for event in resumed.missed:  # before what happens from now on
            runner.post(event)
        runner.tasks.spawn(begin(), name="take-up")

    async def _finish(
        self, written: adopt.Written, seen: adopt.Seen, give_back: Callable[[str, DialplanStatus], Awaitable[None]]
    ) -> None:
        """A call that was killed while it ended."""
        status = written.status or DialplanStatus.FAILED
        for leg in written.legs:
            if leg.channel_id not in seen.ours or (leg.ours and leg.channel_id.startswith("kg-")):
                continue
            if self._calls.owner(leg.channel_id) is not None:  # it came back from the dialplan
                continue
            if status is DialplanStatus.COMPLETED:
                try:
                    await self._plant.ari.channels.hangup(leg.channel_id)
                except AriError as error:
                    _log.debug("too_late", error=str(error))
            else:
                await give_back(leg.channel_id, status)
        self.finishing -= {leg.channel_id for leg in written.legs}
        self._journal.forget(written.plan.call_id)

    async def _close_records(self) -> None:
        """Calls that the store shows as up and that are not."""
        try:
            for view in await self._plant.store.list_calls(limit=1000, active=True):
                ours = view.id.startswith(f"{self._prefix}-") or view.id in self._journal.inherited
                if ours and view.kind == "media" and self._calls.view(view.id) is None:
                    view.state, view.end_reason = CallState.ENDED.value, view.end_reason or "error"
                    view.ended_at = view.ended_at or self._plant.clock.wall()
                    await self._plant.store.save_call(view)
        except StoreError as error:
            _log.error("records_not_closed", error=str(error))
