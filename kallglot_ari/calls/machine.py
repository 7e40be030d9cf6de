"""The call: events in, commands out. It does no I/O, keeps no clock and never waits.

After every event the machine compares what the call should look like (who is in which bridge, who hears whom, whose audio goes up)
with what it has asked for already, and asks for the difference. So no order of events can make it ask twice, and a late or repeated
event finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Candidate, Leg, Thing
from kallglot_ari.calls.link import HEAL_TIMER, RETRY_TIMER, Link, LinkState
from kallglot_ari.calls.model import (
    AGENT,
    CUSTOMER,
    CallState,
    CallView,
    DialplanStatus,
    EndReason,
    LegView,
    SessionRequest,
)

RING_TIMER = "ring"
READY_TIMER = "ready"
READY_SECONDS = 5.0
"""How long parties that are up may wait for Kallglot before they are connected directly."""
MEDIA_TRIES = 3
BUSY_CAUSES = frozenset({17, 21})
"""Q.850: user busy, call rejected."""
NO_ANSWER_CAUSES = frozenset({16, 18, 19, 26, 102})
"""Q.850: no user responding, no answer, and what Asterisk says of a dial that ran out of time."""


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What was asked for: the dialplan's arguments, or the API's."""

    call_id: str
    customer_channel: str
    customer_name: str = ""
    caller: str = ""
    request: SessionRequest = field(default_factory=SessionRequest)
    agents: tuple[str, ...] = ()
    timeout: float = 30.0
    answer_now: bool = False
    """Answer the caller at once instead of with the agent."""
    answered: bool = False
    """The caller was answered already."""
    speaker: str = CUSTOMER
    on_unavailable: str = "continue"
    original_gain_db: float | None = None
    max_parties: int = 5
    dial_customer: str = ""
    """Outbound: dial this endpoint first; the agents are dialled when it answers."""
    caller_id: str = ""


class CallMachine:
    """One call. `handle` takes an event and returns the commands it leads to, in order."""

    def __init__(self, plan: CallPlan, now: float, wall: datetime) -> None:
        self.plan = plan
        self.state = CallState.SETUP
        self.link = Link(plan.call_id)
        self.legs: dict[str, Leg] = {}
        self.candidates: dict[str, Candidate] = {}
        self.reason: EndReason | None = None
        self.status: DialplanStatus | None = None
        self.direct = False
        """The parties are connected without translation."""
        self.dtmf: list[dict[str, str]] = []
        self.problem = ""
        self._start_wall = wall
        self._answered_wall: datetime | None = None
        self._ended_wall: datetime | None = None
        self._answered_at: float | None = None
        self._outstanding: set[c.Command] = set()
        self._finished = False
        self._serial = 0
        self._failures: list[tuple[int, bool]] = []
        self._deaf_to: tuple[tuple[str, tuple[str, ...]], ...] = ()
        self._ringing_told = False
        self._session_told: set[str] = set()
        self._now = now
        self._wall = wall
        self._handlers: dict[type[e.Event], Callable[[Any], list[c.Command]]] = {
            e.ChannelEntered: self._entered,
            e.ChannelLeft: self._left,
            e.ChannelGone: self._gone,
            e.HangupRequested: self._hangup_requested,
            e.ChannelRinging: self._ringing,
            e.BridgeGone: self._bridge_gone,
            e.DtmfReceived: self._dtmf,
            e.HoldChanged: self._hold,
            e.Done: self._done,
            e.Failed: self._failed,
            e.SessionCreated: self._session_created,
            e.StreamUp: lambda ev: self.link.stream_up(ev.session_id),
            e.StreamDown: self._stream_down,
            e.TimerFired: self._timer,
            e.HangupAsked: self._hangup_asked,
            e.TransferAsked: self._transfer,
            e.DtmfAsked: self._send_dtmf,
            e.PartyJoined: self._joined,
            e.PartyAsked: self._party_asked,
        }

    # --- in and out --------------------------------------------------------------------------------------------------

    def start(self) -> list[c.Command]:
        """The first commands: session, media and dialling all at once."""
        plan = self.plan
        customer = self._add_leg("customer", plan.speaker, plan.request.source_language)
        commands: list[c.Command] = [c.Publish("call.created", {"caller": plan.caller, "mode": plan.request.mode})]
        commands += self.link.start()
        if plan.dial_customer:
            commands += self._dial(plan.dial_customer, "customer", plan.timeout)
            self.state = CallState.RINGING
        else:
            customer.channel_id, customer.channel_name, customer.up = plan.customer_channel, plan.customer_name, True
            customer.answered = plan.answered
            commands += self._ring_agents()
        return self._follow(commands)

    def handle(self, event: e.Event, now: float, wall: datetime) -> list[c.Command]:
        """What `event` leads to. Events that mean nothing (any more) lead to nothing."""
        self._now, self._wall = now, wall
        return self._follow(self._handlers[type(event)](event))

    @property
    def finished(self) -> bool:
        """Nothing of the call is left."""
        return self._finished

    @property
    def active(self) -> bool:
        return self.state not in (CallState.ENDING, CallState.ENDED)

    def leg_of(self, channel_id: str) -> Leg | None:
        """The leg whose party this channel is."""
        return next((leg for leg in self.legs.values() if leg.channel_id == channel_id and channel_id), None)

    def leg_named(self, speaker: str) -> Leg | None:
        """The leg of a speaker label, or of a leg's id."""
        return next((leg for leg in self.legs.values() if speaker in (leg.speaker, leg.id)), None)

    def view(self) -> CallView:
        """The call as the API shows it, without the media's figures."""
        plan = self.plan
        session = self.link.session
        return CallView(
            id=plan.call_id,
            session_id=session.id if session else self._last_session,
            state=self.state.value,
            mode=plan.request.mode,
            source_language=plan.request.source_language,
            target_language=plan.request.target_language,
            started_at=self._start_wall,
            answered_at=self._answered_wall,
            ended_at=self._ended_wall,
            end_reason=self.reason.value if self.reason else None,
            status=self.status.value if self.status else None,
            caller=plan.caller,
            metadata=dict(plan.request.metadata),
            dtmf=list(self.dtmf),
            degraded=self.problem if self.direct and self.active else "",
            legs=[
                LegView(g.speaker, g.channel_id, g.channel_name, g.state.value, g.language, g.held)
                for g in self.legs.values()
            ],
        )

    _last_session = ""

    # --- building blocks ---------------------------------------------------------------------------------------------

    def _add_leg(self, leg_id: str, speaker: str, language: str) -> Leg:
        leg = Leg(leg_id, speaker, language)
        leg.bridge_id = f"{self.plan.call_id}.{leg_id}.b"
        self.legs[leg_id] = leg
        return leg

    def _next(self, prefix: str) -> str:
        self._serial += 1
        return f"{self.plan.call_id}.{prefix}{self._serial}"

    def _dial(self, endpoint: str, leg: str, timeout: float, *, replaces: bool = False) -> list[c.Command]:
        channel = self._next("d")
        self.candidates[channel] = Candidate(channel, endpoint, leg, replaces)
        customer = self.legs.get("customer")
        originator = customer.channel_id if customer and customer.up and not customer.ours else ""
        # Asterisk's own time-out is a net below our timer.
        return [c.Dial(channel, endpoint, timeout + 5, originator, self.plan.caller_id)]

    def _ring_agents(self) -> list[c.Command]:
        plan = self.plan
        if not plan.agents:
            return []
        self._add_leg("agent", AGENT if plan.speaker != AGENT else "agent-2", plan.request.target_language)
        self.state = CallState.RINGING
        commands: list[c.Command] = []
        for endpoint in plan.agents:
            commands += self._dial(endpoint, "agent", plan.timeout)
        commands.append(c.SetTimer(RING_TIMER, plan.timeout))
        commands.append(c.Publish("call.ringing", {"agents": list(plan.agents)}))
        return commands

    def _drop_candidates(self, leg: str | None = None) -> list[c.Command]:
        gone = [k for k, cand in self.candidates.items() if leg is None or cand.leg == leg]
        for channel in gone:
            del self.candidates[channel]
        return [c.Hangup(channel) for channel in gone]

    def _follow(self, commands: list[c.Command]) -> list[c.Command]:
        """Add what follows from the new state, note what is under way, and see whether that was all."""
        if self.active:
            commands = commands + self._reconcile()
        if self.link.session:
            self._last_session = self.link.session.id
        for command in commands:
            if isinstance(command, c.RELEASING):
                self._outstanding.add(command)
        if self.state is CallState.ENDING and not self._outstanding and self.link.settled and not self._finished:
            assert self.reason is not None
            assert self.status is not None
            self._finished = True
            self.state = CallState.ENDED
            self._ended_wall = self._wall
            commands = [*commands, c.Finish(self.reason, self.status)]
        return commands

    # --- the state that should be ------------------------------------------------------------------------------------

    def _reconcile(self) -> list[c.Command]:
        commands: list[c.Command] = []
        commands += self._judge_link()
        if not self.active:
            return commands
        commands += self._tell_session()
        for leg in self.legs.values():
            commands += self._build(leg)
        for leg in self.legs.values():
            commands += self._place(leg)
        commands += self._audio()
        commands += self._progress()
        return commands

    @property
    def _waits_for_agent(self) -> bool:
        agent = self.legs.get("agent")
        return bool(self.plan.agents) and agent is not None and not agent.up

    def _judge_link(self) -> list[c.Command]:
        """Decide between translation and a direct connection."""
        down = self.link.state is LinkState.DOWN
        lost_media = any(leg.media is Thing.GONE and leg.media_tries >= MEDIA_TRIES for leg in self.legs.values())
        if self.link.state is LinkState.OPEN and not lost_media:
            if self.direct:
                self.direct = False
                self.problem = ""
                return [c.Publish("call.restored", {})]
            return []
        if self.direct or not (down or lost_media):
            return []
        self.problem = self.link.problem if down else "no media channel"
        talking = sum(leg.up for leg in self.legs.values()) >= 2
        if self.plan.on_unavailable == "hangup":
            return self._finish(EndReason.ERROR, DialplanStatus.UNAVAILABLE, hang_up=True)
        if talking or (self.plan.on_unavailable == "passthrough" and self._waits_for_agent):
            self.direct = True
            return [c.Publish("call.degraded", {"reason": self.problem})]
        return self._finish(EndReason.ERROR, DialplanStatus.UNAVAILABLE)

    def _tell_session(self) -> list[c.Command]:
        session = self.link.session
        if session is None:
            return []
        commands: list[c.Command] = []
        for leg in self.legs.values():
            mark = f"{leg.channel_id}={session.id}"
            if leg.up and not leg.ours and mark not in self._session_told:
                self._session_told.add(mark)
                commands.append(c.SetVariable(leg.channel_id, "KALLGLOT_SESSION_ID", session.id))
        return commands

    def _build(self, leg: Leg) -> list[c.Command]:
        """Bridge and external media of a leg, before they are needed."""
        commands: list[c.Command] = []
        if leg.bridge is Thing.NONE:
            leg.bridge = Thing.ASKED
            commands.append(c.CreateBridge(leg.bridge_id))
        if leg.media is Thing.NONE or (leg.media is Thing.GONE and leg.media_tries < MEDIA_TRIES):
            leg.media_tries += 1
            leg.media = Thing.ASKED
            leg.media_id = f"{self.plan.call_id}.{leg.id}.m{leg.media_tries}"
            leg.media_entered = leg.media_addressed = leg.media_bridged = False
            leg.uplink_on = True
            leg.originals = {}
            commands.append(c.CreateMedia(leg.media_id, leg.id))
        if leg.media_usable and leg.bridge is Thing.LIVE and not leg.media_bridged:
            leg.media_bridged = True
            commands.append(c.AddToBridge(leg.bridge_id, leg.media_id))
        return commands

    def _place(self, leg: Leg) -> list[c.Command]:
        """Put the party into the bridge it belongs in."""
        if not leg.up or (leg.id == "customer" and self._waits_for_agent):
            return self._indicate(leg)
        root = next(g for g in self.legs.values() if g.up)
        where = root if self.direct else leg
        if where.bridge is not Thing.LIVE or leg.in_bridge == where.bridge_id:
            return []
        commands: list[c.Command] = []
        if not leg.answered:
            leg.answered = True
            commands.append(c.Answer(leg.channel_id))
        leg.in_bridge = where.bridge_id
        return [*commands, c.AddToBridge(where.bridge_id, leg.channel_id)]

    def _indicate(self, leg: Leg) -> list[c.Command]:
        if not leg.up or leg.id != "customer":
            return []
        commands: list[c.Command] = []
        if self.plan.answer_now and not leg.answered:
            leg.answered = True
            commands.append(c.Answer(leg.channel_id))
        if not self._ringing_told:
            self._ringing_told = True
            commands.append(c.Ring(leg.channel_id))
        return commands

    def _audio(self) -> list[c.Command]:
        """Uplinks, original voices, music for who waits, and who hears whose translation."""
        up = [leg for leg in self.legs.values() if leg.up]
        talking = [leg for leg in up if not leg.held]
        idle = self.direct or (len(up) > 1 and len(talking) < 2)
        commands: list[c.Command] = []
        for leg in up:
            wanted = not (idle or leg.held)
            if leg.media in (Thing.ASKED, Thing.LIVE) and leg.uplink_on != wanted:
                leg.uplink_on = wanted
                commands.append(c.Uplink(leg.id, wanted))
            music = len(up) > 1 and not leg.held and len(talking) < 2 and not self.direct
            if leg.music_on != music:
                leg.music_on = music
                commands.append(c.MusicOnHold(leg.channel_id, music))
            commands += self._originals(leg, up)
        deaf_to = tuple((leg.id, self._deaf(leg)) for leg in up if not self.direct and not self._reads(leg))
        if deaf_to != self._deaf_to:
            self._deaf_to = deaf_to
            commands.append(c.Route(deaf_to))
        return commands

    def _deaf(self, leg: Leg) -> tuple[str, ...]:
        alone = not self.plan.agents and len(self.legs) == 1
        return () if alone else (leg.speaker,)

    def _reads(self, leg: Leg) -> bool:
        """Assistive: everybody but the customer hears the original and reads the translation."""
        return self.plan.request.mode == "assistive_translation" and leg.id != "customer"

    def _originals(self, leg: Leg, up: list[Leg]) -> list[c.Command]:
        wanted: dict[str, float] = {}
        if not self.direct:
            gain = 0.0 if self._reads(leg) else self.plan.original_gain_db
            if gain is not None:
                wanted = {other.id: gain for other in up if other is not leg}
        commands: list[c.Command] = []
        for other, gain_now in leg.originals.items():
            if wanted.get(other) != gain_now and other not in wanted:
                commands.append(c.Hear(leg.id, other, None))
        for other, gain_db in wanted.items():
            if leg.originals.get(other) != gain_db:
                commands.append(c.Hear(leg.id, other, gain_db))
        leg.originals = wanted
        return commands

    def _progress(self) -> list[c.Command]:
        """Notice that the call is answered, and that it is up."""
        commands: list[c.Command] = []
        up = [leg for leg in self.legs.values() if leg.up]
        if self._answered_at is None and up and not self._waits_for_agent and len(up) == len(self.legs):
            self._answered_at, self._answered_wall = self._now, self._wall
            commands += [c.CancelTimer(RING_TIMER), c.Publish("call.answered", {})]
            if self.link.state is not LinkState.OPEN:
                commands.append(c.SetTimer(READY_TIMER, READY_SECONDS))
        if self.state is CallState.ACTIVE or self._answered_at is None:
            return commands
        placed = all(leg.in_bridge and leg.in_bridge == leg.in_bridge_done for leg in up)
        translated = self.link.state is LinkState.OPEN and all(leg.connected for leg in up)
        if placed and (self.direct or translated):
            self.state = CallState.ACTIVE
            commands.append(c.CancelTimer(READY_TIMER))
            commands.append(c.Publish("call.active", {"setup_seconds": self._now - self._answered_at}))
            # An `h` extension of a caller who hangs up first finds it set.
            commands += [
                c.SetVariable(leg.channel_id, "KALLGLOT_STATUS", DialplanStatus.COMPLETED.value)
                for leg in up
                if not leg.ours
            ]
        return commands

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, reason: EndReason, status: DialplanStatus, *, hang_up: bool = False) -> list[c.Command]:
        """Let go of everything. Parties that came from the dialplan go back to it, unless the call was completed."""
        if not self.active:
            return []
        self.state = CallState.ENDING
        self.reason, self.status = reason, status
        commands: list[c.Command] = [
            c.CancelTimer(RING_TIMER),
            c.CancelTimer(READY_TIMER),
            c.Publish("call.ending", {"end_reason": reason.value, "status": status.value}),
        ]
        back = status is not DialplanStatus.COMPLETED and not hang_up
        for leg in self.legs.values():
            if leg.up and leg.ours:
                commands.append(c.Hangup(leg.channel_id))
            elif leg.up:
                commands.append(c.SetVariable(leg.channel_id, "KALLGLOT_STATUS", status.value))
                commands.append(c.ContinueInDialplan(leg.channel_id) if back else c.Hangup(leg.channel_id))
            leg.up = False
            commands += self._dismantle(leg)
        commands += self._drop_candidates()
        return commands + self.link.close(reason)

    def _dismantle(self, leg: Leg) -> list[c.Command]:
        commands: list[c.Command] = []
        if leg.media in (Thing.ASKED, Thing.LIVE):
            commands.append(c.RemoveMedia(leg.media_id, leg.id))
        if leg.bridge in (Thing.ASKED, Thing.LIVE):
            commands.append(c.DestroyBridge(leg.bridge_id))
        leg.media = leg.bridge = Thing.GONE
        leg.media_tries = MEDIA_TRIES
        return commands

    def _party_gone(self, leg: Leg) -> list[c.Command]:
        """A party left: the call goes on with those who remain, if they are two or more."""
        leg.up = False
        remaining = [g for g in self.legs.values() if g is not leg and g.up]
        if len(remaining) >= 2:
            del self.legs[leg.id]
            for other in remaining:
                other.originals.pop(leg.id, None)
            if leg.in_bridge == leg.bridge_id or not any(g.in_bridge == leg.bridge_id for g in remaining):
                return [
                    c.Publish("leg.left", {"speaker": leg.speaker}),
                    *self._drop_candidates(leg.id),
                    *self._dismantle(leg),
                ]
            for other in remaining:
                other.in_bridge = other.in_bridge_done = ""
            return [
                c.Publish("leg.left", {"speaker": leg.speaker}),
                *self._drop_candidates(leg.id),
                *self._dismantle(leg),
            ]
        if not leg.hung_up and self.state is CallState.ACTIVE:
            reason = EndReason.COMPLETED
        else:
            reason = EndReason.CUSTOMER_HANGUP if leg.id == "customer" else EndReason.AGENT_HANGUP
        return [c.Publish("leg.left", {"speaker": leg.speaker}), *self._finish(reason, DialplanStatus.COMPLETED)]

    # --- Asterisk's events -------------------------------------------------------------------------------------------

    def _entered(self, event: e.ChannelEntered) -> list[c.Command]:
        for leg in self.legs.values():
            if leg.media_id == event.channel_id:
                leg.media_entered = True
                return []
        candidate = self.candidates.pop(event.channel_id, None)
        if candidate is None or not self.active:
            return []
        leg = self.legs[candidate.leg]
        commands = self._drop_candidates(leg.id)
        if leg.up:  # a transfer: the one who was there is let go
            commands.append(c.Hangup(leg.channel_id))
        leg.channel_id, leg.channel_name = event.channel_id, event.name
        leg.up = leg.ours = leg.answered = True
        leg.held = leg.hung_up = leg.music_on = False
        leg.in_bridge = leg.in_bridge_done = ""
        commands.append(c.Publish("leg.joined", {"speaker": leg.speaker, "channel": event.name}))
        if leg.id == "customer":
            commands += self._ring_agents()
        elif self._ringing_told and (customer := self.legs.get("customer")) and customer.up and not customer.in_bridge:
            commands.append(c.Ring(customer.channel_id, on=False))
        return commands

    def _left(self, event: e.ChannelLeft) -> list[c.Command]:
        leg = self.leg_of(event.channel_id)
        if leg is not None and leg.up and self.active:
            return self._party_gone(leg)
        return self._media_gone(event.channel_id, still_there=True)

    def _gone(self, event: e.ChannelGone) -> list[c.Command]:
        if not self.active:
            return []
        candidate = self.candidates.pop(event.channel_id, None)
        if candidate is not None:
            return self._candidate_failed(candidate, event.cause)
        leg = self.leg_of(event.channel_id)
        if leg is not None:
            leg.hung_up = True
            return self._party_gone(leg) if leg.up else []
        return self._media_gone(event.channel_id, still_there=False)

    def _media_gone(self, channel_id: str, *, still_there: bool) -> list[c.Command]:
        for leg in self.legs.values():
            if leg.media_id == channel_id and leg.media in (Thing.ASKED, Thing.LIVE) and self.active:
                if leg.media is Thing.ASKED and not still_there:
                    return []  # the reply to our request says it as well
                leg.media = Thing.GONE
                leg.media_bridged = False
                return [c.RemoveMedia(channel_id, leg.id), c.Publish("media.lost", {"speaker": leg.speaker})]
        return []

    def _bridge_gone(self, event: e.BridgeGone) -> list[c.Command]:
        for leg in self.legs.values():
            if leg.bridge_id == event.bridge_id and leg.bridge is Thing.LIVE and self.active:
                leg.bridge = Thing.NONE
                leg.bridge_id = self._next(f"{leg.id}.b")
                leg.media_bridged = False
                for other in self.legs.values():
                    if other.in_bridge == event.bridge_id:
                        other.in_bridge = other.in_bridge_done = ""
        return []

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
        return [c.Publish("leg.ringing", {"endpoint": candidate.endpoint})]

    def _candidate_failed(self, candidate: Candidate, cause: int) -> list[c.Command]:
        told: list[c.Command] = [c.Publish("leg.failed", {"endpoint": candidate.endpoint, "cause": cause})]
        leg = self.legs.get(candidate.leg)
        if candidate.replaces or leg is None or leg.up:
            return told
        if leg.id not in ("customer", "agent"):
            if not any(cand.leg == leg.id for cand in self.candidates.values()):
                del self.legs[leg.id]
                told += self._dismantle(leg)
            return told
        self._failures.append((cause, candidate.ringing))
        if any(cand.leg == leg.id for cand in self.candidates.values()):
            return told
        return told + self._nobody()

    def _nobody(self) -> list[c.Command]:
        """All candidates failed: say why as the dialplan needs it."""
        if any(cause in BUSY_CAUSES for cause, _ in self._failures):
            return self._finish(EndReason.AGENT_HANGUP, DialplanStatus.AGENTBUSY)
        if any(cause in NO_ANSWER_CAUSES and (ringing or cause != 16) for cause, ringing in self._failures):
            return self._finish(EndReason.TIMEOUT, DialplanStatus.NOANSWER)
        return self._finish(EndReason.ERROR, DialplanStatus.UNAVAILABLE)

    def _dtmf(self, event: e.DtmfReceived) -> list[c.Command]:
        leg = self.leg_of(event.channel_id)
        if leg is None or not leg.up or not self.active:
            return []
        self.dtmf.append(
            {"speaker": leg.speaker, "digit": event.digit, "at": self._wall.isoformat().replace("+00:00", "Z")}
        )
        del self.dtmf[:-100]
        commands: list[c.Command] = [c.Publish("dtmf", {"speaker": leg.speaker, "digit": event.digit})]
        if self.direct:
            return commands  # in one bridge, Asterisk passes it on
        others = [g for g in self.legs.values() if g is not leg and g.up]
        return commands + [c.SendDtmf(other.channel_id, event.digit) for other in others]

    def _hold(self, event: e.HoldChanged) -> list[c.Command]:
        leg = self.leg_of(event.channel_id)
        if leg is None or leg.held == event.held:
            return []
        leg.held = event.held
        return [c.Publish("hold" if event.held else "unhold", {"speaker": leg.speaker})]

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def _done(self, event: e.Done) -> list[c.Command]:
        command = event.command
        self._outstanding.discard(command)
        match command:
            case c.CreateBridge():
                for leg in self.legs.values():
                    if leg.bridge_id == command.bridge_id and leg.bridge is Thing.ASKED:
                        leg.bridge = Thing.LIVE
            case c.CreateMedia():
                for leg in self.legs.values():
                    if leg.media_id == command.channel_id and leg.media is Thing.ASKED:
                        leg.media = Thing.LIVE
                        leg.media_addressed = True
            case c.AddToBridge():
                for leg in self.legs.values():
                    if leg.channel_id == command.channel_id and leg.in_bridge == command.bridge_id:
                        leg.in_bridge_done = command.bridge_id
            case c.EndSession():
                self.link.ended()
            case _:
                pass
        return []

    def _failed(self, event: e.Failed) -> list[c.Command]:
        command = event.command
        if isinstance(command, c.RELEASING):
            # What could not be removed is swept later; the call must not wait for it.
            return self._done(e.Done(command))
        if not self.active:
            return self.link.refused(command, event.error) if isinstance(command, c.CreateSession) else []
        match command:
            case c.CreateSession():
                return self.link.refused(command, event.error)
            case c.Dial():
                candidate = self.candidates.pop(command.channel_id, None)
                return self._candidate_failed(candidate, 0) if candidate else []
            case c.CreateMedia():
                return self._media_failed(command)
            case c.CreateBridge():
                self.problem = event.error
                return self._finish(EndReason.ERROR, DialplanStatus.FAILED)
            case c.AddToBridge() | c.Answer():
                return self._place_failed(command, event)
            case _:
                return []

    def _media_failed(self, command: c.CreateMedia) -> list[c.Command]:
        for leg in self.legs.values():
            if leg.media_id == command.channel_id and leg.media is Thing.ASKED:
                leg.media = Thing.GONE
                # The channel may be there although the answer was lost.
                return [c.RemoveMedia(command.channel_id, leg.id)]
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
                self.problem = event.error
                return self._finish(EndReason.ERROR, DialplanStatus.FAILED)
        return []

    def _session_created(self, event: e.SessionCreated) -> list[c.Command]:
        return self.link.created(event.command, event.session)

    def _stream_down(self, event: e.StreamDown) -> list[c.Command]:
        return self.link.stream_down(event.session_id, event.reason, final=event.final) if self.active else []

    def _timer(self, event: e.TimerFired) -> list[c.Command]:
        if not self.active:
            return []
        match event.name:
            case "ring":
                agent = self.legs.get("agent")
                if agent is not None and not agent.up:
                    return self._finish(EndReason.TIMEOUT, DialplanStatus.NOANSWER)
            case "ready":
                return self._not_ready()
            case name if name == RETRY_TIMER:
                return self.link.retry()
            case name if name == HEAL_TIMER:
                return self.link.heal()
            case name if name.startswith("candidate."):
                channel = name.removeprefix("candidate.")
                candidate = self.candidates.pop(channel, None)
                return [c.Hangup(channel), *self._candidate_failed(candidate, 19)] if candidate else []
            case _:
                pass
        return []

    def _not_ready(self) -> list[c.Command]:
        """Kallglot takes too long: connect the parties now; translation comes in when it is there."""
        if self.state is CallState.ACTIVE or self.link.state is LinkState.OPEN or self.direct:
            return []
        if sum(leg.up for leg in self.legs.values()) < 2:
            return []
        self.direct = True
        self.problem = "translation is not ready yet"
        return [c.Publish("call.degraded", {"reason": self.problem})]

    # --- what people ask ---------------------------------------------------------------------------------------------

    def _hangup_asked(self, event: e.HangupAsked) -> list[c.Command]:
        return self._finish(EndReason.COMPLETED, DialplanStatus.COMPLETED)

    def _transfer(self, event: e.TransferAsked) -> list[c.Command]:
        leg = self.leg_named(event.speaker)
        if leg is None or not leg.up or not self.active:
            return []
        commands = self._dial(event.endpoint, leg.id, event.timeout, replaces=True)
        channel = next(reversed(self.candidates))
        told = c.Publish("transfer.started", {"speaker": leg.speaker, "target": event.endpoint})
        return [*commands, c.SetTimer(f"candidate.{channel}", event.timeout), told]

    def _send_dtmf(self, event: e.DtmfAsked) -> list[c.Command]:
        leg = self.leg_named(event.speaker)
        if leg is None or not leg.up or not self.active:
            return []
        return [c.SendDtmf(leg.channel_id, event.digits)]

    def _label(self, wanted: str) -> str:
        taken = {leg.speaker for leg in self.legs.values()}
        if wanted and wanted not in taken:
            return wanted
        number = 3
        while f"party-{number}" in taken:
            number += 1
        return f"party-{number}"

    def _joined(self, event: e.PartyJoined) -> list[c.Command]:
        if not self.active:
            return [
                c.SetVariable(event.channel_id, "KALLGLOT_STATUS", "FAILED"),
                c.ContinueInDialplan(event.channel_id),
            ]
        if len(self.legs) >= self.plan.max_parties:
            return [c.SetVariable(event.channel_id, "KALLGLOT_STATUS", "BUSY"), c.ContinueInDialplan(event.channel_id)]
        speaker = self._label(event.speaker)
        self._serial += 1
        leg = self._add_leg(f"p{self._serial}", speaker, event.language)
        leg.channel_id, leg.channel_name, leg.up = event.channel_id, event.name, True
        return [c.Publish("leg.joined", {"speaker": speaker, "channel": event.name})]

    def _party_asked(self, event: e.PartyAsked) -> list[c.Command]:
        if not self.active or len(self.legs) >= self.plan.max_parties:
            return []
        self._serial += 1
        leg = self._add_leg(f"p{self._serial}", self._label(event.speaker), event.language)
        commands = self._dial(event.endpoint, leg.id, event.timeout)
        return [*commands, c.SetTimer(f"candidate.{next(reversed(self.candidates))}", event.timeout)]


def with_session_defaults(request: SessionRequest, **changes: Any) -> SessionRequest:
    """A request with some fields replaced; empty values keep what is there."""
    return replace(request, **{k: v for k, v in changes.items() if v})
