"""What is known of one call. The parts of the machine read and change it; none of them keeps anything of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.legs import Candidate, Leg
from kallglot_ari.calls.link import Link
from kallglot_ari.calls.model import CUSTOMER, CallState, CallView, DialplanStatus, EndReason, LegView, SessionRequest


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


class Call:
    """One call's state, and how its parts are found."""

    def __init__(self, plan: CallPlan, now: float, wall: datetime) -> None:
        self.plan = plan
        self.state = CallState.SETUP
        self.link = Link(plan.call_id)
        self.legs: dict[str, Leg] = {}
        self.candidates: dict[str, Candidate] = {}
        self.failures: list[tuple[int, bool]] = []
        """Candidates of the first party that did not come: Q.850 cause, and whether it rang."""
        self.reason: EndReason | None = None
        self.status: DialplanStatus | None = None
        self.direct = False
        """The parties are connected without translation."""
        self.dtmf: list[dict[str, str]] = []
        self.problem = ""
        self.deaf_to: tuple[tuple[str, tuple[str, ...]], ...] = ()
        """The routes that were asked for last."""
        self.ringing_told = False
        self.session_told: set[str] = set()
        self.last_session = ""
        self.answered_at: float | None = None
        self.start_wall = wall
        self.answered_wall: datetime | None = None
        self.ended_wall: datetime | None = None
        self.now = now
        self.wall = wall
        self._serial = 0

    @property
    def active(self) -> bool:
        return self.state not in (CallState.ENDING, CallState.ENDED)

    @property
    def parties(self) -> list[Leg]:
        """The legs whose party is there."""
        return [leg for leg in self.legs.values() if leg.up]

    @property
    def waits_for_agent(self) -> bool:
        agent = self.legs.get("agent")
        return bool(self.plan.agents) and agent is not None and not agent.up

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
        self._serial += 1
        return self.add_leg(f"p{self._serial}", self._label(speaker), language)

    def _label(self, wanted: str) -> str:
        taken = {leg.speaker for leg in self.legs.values()}
        if wanted and wanted not in taken:
            return wanted
        number = 3
        while f"party-{number}" in taken:
            number += 1
        return f"party-{number}"

    def next_id(self, prefix: str) -> str:
        """A new id of this call's, for a channel or bridge."""
        self._serial += 1
        return f"{self.plan.call_id}.{prefix}{self._serial}"

    def drop_candidates(self, leg: str | None = None) -> list[c.Command]:
        """Hang up who is still being dialled (for one leg)."""
        gone = [k for k, cand in self.candidates.items() if leg is None or cand.leg == leg]
        for channel in gone:
            del self.candidates[channel]
        return [c.Hangup(channel) for channel in gone]

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
            legs=[
                LegView(g.speaker, g.channel_id, g.channel_name, g.state.value, g.language, g.held)
                for g in self.legs.values()
            ],
        )
