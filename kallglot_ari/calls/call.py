"""What is known of one call. The parts of the machine read and change it; none of them keeps anything of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.legs import Candidate, Leg, Role
from kallglot_ari.calls.link import Link, LinkState
from kallglot_ari.calls.model import (
    CUSTOMER,
    CallState,
    CallView,
    DialplanStatus,
    EndReason,
    LegState,
    LegView,
    SessionRequest,
)

RUNGS = ("down", "new_session", "reconnecting", "starting", "up")
"""Of a link to Kallglot, the worst first."""


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
    original_duck_db: float = 0.0
    max_parties: int = 5
    dial_customer: str = ""
    """Outbound: dial this endpoint first; the agents are dialled when it answers."""
    caller_id: str = ""
    features: tuple[tuple[str, str], ...] = ()
    """Codes that parties may dial, and what they do: repeat, original, human."""
    human: str = ""
    """Endpoint that `human` dials."""
    only_humans: bool = False
    """Outbound: let go of an answering machine."""


class Call:
    """One call's state, and how its parts are found."""

    def __init__(self, plan: CallPlan, now: float, wall: datetime) -> None:
        self.plan = plan
        self.state = CallState.SETUP
        request = plan.request
        self.links = [Link(plan.call_id, "", request.source_language, request.target_language, request.mode)]
        self.legs: dict[str, Leg] = {}
        self.candidates: dict[str, Candidate] = {}
        self.failures: list[tuple[int, bool]] = []
        """Candidates of the first party that did not come: Q.850 cause, and whether it rang."""
        self.reason: EndReason | None = None
        self.status: DialplanStatus | None = None
        self.direct = False
        """The parties are connected without translation."""
        self.direct_told = False
        """They have heard the tone that says so."""
        self.unready = False
        """The parties have waited long for the beginning of the translation, and may not talk without."""
        self.dtmf: list[dict[str, str]] = []
        self.problem = ""
        self.route = c.Route((), ())
        """What was asked for last."""
        self.consulting: tuple[str, str] | None = None
        """A transfer with consultation: the leg that leaves when it is done, and the leg that stays; the others wait."""
        self.human = ""
        """Leg of the person that somebody asked for."""
        self.unwanted: set[str] = set()
        """Channels that are on their way to us and not needed any more."""
        self.ringing_told = False
        self.session_told: set[str] = set()
        self.last_session = ""
        self.answered_at: float | None = None
        self.start_wall = wall
        self.answered_wall: datetime | None = None
        self.ended_wall: datetime | None = None
        self.now = now
        self.wall = wall
        self.serial = 0

    @property
    def active(self) -> bool:
        return self.state not in (CallState.ENDING, CallState.ENDED)

    @property
    def parties(self) -> list[Leg]:
        """The legs whose party is there; supervisors are none."""
        return [leg for leg in self.legs.values() if leg.up and leg.role is Role.PARTY]

    @property
    def supervisors(self) -> list[Leg]:
        """Legs that only listen or whisper, there or being dialled."""
        return [leg for leg in self.legs.values() if leg.role is not Role.PARTY]

    @property
    def full(self) -> bool:
        return len(self.legs) - len(self.supervisors) >= self.plan.max_parties

    def parked(self, leg: Leg) -> bool:
        """Waits while two others consult."""
        if self.consulting is None or leg.id in self.consulting:
            return False
        return all(leg_id in self.legs and self.legs[leg_id].up for leg_id in self.consulting)

    @property
    def talking(self) -> list[Leg]:
        """The parties that do not wait while two others consult. When nobody translates, they are in the bridge of the first."""
        return [leg for leg in self.parties if not self.parked(leg)]

    @property
    def waits_for_agent(self) -> bool:
        agent = self.legs.get("agent")
        return bool(self.plan.agents) and agent is not None and not agent.up and not agent.vacant

    @property
    def first_are_there(self) -> bool:
        """Whom the call was set up for is there; who else is being dialled does not count."""
        return all(leg.up or leg.vacant for leg in self.legs.values() if leg.id in ("customer", "agent"))

    @property
    def waits_for_transfer(self) -> bool:
        """Somebody left for whom another one is being dialled."""
        return any(leg.vacant for leg in self.legs.values())

    @property
    def link(self) -> Link:
        """The first link that is not closed."""
        return next((link for link in self.links if link.state is not LinkState.CLOSED), self.links[0])

    def link_of(self, session_id: str) -> Link | None:
        return next((link for link in self.links if link.session is not None and link.session.id == session_id), None)

    def leg_of(self, channel_id: str) -> Leg | None:
        """The leg whose party this channel is."""
        return next((leg for leg in self.legs.values() if leg.channel_id == channel_id and channel_id), None)

    def leg_named(self, speaker: str) -> Leg | None:
        """The leg of a speaker label, or of a leg's id."""
        return next((leg for leg in self.legs.values() if speaker in (leg.speaker, leg.id)), None)

    def add_leg(self, leg_id: str, speaker: str, language: str) -> Leg:
        leg = Leg(leg_id, speaker, language)
        leg.bridge_id = f"{self.plan.call_id}.{leg_id}.b"
        self.legs[leg_id] = leg
        return leg

    def add_party(self, speaker: str, language: str) -> Leg:
        """A leg beyond the first two, under the label wished for if that is free."""
        self.serial += 1
        return self.add_leg(f"p{self.serial}", self._label(speaker), language or self.plan.request.target_language)

    def _label(self, wanted: str) -> str:
        taken = {leg.speaker for leg in self.legs.values()}
        if wanted and wanted not in taken:
            return wanted
        number = 3
        while f"party-{number}" in taken:
            number += 1
        return f"party-{number}"

    def next_name(self, prefix: str) -> str:
        """A new name within this call."""
        self.serial += 1
        return f"{prefix}{self.serial}"

    def next_id(self, prefix: str) -> str:
        """A new id of this call's, for a channel or bridge."""
        return f"{self.plan.call_id}.{self.next_name(prefix)}"

    @property
    def translation(self) -> str:
        """Where the ladder to Kallglot stands; of several links the worst. Empty once the call is over."""
        if not self.active:
            return ""
        if self.direct:
            return "direct"
        rungs = {link.rung for link in self.links if link.state not in (LinkState.CLOSED, LinkState.IDLE)}
        return next((rung for rung in RUNGS if rung in rungs), "")

    def drop_candidates(self, leg: str | None = None) -> list[c.Command]:
        """Hang up who is still being dialled (for one leg)."""
        gone = [cand for cand in self.candidates.values() if leg is None or cand.leg == leg]
        commands: list[c.Command] = []
        for candidate in gone:
            commands += self.give_up(candidate.channel_id)
        return commands

    def give_up(self, channel_id: str) -> list[c.Command]:
        """Hang up one who is still being dialled."""
        candidate = self.candidates.pop(channel_id)
        if candidate.fetched:
            self.unwanted.add(channel_id)
            return []
        return [c.Hangup(channel_id)]

    def view(self) -> CallView:
        """The call as the API shows it, without the media's figures."""
        plan = self.plan
        session = self.link.session
        return CallView(
            id=plan.call_id,
            session_id=session.id if session else self.last_session,
            state=self.state.value,
            mode=plan.request.mode,
            source_language=plan.request.source_language,
            target_language=plan.request.target_language,
            started_at=self.start_wall,
            answered_at=self.answered_wall,
            ended_at=self.ended_wall,
            end_reason=self.reason.value if self.reason else None,
            status=self.status.value if self.status else None,
            caller=plan.caller,
            metadata=dict(plan.request.metadata),
            dtmf=list(self.dtmf),
            degraded=self.problem if self.direct and self.active else "",
            translation=self.translation,
            legs=[
                LegView(g.speaker, g.channel_id, g.channel_name, self._state_of(g), g.language, g.held, role=_role(g))
                for g in self.legs.values()
            ],
        )

    def _state_of(self, leg: Leg) -> LegState:
        """A leg that is being dialled rings as soon as one of its phones does."""
        rings = any(candidate.ringing for candidate in self.candidates.values() if candidate.leg == leg.id)
        return LegState.RINGING if rings and leg.state is LegState.DIALLING else leg.state


def _role(leg: Leg) -> str:
    return "party" if leg.role is Role.PARTY else leg.role.value
