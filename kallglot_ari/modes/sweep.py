"""What Asterisk has against what calls own: nothing of ours stays without a call, and no call waits for what is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from kallglot_ari.ari.snapshot import Snapshot
from kallglot_ari.calls import events as e
from kallglot_ari.calls.adopt import dialled
from kallglot_ari.calls.legs import Leg
from kallglot_ari.calls.model import DialplanStatus
from kallglot_ari.calls.placing import all_lost
from kallglot_ari.errors import AriError, AriNotFound, AriUnauthorized
from kallglot_ari.log import get
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.registry import Registry
from kallglot_ari.tasks import Tasks

EVERY = 15.0
"""Seconds between two looks. What two in a row find is so; a single one may have come between an action and its event."""

GiveBack = Callable[[str, DialplanStatus], Awaitable[None]]
Inherited = Callable[[], frozenset[str]]
"""Calls of ours whose ids have another prefix."""

_log = get(__name__)


def _channels(leg: Leg) -> tuple[tuple[str, bool, bool], ...]:
    """A leg's channels, whether Asterisk should have each, and whether it has entered our application. One that enters while
    nobody listens is gone at once.
    """
    return (leg.channel_id, leg.up, leg.up), (leg.media_id, leg.media_there, leg.media_entered)


class Sweep:
    """At every connect, by its snapshot, and every so often: an answer or an event may have been lost without the connection."""

    def __init__(
        self,
        plant: Plant,
        calls: Registry,
        prefix: str,
        give_back: GiveBack,
        inherited: Inherited,
        others: Callable[[str], bool],
    ) -> None:
        self._plant = plant
        self._calls = calls
        self._prefix = f"{prefix}-"
        self._inherited = inherited
        self._others = others
        self._give_back = give_back
        self._suspects: set[tuple[str, str]] = set()
        self._tasks = Tasks("sweep")

    def start(self) -> None:
        self._tasks.spawn(self._look_now_and_then(), name="look")

    async def close(self) -> None:
        await self._tasks.close()

    # --- after a connect ---------------------------------------------------------------------------------------------

    def connected(self, seen: Snapshot) -> None:
        """What happened while nobody listened: end what is gone, sweep what nobody owns."""
        self._suspects.clear()
        there = {channel.id: channel for channel in seen.channels}
        in_app = set(seen.application.channel_ids) if seen.application else set(there)
        bridges = {bridge.id for bridge in seen.bridges}
        for runner in self._calls.runners():
            machine = runner.machine
            if all_lost(machine.legs.values(), machine.candidates, there.keys() | bridges):
                runner.post(e.AsteriskLost())
                continue
            for leg in list(machine.legs.values()):
                for channel_id, expected, entered in _channels(leg):
                    if expected and channel_id not in there:
                        runner.post(e.ChannelGone(channel_id))
                    elif expected and entered and channel_id not in in_app:
                        runner.post(e.ChannelLeft(channel_id))
                if leg.media_id in in_app and leg.media_id in there and not leg.media_entered:
                    runner.post(e.ChannelEntered(leg.media_id, there[leg.media_id].name))
                if leg.bridge_id not in bridges:
                    runner.post(e.BridgeGone(leg.bridge_id))
            for candidate in list(machine.candidates.values()):
                channel = there.get(candidate.channel_id)
                if channel is None and candidate.placed:
                    runner.post(e.CandidateLost(candidate.channel_id))
                elif channel is not None and channel.state == "Up" and channel.id in in_app:
                    runner.post(e.ChannelEntered(channel.id, channel.name))
            for channel_id in machine.unwanted & in_app & there.keys():
                if there[channel_id].dialplan.app_name in ("", "Stasis"):
                    runner.post(e.ChannelEntered(channel_id))
        listed = set(seen.application.channel_ids) if seen.application else set()
        ours = {i for i, channel in there.items() if self._ours(i) and (channel.state != "Up" or i in in_app)}
        # begins when those that are taken up have their owner
        self._tasks.spawn(self._remove_all(bridges, ours | (listed & set(there))), name="after-connect")

    async def _remove_all(self, bridges: set[str], channels: set[str]) -> None:
        await self._remove(self._unowned(bridges, channels))

    # --- now and then ------------------------------------------------------------------------------------------------

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            if not self._plant.ari.connected:
                self._suspects.clear()
                continue
            try:
                await self.look()
            except AriUnauthorized:  # events still come, but nothing can be done for whoever they bring
                self._plant.ari.reconnect()
            except AriError as error:
                _log.debug("sweep_postponed", error=str(error))

    async def look(self) -> None:
        """Compare once, and act on what the look before found as well. :raises AriError:"""
        ari = self._plant.ari
        application, bridges = await asyncio.gather(ari.applications.get(self._plant.app), ari.bridges.list())
        there, in_app = {bridge.id for bridge in bridges}, set(application.channel_ids)
        odd = {*self._unowned(there, in_app), *self._missed(there, in_app), *self._strangers(in_app)}
        certain, self._suspects = odd & self._suspects, odd - self._suspects
        lost = [(kind, thing, self._calls.owner(thing)) for kind, thing in sorted(certain) if kind.startswith("lost")]
        await self._remove([one for one in certain if not one[0].startswith("lost")])
        for kind, thing, runner in lost:
            if runner is None:
                continue
            _log.warning("event_missed", call=runner.id, lost=thing)
            if kind == "lost bridge":
                runner.post(e.BridgeGone(thing))
            else:
                runner.post(e.ChannelLeft(thing) if await self._exists(thing) else e.ChannelGone(thing))

    def _missed(self, bridges: set[str], in_app: set[str]) -> Iterator[tuple[str, str]]:
        for runner in self._calls.runners():
            for leg in runner.machine.legs.values():
                for channel_id, expected, _ in _channels(leg):
                    if expected and channel_id not in in_app:
                        yield "lost channel", channel_id
                if leg.media_entered and leg.bridge_id not in bridges:
                    yield "lost bridge", leg.bridge_id

    async def _exists(self, channel_id: str) -> bool:
        try:
            await self._plant.ari.channels.get(channel_id)
        except AriNotFound:
            return False
        return True

    async def _in_dialplan(self, channel_id: str, kind: str) -> bool:
        """Our application may be subscribed to a channel that it does not have: a trunk call's, or one that it gave to the dialplan."""
        channel = await self._plant.ari.channels.get(channel_id)
        if kind == "channel" and channel.state != "Up":  # being dialled is an application to Asterisk as well
            return False
        return channel.dialplan.app_name not in ("", "Stasis")  # Asterisk before 16.13 does not tell

    # --- what nobody owns --------------------------------------------------------------------------------------------

    def _ours(self, thing: str) -> bool:
        return thing.startswith(self._prefix) or thing.partition(".")[0] in self._inherited()

    def _unowned(self, bridges: set[str], channels: set[str]) -> list[tuple[str, str]]:
        found = []
        for bridge in bridges:
            if self._ours(bridge) and self._calls.owner(bridge) is None:
                found.append(("bridge", bridge))
        for channel in channels:
            if self._calls.owner(channel) is not None:
                continue
            if self._ours(channel):
                found.append(("channel", channel))
            elif not channel.startswith("kg-") and not self._others(channel):
                found.append(("caller", channel))
        return found

    def _strangers(self, channels: set[str]) -> Iterator[tuple[str, str]]:
        """Of a call by their names, and nothing to it: it was not told that they came, and nobody will tell it any more."""
        for channel in channels:
            if self._is_owned(channel) and not self._is_owned(channel, known=True):
                yield "stranger", channel

    def _is_owned(self, channel: str, *, known: bool = False) -> bool:
        """:param known: by a call that has something to do with it."""
        runner = self._calls.owner(channel)
        return runner is not None and (not known or runner.machine.knows(dialled(channel)))

    async def _remove(self, things: list[tuple[str, str]]) -> None:
        removed = 0
        for kind, thing in sorted(things):
            try:
                if kind == "bridge":
                    await self._plant.ari.bridges.destroy(thing)
                elif await self._in_dialplan(thing, kind) or self._is_owned(thing, known=kind == "stranger"):
                    continue
                elif kind == "channel":
                    await self._plant.ari.channels.hangup(thing)
                else:
                    await self._give_back(thing, DialplanStatus.FAILED)
                removed += 1
            except AriError as error:
                _log.debug("too_late", error=str(error))
        if removed:
            _log.warning("nobody_s_things_removed", removed=removed)
