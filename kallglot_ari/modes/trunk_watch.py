"""Without a log-in for the manager interface ARI tells which channels of the trunk calls are gone: the dialplan need not.

Our application is subscribed to each channel that a call is known by. Asterisk unsubscribes by itself when the channel is destroyed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime

from kallglot_ari import log
from kallglot_ari.ari import models as m
from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.resources import gone_is_fine
from kallglot_ari.ari.snapshot import Connected, Disconnected
from kallglot_ari.ari.socket import SocketEvent
from kallglot_ari.errors import AriError, AriNotFound
from kallglot_ari.modes.trunk_book import TrunkBook
from kallglot_ari.modes.trunk_call import TrunkCall
from kallglot_ari.tasks import Tasks

_log = log.get(__name__)

LOOK_SECONDS = 30.0


class ChannelWatch:
    """ARI's view of the calls in the book."""

    def __init__(self, book: TrunkBook, ari: AriClient, app: str) -> None:
        self._book = book
        self._ari = ari
        self._app = app
        self._connected = False
        self._booted: datetime | None = None
        """When Asterisk was started."""
        self._watched: set[str] = set()
        self._tasks = Tasks("trunk-watch")
        book.watchers.append(self.watch)
        book.cleaners.append(self.clean)

    def start(self) -> None:
        self._tasks.spawn(self._look_now_and_then(), name="look")

    async def stop(self) -> None:
        await self._tasks.close()

    def has(self, uniqueid: str) -> bool:
        """Our application hears of this channel, though it never entered it."""
        return uniqueid in self._watched

    def event(self, event: SocketEvent) -> None:
        """One event of the socket; those of other channels are nobody's here."""
        match event:
            case m.ChannelDestroyed():
                self._watched.discard(event.channel.id)
                if (call := self._book.of_channel(event.channel.id)) is not None:
                    self._book.channel_gone(call, event.channel.id, event.cause, event.cause_txt)
            case m.ChannelHangupRequest():
                if (call := self._book.of_channel(event.channel.id)) is not None:
                    call.hangup_asked(event.channel.id)
            case m.Dial():
                self._dialled(event)
            case Connected():
                self._connected = True
                self._watched.clear()
                self.compare(event.snapshot.channels, lost=self._anew(event.snapshot.info))
            case Disconnected():
                self._connected = False
                self._watched.clear()
            case _:
                pass

    def _dialled(self, event: m.Dial) -> None:
        """A leg, which may outlive the caller's channel in a transfer."""
        leg, caller = event.peer, event.caller
        if event.dialstatus == "ANSWER":
            if (call := self._book.of_channel(leg.id)) is not None:
                self._book.leg_answered(call, leg.id)
            return
        call = self._book.of_dial_string(event.dialstring or "")
        if not event.dialstatus and caller is not None and call is not None and call.reason is None:
            self._book.leg(call, leg.id, leg.name, caller.id)
            self._book.publish("call.ringing", call)

    # --- subscriptions ------------------------------------------------------------------------------------------------

    def watch(self, call: TrunkCall) -> None:
        """Hear of the call's channels; until ARI is connected, `compare` sees to it then."""
        if call.reason is not None or call.elsewhere or not self._connected:
            return
        for uniqueid in call.live_channels():
            if uniqueid not in self._watched:
                self._watched.add(uniqueid)
                self._tasks.spawn(self._subscribe(call, uniqueid), name=f"watch-{uniqueid}")

    async def _subscribe(self, call: TrunkCall, uniqueid: str) -> None:
        try:
            await self._ari.applications.subscribe(self._app, event_source=f"channel:{uniqueid}")
        except AriError as error:
            self._watched.discard(uniqueid)
            if error.retryable or await self._exists(uniqueid):
                _log.warning("trunk_channel_not_watched", call=call.id, channel=uniqueid, error=str(error))
            elif uniqueid in self._book.in_script:
                # FastAGI still talks with it, so it lives, on an Asterisk that is not ARI's
                self._book.found_elsewhere(call)
            else:
                self._book.channel_gone(call, uniqueid)
        else:
            if call.reason is not None:
                await self._unsubscribe(uniqueid)

    async def _exists(self, uniqueid: str) -> bool:
        """What is not known is taken as there."""
        try:
            await self._ari.channels.get(uniqueid)
        except AriNotFound:
            return False
        except AriError as error:
            _log.debug("trunk_channel_not_asked", error=str(error))
        return True

    async def clean(self, call: TrunkCall) -> None:
        """The call ends; its channels may go on in the dialplan, but for those of parties who wait in vain."""
        for uniqueid in call.waiting():
            try:
                await gone_is_fine(self._ari.channels.hangup(uniqueid))
            except AriError as error:
                _log.warning("trunk_leg_left_up", call=call.id, channel=uniqueid, error=str(error))
        for uniqueid in call.live_channels():
            if uniqueid in self._watched:
                self._tasks.spawn(self._unsubscribe(uniqueid), name=f"unwatch-{uniqueid}")

    async def _unsubscribe(self, uniqueid: str) -> None:
        """It counts as watched until it is destroyed when Asterisk does not do as asked."""
        try:
            await self._ari.applications.unsubscribe(self._app, event_source=[f"channel:{uniqueid}"])
        except AriError as error:
            _log.debug("too_late", error=str(error))
        else:
            self._watched.discard(uniqueid)

    # --- what was missed ----------------------------------------------------------------------------------------------

    def _anew(self, info: m.AsteriskInfo) -> bool:
        """Whether it is another run of Asterisk than at the connection before."""
        before, self._booted = self._booted, info.status.startup_time if info.status else None
        return None not in (before, self._booted) and before != self._booted

    def compare(self, channels: Iterable[m.Channel], *, lost: bool = False) -> int:
        """Compare with the channels there are: what is not there is gone. How many calls that ended.

        :param lost: Asterisk was started anew.
        """
        there = {channel.id: channel for channel in channels}
        ended = 0
        for call in self._book:
            if call.reason is not None or call.elsewhere:
                continue
            for uniqueid in call.live_channels():
                if uniqueid in there:
                    if there[uniqueid].state == "Up":
                        self._book.leg_answered(call, uniqueid)
                elif not self._book.is_young(call, uniqueid):
                    call.channel_gone(uniqueid)
            if self._book.check(call, lost=lost):
                ended += 1
                _log.info("trunk_call_found_gone", call=call.id, session=call.session_id)
            self.watch(call)
        return ended

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not len(self._book) or not self._connected:
                continue
            try:
                self.compare(await self._ari.channels.list())
            except AriError as error:
                _log.debug("trunk_look_postponed", error=str(error))
