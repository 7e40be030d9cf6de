"""Media mode: calls that the dialplan hands over with `Stasis(kallglot,…)`."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from kallglot_ari.ari import models as m
from kallglot_ari.ari.snapshot import Connected, Disconnected, Snapshot
from kallglot_ari.ari.socket import SocketEvent
from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import CallPlan
from kallglot_ari.calls.legs import Leg, Role
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import CUSTOMER, CallView, DialplanStatus, SessionRequest
from kallglot_ari.calls.orders import Invitation, Outbound, Supervision, Supervisor, Transfer
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.calls.supervising import EVERYBODY
from kallglot_ari.errors import AriError, ServiceBusy, UsageError
from kallglot_ari.log import get
from kallglot_ari.modes import dialplan
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.away import Away
from kallglot_ari.modes.diagnosis import ask, captures
from kallglot_ari.modes.holds import Holds
from kallglot_ari.modes.journal import Journal
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.phone_transfers import PhoneTransfers
from kallglot_ari.modes.registry import Registry
from kallglot_ari.modes.resume import Resume
from kallglot_ari.modes.sweep import Sweep
from kallglot_ari.settings import ConferenceSettings, FeatureSettings, KallglotSettings, MediaSettings, ServiceSettings
from kallglot_ari.tasks import Tasks

_log = get(__name__)

Q850_DEFAULT = 16
Q850_BUSY = 17
ARI_BREAK = 2.0
"""Seconds for which a call that is to be placed waits for Asterisk."""
FETCHED = ("join=fetched",)
"""What the dialplan of asterisk-conf says of a channel that it brings to us on our behalf."""

_DIALLED = re.compile(r"kg-[^.]+\.d\d+")


def _made(event: m.StasisStart) -> bool:
    """Whether the channel enters because we made it; one that we dialled and gave to the dialplan enters as any caller does."""
    if event.args == ("dialled",):
        return True  # also where its phone sent the call on: there Asterisk names it
    if not event.channel.id.startswith("kg-"):
        return False
    if not _DIALLED.fullmatch(event.channel.id):
        return True  # external media
    return any(argument.startswith("screened=") for argument in event.args)


def _awaited(machine: CallMachine, event: m.StasisStart) -> bool:
    """Whether a channel of this call enters for it; otherwise it was in the dialplan since, and comes as a caller."""
    channel_id = event.channel.id
    if channel_id in machine.candidates or _made(event):
        return True
    return channel_id in machine.unwanted and event.args == FETCHED


class StasisMode:
    """Turns ARI's events into those of calls, and callers into calls."""

    def __init__(
        self,
        plant: Plant,
        service: ServiceSettings,
        kallglot: KallglotSettings,
        media: MediaSettings,
        conference: ConferenceSettings,
        features: FeatureSettings,
        prefix: str,
        journal: Journal,
        load: Load,
        others: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """:param others: whether a channel that the application hears of is another part's of this service."""
        self._plant = plant
        self._service = service
        self._kallglot = kallglot
        self._conference = conference
        self._plan = partial(
            CallPlan,
            on_unavailable=service.on_unavailable,
            original_gain_db=media.original_gain_db,
            original_duck_db=media.original_duck_db,
            max_parties=conference.max_participants,
            features=features.codes,
            human=features.human_endpoint,
        )
        """Of a call, with what is the same for all."""
        self._prefix = prefix
        self.calls = Registry(plant, journal)
        load.add(self.calls.__len__)
        self._load = load
        self.resume = Resume(plant, journal, self.calls, prefix, embedded=kallglot.embedded)
        self._contexts: dict[str, str] = {}
        self._busy: set[str] = set()
        """Channels that were dialled and are busy: one whose dialplan said so, with Busy(), is destroyed without a cause."""
        self._tasks = Tasks("stasis")
        self._holds = Holds(plant, self.calls, self._tasks)
        self._transfers = PhoneTransfers(plant, self.calls, self._tasks)
        self._away = Away(self.calls, plant.clock)
        self._sweep = Sweep(
            plant, self.calls, prefix, partial(self._give_back, left=True), lambda: journal.inherited,
            lambda channel_id: channel_id in self.resume.finishing or others(channel_id),
        )  # fmt: skip
        self._draining = False

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to ask how the parties' own channels fare, and to look for what nobody owns."""
        self._sweep.start()
        self._tasks.spawn(self._plant.sip.follow(self.calls.legs), name="sip-quality")

    def refuse_new(self) -> None:
        """From now on every caller goes back to the dialplan."""
        self._draining = True

    async def drain(self, seconds: float) -> None:
        """Let calls end by themselves for `seconds`, then hang them up and wait until they are gone."""
        self.refuse_new()
        if not await self.calls.wait_empty(seconds):
            _log.warning("drain_over", calls=len(self.calls))
            for runner in self.calls.runners():
                runner.post(e.HangupAsked("drain"))
            await self.calls.wait_empty(15)

    async def close(self) -> None:
        await self._away.close()
        await self._sweep.close()
        await self.resume.close()
        await self.calls.close()
        await self._tasks.close()

    # --- Asterisk's events -------------------------------------------------------------------------------------------

    def on_event(self, event: SocketEvent) -> None:
        """The sink of the event socket: in order, never waits."""
        match event:
            case m.StasisStart():
                self._entered(event)
            case m.StasisEnd():
                self._post(event.channel.id, e.ChannelLeft(event.channel.id))
                self._contexts.pop(event.channel.id, None)  # of one that goes on in the dialplan no more is heard
            case m.ChannelDestroyed():
                busy = Q850_BUSY if event.channel.id in self._busy else 0
                self._post(event.channel.id, e.ChannelGone(event.channel.id, event.cause or busy))
                self._contexts.pop(event.channel.id, None)
                self._busy.discard(event.channel.id)
            case m.ChannelHangupRequest():
                self._post(event.channel.id, e.HangupRequested(event.channel.id, event.cause or Q850_DEFAULT))
            case m.ChannelStateChange() if event.channel.state == "Ringing":
                self._post(event.channel.id, e.ChannelRinging(event.channel.id))
            case m.Dial() if event.forwarded is not None:
                self._forwarded(event.peer.id, event.forwarded.id)
            case m.Dial() if event.dialstatus in ("RINGING", "PROGRESS"):
                self._post(event.peer.id, e.ChannelRinging(event.peer.id))
            case m.Dial() if event.dialstatus == "BUSY" and self.calls.owner(event.peer.id) is not None:
                self._busy.add(event.peer.id)
            case m.ChannelDtmfReceived():
                at = event.timestamp.timestamp() if event.timestamp else 0.0
                self._post(event.channel.id, e.DtmfReceived(event.channel.id, event.digit, event.duration_ms, at))
            case m.ChannelHold():
                self._post(event.channel.id, e.HoldChanged(event.channel.id, True))
            case m.ChannelUnhold():
                self._post(event.channel.id, e.HoldChanged(event.channel.id, False))
            case m.ChannelTransfer():
                self._transfers.asked(event)
            case m.BridgeDestroyed():
                self._post(event.bridge.id, e.BridgeGone(event.bridge.id))
            case Connected():
                self._away.ends()
                self._sweep.connected(event.snapshot)
                self._resume(event.snapshot)
            case Disconnected() if self.calls.runners():
                _log.warning("calls_wait_for_asterisk", calls=len(self.calls))
                self._away.begins()
            case _:
                pass

    def _post(self, thing: str, event: e.Event) -> None:
        if runner := self.calls.owner(thing):
            runner.post(event)

    def _forwarded(self, channel_id: str, forwarded: str) -> None:
        """A phone that we dial sent its call on; what Asterisk dials for it is ours only once it is asked for."""
        if runner := self.calls.owner(channel_id):
            self.calls.adopt(forwarded, runner)
            runner.post(e.CandidateForwarded(channel_id, forwarded))
            self._tasks.spawn(self._watch(runner, forwarded), name="watch-forwarded")

    async def _watch(self, runner: CallRunner, channel_id: str) -> None:
        """Hear of it before it enters our application: that it rings, which it may do already, and that nobody came."""
        try:
            await self._plant.ari.applications.subscribe(self._plant.app, event_source=f"channel:{channel_id}")
            if (await self._plant.ari.channels.get(channel_id)).state == "Ringing":
                runner.post(e.ChannelRinging(channel_id))
        except AriError as error:
            if error.retryable:
                _log.debug("forwarded_not_watched", call=runner.id, channel=channel_id, error=str(error))
            elif channel_id in runner.machine.candidates:
                runner.post(e.ChannelGone(channel_id, 0))

    def _entered(self, event: m.StasisStart) -> None:
        channel = event.channel
        self._transfers.watch(channel)
        if self._transfers.replaced(event):
            return
        runner = self.calls.owner(channel.id)
        if runner is not None and _awaited(runner.machine, event):
            self.calls.returned(channel.id)
            runner.post(e.ChannelEntered(channel.id, channel.name, dialplan.screened(event.args)))
        elif runner is None and _made(event):
            self._tasks.spawn(self._settled(self._plant.ari.channels.hangup(channel.id)), name="remove")
        else:
            self.calls.let_go(channel.id)
            self._new_caller(event, instead=runner is not None and not runner.machine.active)

    # --- new calls ---------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """An id for a call: our instance's prefix, so that a later run finds what is ours."""
        return f"{self._prefix}-{secrets.token_hex(5)}"

    def _new_caller(self, event: m.StasisStart, *, instead: bool = False) -> None:
        """:param instead: its last call is still ending, and counted among those that are up."""
        channel = event.channel
        try:
            asked = dialplan.parse(event.args, self._kallglot.mode)
        except UsageError as error:
            _log.error("stasis_arguments_refused", channel=channel.name, error=str(error))
            self._send_back(channel.id, DialplanStatus.FAILED, "arguments")
            return
        if asked.join:
            self._join(channel, asked)
            return
        if asked.participants > self._conference.max_participants:
            most = self._conference.max_participants
            _log.error("stasis_arguments_refused", channel=channel.name, error=f"participants: expected at most {most}")
            self._send_back(channel.id, DialplanStatus.FAILED, "arguments")
            return
        if (reason := self.full) and not (instead and reason == "max_calls"):
            _log.warning("call_refused", channel=channel.name, reason=reason)
            self._send_back(channel.id, DialplanStatus.BUSY, reason)
            return
        self._contexts[channel.id] = channel.dialplan.context
        caller = channel.caller.number
        request = self._request(asked, caller, channel)
        self.calls.start(
            self._plan(
                call_id=self.new_id(),
                customer_channel=channel.id,
                customer_name=channel.name,
                caller=caller,
                request=request,
                agents=asked.agents,
                timeout=asked.timeout,
                answer_now=asked.answer == "now" or not asked.agents,
                answered=channel.state == "Up",
                speaker=asked.speaker or CUSTOMER,
            )
        )

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def full(self) -> str:
        """Why no more calls are taken at the moment: `draining`, `max_calls`, `overload`; empty: they are."""
        late = self._service.shed_late_ms
        if self._draining:
            return "draining"
        if self._load.full:
            return "max_calls"
        return "overload" if late and self._plant.media.late * 1000 > late else ""

    def _request(self, asked: dialplan.StasisArguments, caller: str, channel: m.Channel) -> SessionRequest:
        metadata = {"caller_id": caller, "channel": channel.name, "linkedid": channel.id, **asked.metadata}
        return SessionRequest(
            mode=asked.mode or self._kallglot.mode,
            source_language=asked.source or self._kallglot.source_language,
            target_language=asked.target or self._kallglot.target_language,
            metadata={k: v for k, v in metadata.items() if v},
            participants=asked.participants,
            from_uri=f"tel:{caller}" if caller.lstrip("+").isdigit() else "",
        )

    def _join(self, channel: m.Channel, asked: dialplan.StasisArguments) -> None:
        runner = self.calls.to_join(asked.join)
        if runner is None:
            _log.error("join_refused", channel=channel.name, error=f"join: no call with session {asked.join}")
            self._send_back(channel.id, DialplanStatus.FAILED, "join")
            return
        self.calls.adopt(channel.id, runner)
        runner.post(e.PartyJoined(channel.id, channel.name, asked.speaker, asked.source))

    def _send_back(self, channel_id: str, status: DialplanStatus, reason: str) -> None:
        self._plant.metrics.calls_refused.labels(reason=reason).inc()
        self._tasks.spawn(self._give_back(channel_id, status), name="send-back")

    async def _give_back(self, channel_id: str, status: DialplanStatus, *, left: bool = False) -> None:
        """:param left: by a call that is no more, and may have begun music for it."""
        channels = self._plant.ari.channels
        if left:
            await self._settled(channels.stop_moh(channel_id))
        await self._settled(channels.set_channel_var(channel_id, variable="KALLGLOT_STATUS", value=status.value))
        await self._settled(channels.continue_in_dialplan(channel_id))

    async def _settled(self, asking: Awaitable[None]) -> None:
        try:
            await asking
        except AriError as error:
            _log.debug("too_late", error=str(error))

    def _resume(self, seen: Snapshot) -> None:
        self.resume.connected(seen, partial(self._give_back, left=True))
        there = {channel.id for channel in seen.channels}
        for gone in self._contexts.keys() - there:
            del self._contexts[gone]  # nobody heard of its end
        self._busy &= there
        for channel in seen.channels:
            if self.calls.owner(channel.id) is not None:
                self._contexts.setdefault(channel.id, channel.dialplan.context)
        self._holds.connected()

    # --- what people ask ---------------------------------------------------------------------------------------------

    async def originate(self, order: Outbound) -> CallView:
        """:raises UsageError: :raises ServiceBusy: :raises AriError: Asterisk is away: a session for nobody would cost money."""
        plan = self._plan(
            call_id=self.new_id(),
            customer_channel="",
            request=SessionRequest(
                mode=self._kallglot.mode,
                source_language=dialplan.language("source", order.source or self._kallglot.source_language),
                target_language=dialplan.language("target", order.target or self._kallglot.target_language),
                direction="outbound",
            ),
            dial_customer=dialplan.dial_string("customer", order.customer),
            agents=dialplan.dial_strings("agent", order.agent) if order.agent else (),
            timeout=order.timeout,
            caller_id=order.caller_id,
            only_humans=order.only_humans,
        )
        await self._plant.ari.wait_connected(ARI_BREAK)
        if self.full:
            raise ServiceBusy("this service takes no more calls at the moment")
        return self.calls.start(plan).machine.view()

    async def transfer(self, call_id: str, order: Transfer) -> None:
        """:raises LookupError: :raises UsageError:"""
        runner = self.calls.get(call_id)
        leg = self._party(runner, order.party)
        if place := dialplan.place("target", order.target):
            if not await self._exists(leg.channel_id, *place):
                raise UsageError(f"target: expected a place in the dialplan, found none at {order.target}")
            runner.post(e.DialplanAsked(leg.speaker, *place))
            return
        if order.mode == "warm" and (runner.machine.full or runner.machine.consulting is not None):
            raise UsageError("mode: a warm transfer needs a free place in the call, and no other one under way")
        customer = runner.machine.legs.get("customer")
        context = self._contexts.get(customer.channel_id, "default") if customer else "default"
        runner.post(
            e.TransferAsked(
                leg.speaker,
                dialplan.target("target", order.target, context),
                order.timeout,
                dialplan.language("language", order.language) if order.language else "",
                consult=order.mode == "warm",
            )
        )

    @staticmethod
    def _party(runner: CallRunner, party: str) -> Leg:
        """:raises UsageError: for a party that is not there."""
        leg = runner.machine.leg_named(party)
        if leg is None or not leg.up:
            raise UsageError(f"party: expected a party that is up, found {party!r}")
        return leg

    async def _exists(self, channel_id: str, context: str, extension: str, priority: str) -> bool:
        """Whether the dialplan has that place; without func_dialplan nobody knows, and it is taken as there."""
        try:
            found = await self._plant.ari.channels.get_channel_var(
                channel_id, variable=f"DIALPLAN_EXISTS({context},{extension},{priority})"
            )
        except AriError:
            return True
        return found.value != "0"

    async def drop(self, call_id: str, *, party: str) -> None:
        """Let one party go. :raises LookupError: :raises UsageError:"""
        runner = self.calls.get(call_id)
        if runner.machine.leg_named(party) is None:
            raise UsageError(f"party: expected one of the call's parties, found {party!r}")
        runner.post(e.PartyDropped(party))

    async def supervise(self, call_id: str, order: Supervisor) -> CallView:
        """:raises LookupError: :raises UsageError:"""
        runner = self.calls.get(call_id)
        role = Role(order.mode)
        if role is Role.PARTY and runner.machine.full:
            raise UsageError("mode: the call has as many parties as it may; whoever would break in is one more")
        if len(runner.machine.supervisors) >= runner.machine.plan.max_parties:
            raise UsageError("endpoint: the call has as many supervisors as it may")
        self._heard(runner, order.hear)
        runner.post(
            e.SuperviseAsked(
                dialplan.dial_string("endpoint", order.endpoint),
                role,
                order.hear,
                order.translated,
                dialplan.language("language", order.language) if order.language else "",
                dialplan.speaker("speaker", order.speaker) if order.speaker else "",
            )
        )
        return runner.machine.view()

    async def change_supervision(self, call_id: str, speaker: str, order: Supervision) -> None:
        """Let a supervisor go on in another way. :raises LookupError: :raises UsageError:"""
        runner = self.calls.get(call_id)
        leg = runner.machine.leg_named(speaker)
        if leg is None or not leg.supervises:
            raise UsageError(f"speaker: expected a supervisor of the call, found {speaker!r}")
        if order.mode == Role.PARTY and leg.role is not Role.PARTY and runner.machine.full:
            raise UsageError("mode: the call has as many parties as it may; whoever would break in is one more")
        self._heard(runner, order.hear)
        runner.post(e.SuperviseChanged(leg.speaker, Role(order.mode), order.hear, order.translated))

    @staticmethod
    def _heard(runner: CallRunner, hear: str) -> None:
        parties = [leg.speaker for leg in runner.machine.parties]
        if hear != EVERYBODY and hear not in parties:
            raise UsageError(f"hear: expected both or one of {', '.join(parties)}, found {hear!r}")

    async def dtmf(self, call_id: str, *, party: str, digits: str) -> None:
        """Send digits to a party. :raises LookupError: :raises UsageError:"""
        runner = self.calls.get(call_id)
        leg = self._party(runner, party)
        runner.post(e.DtmfAsked(leg.speaker, dialplan.digits("digits", digits)))

    async def original(self, call_id: str, *, party: str, gain_db: float | None) -> None:
        """Others' own voices under the translation, for one party. :raises LookupError: :raises UsageError:"""
        runner = self.calls.get(call_id)
        runner.post(e.OriginalAsked(self._party(runner, party).speaker, gain_db))

    async def capture(self, call_id: str, *, on: bool) -> Path:
        """Begin or end a call's capture; its file. :raises LookupError: :raises UsageError:"""
        return await self.calls.actions(call_id).capture(on=on)

    async def captured(self, call_id: str) -> Path | None:
        """The last capture of a call, of one that has ended as well."""
        folder = self._plant.debug.dir
        found = await ask(folder, lambda: captures(folder, call_id))
        return found[-1] if found else None

    def session_ended(self, session_id: str, reason: str) -> bool:
        """Kallglot says that a session is over; False for one that no call has. It is the same as when its stream says so."""
        runner = self.calls.of_session(session_id)
        if runner is None:
            return False
        why = f"session ended: {reason or 'no reason'}"
        runner.post(e.StreamDown(session_id, why, final=True, ended=reason))
        return True

    async def hangup(self, call_id: str) -> None:
        """End a call. :raises LookupError:"""
        self.calls.get(call_id).post(e.HangupAsked("api"))
        await asyncio.sleep(0)

    async def add_leg(self, call_id: str, order: Invitation) -> CallView:
        """:raises LookupError: :raises UsageError:"""
        runner = self.calls.get(call_id)
        if runner.machine.full:
            raise UsageError(f"endpoint: the call has {len(runner.machine.legs)} parties already, which is the most")
        runner.post(
            e.PartyAsked(
                dialplan.dial_string("endpoint", order.endpoint),
                dialplan.speaker("speaker", order.speaker) if order.speaker else "",
                dialplan.language("language", order.language) if order.language else "",
            )
        )
        return runner.machine.view()
