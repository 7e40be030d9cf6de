"""The call: events in, commands out. It does no I/O, keeps no clock and never waits.

After every event the machine compares what the call should look like (who is in which bridge, who hears whom, whose audio goes up)
with what it has asked for already, and asks for the difference. So no order of events can make it ask twice, and a late or repeated
event finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import dialling, ending, features, placing, routing, supervising, transfers, translating
from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import Call, CallPlan
from kallglot_ari.calls.ending import READY_TIMER, RING_TIMER, finish, party_gone, remove, without
from kallglot_ari.calls.legs import Thing
from kallglot_ari.calls.model import CallState, DialplanStatus, EndReason

NO_ANSWER = 19
"""Q.850: no answer from the user."""


class CallMachine(Call):
    """One call. `handle` takes an event and returns the commands it leads to, in order."""

    def __init__(self, plan: CallPlan, now: float, wall: datetime) -> None:
        super().__init__(plan, now, wall)
        self._outstanding: set[c.Command] = set()
        self._finished = False

    # --- in and out --------------------------------------------------------------------------------------------------

    def start(self) -> list[c.Command]:
        """The first commands: session, media and dialling all at once."""
        plan = self.plan
        customer = self.add_leg("customer", plan.speaker, plan.request.source_language)
        commands: list[c.Command] = [c.Publish("call.created", {"caller": plan.caller, "mode": plan.request.mode})]
        commands += self.link.start()
        if plan.dial_customer:
            commands += dialling.dial_customer(self, plan.timeout)
            self.state = CallState.RINGING
        else:
            customer.channel_id, customer.channel_name, customer.up = plan.customer_channel, plan.customer_name, True
            customer.answered = plan.answered
            commands += dialling.ring_agents(self)
        return self._follow(commands)

    def handle(self, event: e.Event, now: float, wall: datetime) -> list[c.Command]:
        """What `event` leads to. Events that mean nothing (any more) lead to nothing."""
        self.now, self.wall = now, wall
        return self._follow(_HANDLERS[type(event)](self, event))

    def go_on(self, commands: list[c.Command]) -> list[c.Command]:
        """The first commands of a call that another process had: `commands`, and what its state still lacks."""
        return self._follow(commands)

    @property
    def finished(self) -> bool:
        """Nothing of the call is left."""
        return self._finished

    def knows(self, channel_id: str) -> bool:
        """Whether a channel is anything to the call, be it one that it is letting go."""
        legs = (thing for leg in self.legs.values() for thing in (leg.channel_id, leg.media_id))
        releasing = (getattr(command, "channel_id", "") for command in self._outstanding)
        return channel_id in {*legs, *releasing, *self.candidates, *self.unwanted}

    def _follow(self, commands: list[c.Command]) -> list[c.Command]:
        """Add what follows from the new state, note what is under way, and see whether that was all."""
        if self.active:
            commands = commands + self._reconcile()
        if self.link.session:
            self.last_session = self.link.session.id
        for command in commands:
            if isinstance(command, c.RELEASING):
                self._outstanding.add(command)
        if (
            self.state is CallState.ENDING
            and not self._outstanding
            and all(link.settled for link in self.links)
            and not self._finished
        ):
            assert self.reason is not None
            assert self.status is not None
            self._finished = True
            self.state = CallState.ENDED
            self.ended_wall = self.wall
            commands = [*commands, c.Finish(self.reason, self.status)]
        return commands

    # --- the state that should be ------------------------------------------------------------------------------------

    def _reconcile(self) -> list[c.Command]:
        commands = translating.judge(self)
        if not self.active:
            return commands
        commands += translating.reconcile(self)
        commands += translating.tell_session(self)
        commands += placing.reconcile(self)
        commands += routing.reconcile(self)
        commands += translating.tell_direct(self)
        commands += self._progress()
        return commands

    def _progress(self) -> list[c.Command]:
        """Notice that the call is answered, and that it is up."""
        commands: list[c.Command] = []
        up = self.parties
        if self.answered_at is None and up and self.first_are_there:
            self.answered_at, self.answered_wall = self.now, self.wall
            commands += [c.CancelTimer(RING_TIMER), c.Publish("call.answered", {})]
            commands += translating.wait_for_kallglot(self)
        if self.state is CallState.ACTIVE or self.answered_at is None:
            return commands
        placed = all(leg.in_bridge and leg.in_bridge == leg.in_bridge_done for leg in up)
        translated = translating.is_open(translating.serving(self)) and all(leg.connected for leg in up)
        if placed and (self.direct or translated):
            self.state, self.unready = CallState.ACTIVE, False
            commands.append(c.CancelTimer(READY_TIMER))
            commands.append(c.Publish("call.active", {"setup_seconds": self.now - self.answered_at}))
            # An `h` extension of a caller who hangs up first finds it set.
            commands += [
                c.SetVariable(leg.channel_id, "KALLGLOT_STATUS", DialplanStatus.COMPLETED.value)
                for leg in up
                if not leg.ours
            ]
        return commands

    # --- Asterisk's events -------------------------------------------------------------------------------------------

    def _entered(self, event: e.ChannelEntered) -> list[c.Command]:
        for leg in self.legs.values():
            if leg.media_id == event.channel_id:
                leg.media_entered = True
                return []
        candidate = self.candidates.pop(event.channel_id, None)
        if event.channel_id in self.unwanted:
            self.unwanted.discard(event.channel_id)
            return [c.Hangup(event.channel_id)]
        if candidate is None or not self.active:
            return self._stray(event.channel_id)
        if not candidate.screened and event.screened == "":
            return dialling.screen(self, candidate)
        if not candidate.screened and event.screened == dialling.MACHINE:
            return dialling.machine_answered(self, candidate)
        return dialling.answered(self, candidate, event.name)

    def _stray(self, channel_id: str) -> list[c.Command]:
        """One that we made and no longer know enters: the request, or the one to hang up, had no answer, and was carried out all the same."""
        leg, hangup = self.leg_of(channel_id), c.Hangup(channel_id)
        if leg is not None and leg.up:
            return []
        return [] if self._finished or hangup in self._outstanding else [hangup]

    def _left(self, event: e.ChannelLeft) -> list[c.Command]:
        self.unwanted.discard(event.channel_id)
        leg = self.leg_of(event.channel_id)
        if leg is not None and leg.up and self.active:
            return party_gone(self, leg)
        return placing.media_lost(self, event.channel_id, still_there=True)

    def _gone(self, event: e.ChannelGone) -> list[c.Command]:
        if not self.active:
            return []
        candidate = self.candidates.pop(event.channel_id, None)
        if candidate is not None:
            return dialling.candidate_failed(self, candidate, event.cause)
        leg = self.leg_of(event.channel_id)
        if leg is not None:
            leg.hung_up = True
            return party_gone(self, leg) if leg.up else []
        return placing.media_lost(self, event.channel_id, still_there=False)

    def _bridge_gone(self, event: e.BridgeGone) -> list[c.Command]:
        placing.bridge_lost(self, event.bridge_id)
        return []

    def _asterisk_lost(self, event: e.AsteriskLost) -> list[c.Command]:
        if not self.active:
            return []
        self.problem = event.problem
        left = [leg for leg in self.legs.values() if leg.up]
        for leg in left:
            leg.up = False
        told: list[c.Command] = [c.Publish("leg.left", {"speaker": leg.speaker}) for leg in left]
        return told + finish(self, EndReason.ERROR, DialplanStatus.FAILED)

    def _hangup_requested(self, event: e.HangupRequested) -> list[c.Command]:
        leg = self.leg_of(event.channel_id)
        if leg is not None:
            leg.hung_up = True
        return []

    def _ringing(self, event: e.ChannelRinging) -> list[c.Command]:
        candidate = self.candidates.get(event.channel_id)
        if candidate is None or candidate.ringing:
            return []
        candidate.ringing = True
        return [
            *transfers.progress(candidate, "channel_progress"),
            c.Publish("leg.ringing", {"endpoint": candidate.endpoint}),
        ]

    def _hold(self, event: e.HoldChanged) -> list[c.Command]:
        leg = self.leg_of(event.channel_id)
        if leg is None or leg.held == event.held:
            return []
        leg.held = event.held
        return [c.Publish("hold" if event.held else "unhold", {"speaker": leg.speaker})]

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def _done(self, event: e.Done) -> list[c.Command]:
        self._outstanding.discard(event.command)
        placing.made(self, event.command)
        return []

    def _lost(self, event: e.CandidateLost) -> list[c.Command]:
        candidate = self.candidates.pop(event.channel_id, None)
        return dialling.lost(self, candidate) if candidate is not None and self.active else []

    def _forwarded(self, event: e.CandidateForwarded) -> list[c.Command]:
        candidate = self.candidates.pop(event.channel_id, None)
        return (
            [c.Hangup(event.forwarded)] if candidate is None else dialling.forwarded(self, candidate, event.forwarded)
        )

    def _failed(self, event: e.Failed) -> list[c.Command]:
        command = event.command
        if isinstance(command, c.RELEASING):
            # What could not be removed is swept later; the call must not wait for it.
            return self._done(e.Done(command))
        if isinstance(command, c.CreateSession):
            return [x for link in self.links for x in link.refused(command, event.error)]
        if not self.active:
            return []
        match command:
            case c.Dial() | c.Fetch():
                candidate = self.candidates.pop(command.channel_id, None)
                return dialling.not_placed(self, candidate) if candidate else []
            case c.CreateMedia():
                return placing.media_failed(self, command)
            case c.CreateBridge():
                leg = next((leg for leg in self.legs.values() if leg.bridge_id == command.bridge_id), None)
                return ending.leg_failed(self, leg, event.error) if leg is not None else []
            case c.AddToBridge() | c.Answer():
                return self._place_failed(command, event)
            case _:
                return []

    def _place_failed(self, command: c.AddToBridge | c.Answer, event: e.Failed) -> list[c.Command]:
        for leg in self.legs.values():
            if leg.media_id == command.channel_id and leg.media is Thing.LIVE:
                leg.media = Thing.GONE
                leg.media_bridged = False
                return [c.RemoveMedia(leg.media_id, leg.id)]
            if leg.channel_id == command.channel_id and leg.up:
                if event.gone:
                    return []  # its own event says so, and says who hung up
                return ending.leg_failed(self, leg, event.error)
        return []

    def _session_created(self, event: e.SessionCreated) -> list[c.Command]:
        return [x for link in self.links for x in link.created(event.command, event.session)]

    def _stream_up(self, event: e.StreamUp) -> list[c.Command]:
        link = self.link_of(event.session_id)
        return link.stream_up(event.session_id) if link else []

    def _stream_down(self, event: e.StreamDown) -> list[c.Command]:
        link = self.link_of(event.session_id)
        if link is None or not self.active:
            return []
        if translating.has_done_its_part(self, event.ended):
            return finish(self, EndReason.COMPLETED, DialplanStatus.COMPLETED)
        return link.stream_down(event.session_id, event.reason, self.now, final=event.final)

    def _timer(self, event: e.TimerFired) -> list[c.Command]:
        if not self.active:
            return []
        match event.name:
            case "ring" if self.waits_for_agent:
                return finish(self, EndReason.TIMEOUT, DialplanStatus.NOANSWER)
            case "ready":
                return translating.not_ready(self)
            case name if name.startswith("link."):
                return [x for link in self.links for x in link.timer(name)]
            case name if name.startswith(placing.MEDIA_TIMER):
                placing.media_again(self, name)
                return []
            case name if name.startswith(features.DIGITS_TIMER):
                return features.waited(self, name)
            case name if name.startswith("candidate."):
                candidate = self.candidates.get(name.removeprefix("candidate."))
                if candidate is None:
                    return []
                given_up = self.give_up(candidate.channel_id)
                return given_up + dialling.candidate_failed(self, candidate, NO_ANSWER)
            case _:
                return []

    # --- what people ask ---------------------------------------------------------------------------------------------

    def _hangup_asked(self, event: e.HangupAsked) -> list[c.Command]:
        if event.by == "drain" and self.answered_at is None:  # who still waits for an agent can have one without us
            hang_up = self.plan.on_unavailable == "hangup"
            return finish(self, EndReason.ERROR, DialplanStatus.UNAVAILABLE, hang_up=hang_up)
        return finish(self, EndReason.COMPLETED, DialplanStatus.COMPLETED)

    def _dropped(self, event: e.PartyDropped) -> list[c.Command]:
        leg = self.leg_named(event.speaker)
        if leg is None or not self.active:
            return []
        if leg.up:
            return [c.Hangup(leg.channel_id)]
        if leg.vacant:
            return without(self, leg, DialplanStatus.COMPLETED)
        return [] if leg.id in ("customer", "agent") else remove(self, leg)

    def _send_dtmf(self, event: e.DtmfAsked) -> list[c.Command]:
        leg = self.leg_named(event.speaker)
        if leg is None or not leg.up or not self.active:
            return []
        return [c.SendDtmf(leg.channel_id, event.digits)]

    def _joined(self, event: e.PartyJoined) -> list[c.Command]:
        if not self.active or self.full:
            status = DialplanStatus.BUSY if self.active else DialplanStatus.FAILED
            return [
                c.SetVariable(event.channel_id, "KALLGLOT_STATUS", status.value),
                c.ContinueInDialplan(event.channel_id),
            ]
        leg = self.add_party(event.speaker, event.language)
        leg.channel_id, leg.channel_name, leg.up = event.channel_id, event.name, True
        told: list[c.Command] = [c.Publish("leg.joined", {"speaker": leg.speaker, "channel": event.name})]
        if self.state is CallState.ACTIVE:
            told.append(c.SetVariable(leg.channel_id, "KALLGLOT_STATUS", DialplanStatus.COMPLETED.value))
        return told

    def _party_asked(self, event: e.PartyAsked) -> list[c.Command]:
        if not self.active or self.full:
            return []
        leg = self.add_party(event.speaker, event.language)
        return dialling.dial_for(self, event.endpoint, leg.id, event.timeout)[1]


_HANDLERS: dict[type[e.Event], Callable[[CallMachine, Any], list[c.Command]]] = {
    e.ChannelEntered: CallMachine._entered,
    e.ChannelLeft: CallMachine._left,
    e.ChannelGone: CallMachine._gone,
    e.CandidateLost: CallMachine._lost,
    e.CandidateForwarded: CallMachine._forwarded,
    e.HangupRequested: CallMachine._hangup_requested,
    e.ChannelRinging: CallMachine._ringing,
    e.BridgeGone: CallMachine._bridge_gone,
    e.AsteriskLost: CallMachine._asterisk_lost,
    e.DtmfReceived: features.dialled,
    e.HoldChanged: CallMachine._hold,
    e.Done: CallMachine._done,
    e.Failed: CallMachine._failed,
    e.SessionCreated: CallMachine._session_created,
    e.StreamUp: CallMachine._stream_up,
    e.StreamDown: CallMachine._stream_down,
    e.TimerFired: CallMachine._timer,
    e.HangupAsked: CallMachine._hangup_asked,
    e.TransferAsked: transfers.asked,
    e.FetchAsked: transfers.fetch,
    e.PartyReplaced: transfers.replaced,
    e.PartyGiven: transfers.given,
    e.DialplanAsked: transfers.to_dialplan,
    e.PartyDropped: CallMachine._dropped,
    e.DtmfAsked: CallMachine._send_dtmf,
    e.OriginalAsked: features.original,
    e.SuperviseAsked: supervising.asked,
    e.SuperviseChanged: supervising.changed,
    e.PartyJoined: CallMachine._joined,
    e.PartyAsked: CallMachine._party_asked,
}
"""One table for all calls: a machine that held its own methods would wait for the garbage collector."""
