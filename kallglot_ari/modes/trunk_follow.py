"""Follows trunk calls over the manager interface, and sets right what was missed while it was away."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from kallglot_ari import log
from kallglot_ari.ami import protocol as ami
from kallglot_ari.ami.client import AmiClient, ChannelInfo
from kallglot_ari.calls.interfaces import Hub
from kallglot_ari.errors import AmiError, AmiUnavailable, SipProbeError
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.trunk_agent import Agents
from kallglot_ari.modes.trunk_book import YOUNG_SECONDS, TrunkBook
from kallglot_ari.modes.trunk_call import TrunkCall, TrunkLeg
from kallglot_ari.modes.trunk_loaded import NotLoaded, check_endpoint
from kallglot_ari.pbx.addresses import section_name
from kallglot_ari.rtp.quality import rate
from kallglot_ari.settings import AmiSettings, TrunkSettings
from kallglot_ari.tasks import Tasks

_log = log.get(__name__)

RECONCILE_SECONDS = 30.0
MAX_DIGITS = 200
CODEC = "CHANNEL(audionativeformat)"
_TRUNK_CHANNEL = re.compile(r"(PJSIP|SIP)/kallglot(-\d+)?-[0-9a-f]{8}")


class Follower:
    """The manager interface's view of the calls in the book."""

    def __init__(
        self, book: TrunkBook, settings: AmiSettings, hub: Hub, metrics: Metrics, trunk: TrunkSettings
    ) -> None:
        self._book = book
        self._trunk = trunk
        self.misloaded = ""
        """Why calls over the trunk are not dialled, or not as told; empty when all is well, or Asterisk has no trunk."""
        self._tasks = Tasks("trunk-follow")
        self._hub = hub
        self._metrics = metrics
        self.client = AmiClient(settings, metrics, on_event=self.event, on_connected=self.connected)
        self.agents = Agents(self.client)
        self.endpoints: dict[str, ami.EndpointState] = {}
        """What qualify says of each endpoint named ``kallglot…``."""
        self._asked: set[str] = set()
        """Uniqueids of the legs whose codec is being asked for."""
        self._placed: set[str] = set()
        """Calls of which it was asked whether they are on this Asterisk."""
        self._booted = datetime.min.replace(tzinfo=UTC)
        """When Asterisk was started, as far as it says."""
        book.cleaners.append(self.clean)
        book.watchers.append(self._place)

    async def start(self) -> None:
        await self.client.start()
        self._tasks.spawn(self._reconcile_now_and_then(), name="reconcile")

    async def stop(self) -> None:
        await self._tasks.close()
        await self.client.stop()

    def event(self, event: ami.Event) -> None:
        """One event of the manager interface."""
        if isinstance(event, ami.OriginateDone):
            self.agents.done(event)
        elif isinstance(event, ami.EndpointState):
            self._endpoint(event)
        elif isinstance(event, ami.Booted):
            self._booted = self._book.clock.wall() - timedelta(seconds=event.uptime)
        elif isinstance(event, ami.DialBegun):
            if (call := self._book.of_dial_string(event.dial_string)) is not None and call.reason is None:
                self._book.leg(call, event.dest_uniqueid, event.dest_channel, event.uniqueid)
                self._book.publish("call.ringing", call)
        elif (found := self._book.of_channel(event.uniqueid, event.linkedid)) is not None:
            self._of_call(found, event)

    def _of_call(self, call: TrunkCall, event: ami.ChannelEvent) -> None:
        speaker = call.role_of(event.uniqueid)
        match event:
            case ami.ChannelUp():
                self._book.leg_answered(call, event.uniqueid)
                self._ask_codec(call, event.uniqueid)
            case ami.ChannelGone():
                self._book.channel_gone(call, event.uniqueid, event.cause, event.cause_text)
            case ami.HangupAsked():
                call.hangup_asked(event.uniqueid)
            case ami.Digit():
                if event.uniqueid not in call.legs and len(call.dtmf) < MAX_DIGITS:
                    at = self._book.clock.wall().isoformat().replace("+00:00", "Z")
                    call.dtmf.append({"speaker": speaker, "digit": event.digit, "at": at})
                    self._book.publish("dtmf", call, speaker=speaker, digit=event.digit)
            case ami.Held():
                for leg in call.live_legs:
                    leg.held = event.on if leg.role == speaker or event.uniqueid == leg.uniqueid else leg.held
                self._book.publish("hold" if event.on else "unhold", call, speaker=speaker)
            case ami.Transferred():
                self._transferred(call, event, speaker)
            case ami.Rtcp():
                self._rtcp(call, event)

    def _transferred(self, call: TrunkCall, event: ami.Transferred, speaker: str) -> None:
        if event.success:
            call.asked_by = ""  # who transfers hangs up too, and does not mean the end
        self._book.publish(
            "call.transferred", call, speaker=speaker, kind=event.kind, target=event.target, success=event.success
        )

    def _rtcp(self, call: TrunkCall, event: ami.Rtcp) -> None:
        leg = call.legs.get(event.uniqueid)
        if leg is None:
            return
        if event.direction == "received":
            leg.quality = replace(leg.quality, packets_received=event.packets)
            return
        self._ask_codec(call, leg.uniqueid)
        r, mos = rate(100 * event.fraction_lost, 1000 * max(event.rtt, 0) / 2)
        leg.quality = replace(
            leg.quality, packets_sent=event.packets, packets_lost=max(event.lost, 0),
            jitter_ms=1000 * event.jitter / leg.clock_rate if leg.clock_rate else 0.0, r_factor=r, mos=mos,
        )  # fmt: skip
        self._book.publish("leg.quality", call, speaker=leg.role, mos=round(mos, 2), lost=event.lost)

    def _ask_codec(self, call: TrunkCall, uniqueid: str) -> None:
        """Have a leg's clock rate known, without which jitter cannot be told; asked again with the next report when there is no answer."""
        leg = call.legs.get(uniqueid)
        if leg is not None and not leg.clock_rate and not leg.gone and uniqueid not in self._asked:
            self._asked.add(uniqueid)
            self._tasks.spawn(self._codec(leg), name=f"codec-{uniqueid}")

    async def _codec(self, leg: TrunkLeg) -> None:
        try:
            leg.clock_rate = _clock_rate(await self.client.variable(leg.uniqueid, CODEC))
        except AmiError as error:
            _log.debug("trunk_codec_not_told", channel=leg.channel, error=str(error))
        finally:
            self._asked.discard(leg.uniqueid)

    def _endpoint(self, event: ami.EndpointState) -> None:
        if event.name.partition("-")[0] == "kallglot":
            before = self.endpoints.get(event.name)
            self.endpoints[event.name] = event
            if before is None or before.reachable != event.reachable:
                data = {"endpoint": event.name, "reachable": event.reachable, "detail": event.detail}
                (_log.info if event.reachable else _log.warning)("endpoint.state", **data)
                self._hub.publish("endpoint.state", "", data)

    def unreachable(self) -> list[str]:
        """What qualify says of the endpoints, when it reaches none of them."""
        dead = [state for state in self.endpoints.values() if not state.reachable]
        return [f"{state.name}: {state.detail}" for state in dead] if len(dead) >= len(self._trunk.endpoints) else []

    async def connected(self, channels: list[ChannelInfo]) -> None:
        """After each log-in: end what ended meanwhile; once more later, for channels that were too young to tell."""
        self.reconcile(channels)
        self._tasks.spawn(self._reconcile_after(YOUNG_SECONDS + 0.5), name="reconcile-young")
        self._tasks.spawn(self.check_loaded(), name="check-loaded")

    async def check_loaded(self) -> None:
        """Ask Asterisk whether it has the trunk's transport: it drops one that it cannot set up, and dials over another."""
        found = ""
        try:
            for index in range(len(self._trunk.endpoints)):
                name = section_name(index)
                state = await check_endpoint(self.client, name, self._trunk)
                if state in ("Reachable", "Unreachable"):
                    self._endpoint(ami.EndpointState(name, state == "Reachable", state))
        except NotLoaded:
            pass
        except SipProbeError as error:
            found = str(error)
            if found != self.misloaded:
                _log.error("trunk_transport", problem=found, advice=error.advice)
        self.misloaded = found

    def _place(self, call: TrunkCall) -> None:
        """Several Asterisks may ask our FastAGI; the list of this one's channels says nothing of the others' calls."""
        known = call.elsewhere or call.reason is not None or call.id in self._placed
        if known or not self.client.connected:
            return
        for uniqueid in (call.caller_uniqueid, *call.legs):
            if uniqueid in self._book.in_script:
                self._placed.add(call.id)
                self._tasks.spawn(self._look_for(call, uniqueid), name=f"look-for-{call.id}")
                return

    async def _look_for(self, call: TrunkCall, uniqueid: str) -> None:
        try:
            await self.client.variable(uniqueid, "UNIQUEID")
        except AmiUnavailable:
            self._placed.discard(call.id)
        except AmiError as error:
            if "no such channel" not in str(error).lower():
                _log.debug("trunk_channel_not_asked", channel=uniqueid, error=str(error))
            elif uniqueid in self._book.in_script:  # FastAGI still talks with it, so it lives, on another Asterisk
                self._book.found_elsewhere(call)
            else:
                self._placed.discard(call.id)

    def reconcile(self, channels: list[ChannelInfo]) -> int:
        """Compare with the channels there are: what is not there is gone. How many calls that ended."""
        live = {channel.uniqueid: channel for channel in channels}
        ended = 0
        for call in self._book:
            if call.reason is not None or call.elsewhere:
                continue
            for channel in channels:
                alike = channel.linkedid == call.linkedid and _TRUNK_CHANNEL.fullmatch(channel.channel)
                if alike and self._book.of_channel(channel.uniqueid) in (None, call):
                    self._book.leg(call, channel.uniqueid, channel.channel, call.caller_uniqueid)
            for uniqueid in (*call.parties, *call.legs):
                if uniqueid not in live:
                    if not self._book.is_young(call, uniqueid):
                        call.channel_gone(uniqueid)
                elif live[uniqueid].up:
                    self._book.leg_answered(call, uniqueid)
            if self._book.check(call, lost=call.started_at < self._booted):
                ended += 1
                _log.info("trunk_call_found_gone", call=call.id, session=call.session_id)
        return ended

    async def _reconcile_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        try:
            self.reconcile(await self.client.channels())
        except AmiError as error:
            _log.debug("trunk_reconcile_postponed", error=str(error))

    async def _reconcile_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_SECONDS)
            if self.client.connected:
                await self.check_loaded()
                if len(self._book):
                    await self._reconcile_after(0)

    async def clean(self, call: TrunkCall) -> None:
        """The call ends: hang up the legs that are still up, so that nobody stays alone on a dead session, and who waits in vain."""
        self._placed.discard(call.id)
        channels = {uniqueid: uniqueid for uniqueid in call.waiting()} | {x.uniqueid: x.channel for x in call.live_legs}
        for uniqueid, name in channels.items():
            try:
                await self.client.hangup(uniqueid)
            except AmiError as error:
                _log.warning("trunk_leg_left_up", call=call.id, channel=name, error=str(error))
                return


def _clock_rate(formats: str) -> int:
    """Of the first of Asterisk's formats, ``(opus|ulaw)``; 0 when it names none."""
    name = formats.strip("() ").partition("|")[0]
    if name in ("", "nothing"):
        return 0
    return 48000 if name == "opus" else 8000
