"""What a trunk call is, and when it is over. Pure: what AGI and AMI report goes in, the decision comes out.

The dialplan, not we, owns the channels: a party's phone is bridged with a *trunk leg*, a channel that dialled the session's SIP URI.
The session lives in its trunk legs. A phone that transfers its call away leaves the leg to another phone, so neither the
caller's hangup alone nor its hangup handler ends the session: it is over when no leg is left that anybody can talk on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from kallglot_ari.calls.model import (
    AGENT,
    CUSTOMER,
    CallState,
    CallView,
    DialplanStatus,
    EndReason,
    LegQuality,
    LegView,
    Session,
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is open, and the key of its row in the outbox."""

    key: str
    session: Session


@dataclass(slots=True)
class TrunkLeg:
    """A channel to the session's SIP URI."""

    uniqueid: str
    channel: str
    role: str
    answered: bool = False
    gone: bool = False
    quality: LegQuality = field(default_factory=LegQuality)
    clock_rate: int = 0
    """Hz of its RTP timestamps; 0 while not known."""
    held: bool = False


@dataclass(slots=True)
class TrunkCall:
    """One call in trunk mode."""

    id: str
    mode: str
    source_language: str
    target_language: str
    started_at: datetime
    caller_channel: str
    caller_uniqueid: str
    linkedid: str
    caller: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    participants: int = 2
    opened: list[Opened] = field(default_factory=list)
    """Its sessions: one, and after a REFER its successor too. The last is the current one."""
    parties: dict[str, str] = field(default_factory=dict)
    """Roles by the uniqueid of the party's own channel."""
    legs: dict[str, TrunkLeg] = field(default_factory=dict)
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    caller_gone: bool = False
    agent_expected: bool = False
    """We dialled an agent: the call makes no sense without one."""
    parties_gone: set[str] = field(default_factory=set)
    asked_by: str = ""
    """Uniqueid of the channel whose far end hung up first."""
    reason: EndReason | None = None
    status: DialplanStatus | None = None
    dtmf: list[dict[str, str]] = field(default_factory=list)
    seen_at: dict[str, float] = field(default_factory=dict)
    """When each of its channels was heard of first, monotonic seconds."""
    elsewhere: bool = False
    """Its channels are on another Asterisk than the one we are connected to, which knows nothing of them."""
    hang_up: bool = False
    """It ends because somebody asked for it (API, dashboard)."""
    told: bool = False
    """A dialplan has its session, so that the call may live without this process."""

    def __post_init__(self) -> None:
        self.parties.setdefault(self.caller_uniqueid, CUSTOMER)

    @property
    def session_id(self) -> str:
        """The current session; empty while it is being created."""
        return self.opened[-1].session.id if self.opened else ""

    @property
    def live_legs(self) -> list[TrunkLeg]:
        return [leg for leg in self.legs.values() if not leg.gone]

    def live_channels(self) -> list[str]:
        """Uniqueids of the parties' channels and the legs that are not known to be gone."""
        parties = [party for party in self.parties if party not in self.parties_gone]
        return [*parties, *(leg.uniqueid for leg in self.live_legs)]

    def waiting(self) -> list[str]:
        """Uniqueids of parties who wait for an answer, in a call that shall be hung up: their dialplans would dial the next endpoint,
        and then go on without translation."""
        given_up = self.hang_up and self.answered_at is None and not self.elsewhere
        return [party for party in self.parties if party not in self.parties_gone] if given_up else []

    def ending(self) -> bool:
        """It is over, or about to be."""
        return self.reason is not None

    def completed(self) -> bool:
        """Nothing failed: it was answered, or its caller did not wait for that. As in media mode."""
        return self.answered_at is not None or self.reason is EndReason.CUSTOMER_HANGUP

    def has(self, uniqueid: str) -> bool:
        """Is this channel one of the call's?"""
        return uniqueid in self.parties or uniqueid in self.legs

    def role_of(self, uniqueid: str) -> str:
        """``customer``, ``agent``, ``party-3``…, or empty for a channel of somebody else."""
        leg = self.legs.get(uniqueid)
        return leg.role if leg else self.parties.get(uniqueid, "")

    def join(self, uniqueid: str) -> str:
        """One more party comes in by its own channel; its role."""
        if uniqueid not in self.parties:
            number = len(self.parties) + 1
            self.parties[uniqueid] = AGENT if number == 2 else f"party-{number}"
        return self.parties[uniqueid]

    def leg(self, uniqueid: str, channel: str, party: str) -> TrunkLeg:
        """The trunk leg `uniqueid`, dialled by the channel `party`."""
        known = self.legs.get(uniqueid)
        if known is None:
            known = self.legs[uniqueid] = TrunkLeg(uniqueid, channel, self.parties.get(party, CUSTOMER))
        return known

    def leg_answered(self, uniqueid: str, at: datetime) -> bool:
        """The session's side answered; True the first time."""
        leg = self.legs.get(uniqueid)
        if leg is None or leg.answered or leg.gone:
            return False
        leg.answered = True
        self.answered_at = self.answered_at or at
        return True

    def channel_gone(self, uniqueid: str) -> bool:
        """A channel is gone; True if it was one of ours and this is news."""
        if (leg := self.legs.get(uniqueid)) is not None:
            news, leg.gone = not leg.gone, True
            return news
        if uniqueid == self.caller_uniqueid:
            news, self.caller_gone = not self.caller_gone, True
            self.parties_gone.add(uniqueid)
            return news
        news = uniqueid in self.parties and uniqueid not in self.parties_gone
        self.parties_gone.add(uniqueid)
        return news

    def hangup_asked(self, uniqueid: str) -> None:
        """This channel's far end hangs up; the first counts."""
        leg = self.legs.get(uniqueid)
        if leg is None or leg.answered:  # an endpoint that refuses hangs up too, and the next is tried
            self.asked_by = self.asked_by or uniqueid

    def hung_up_by(self, channel: str) -> None:
        """Asterisk's word on which channel's far end hung up; a name that is not known here says nothing."""
        names = {leg.channel: leg.uniqueid for leg in self.legs.values()} | {self.caller_channel: self.caller_uniqueid}
        if channel:
            self.asked_by = names.get(channel, self.asked_by)

    def _agent_lost(self) -> bool:
        agents = [party for party, role in self.parties.items() if role == AGENT]
        waiting = any(party not in self.parties_gone for party in agents)
        return bool(agents) and not waiting and not any(leg.role == AGENT for leg in self.live_legs)

    def over(self) -> EndReason | None:
        """Why the call is over, or None while it is not."""
        if self.ended_at is not None:
            return None
        talking = {leg.role for leg in self.live_legs if leg.answered}
        talked = {leg.role for leg in self.legs.values() if leg.answered}
        if self.participants <= 2 and len(talked) > 1 and talked - talking:
            return self._who((talked - talking).pop())
        if self.agent_expected and self._agent_lost():
            return self._who(AGENT)
        if talking:
            return None
        if talked and not self.live_legs:
            return self._who(next(iter(talked)) if len(talked) == 1 else "")
        return self._who(CUSTOMER) if self.caller_gone else None

    def _who(self, lost: str) -> EndReason:
        if self.asked_by in self.legs:
            return EndReason.COMPLETED
        role = self.parties.get(self.asked_by) or lost
        if role == AGENT:
            return EndReason.AGENT_HANGUP
        return EndReason.CUSTOMER_HANGUP if role == CUSTOMER else EndReason.COMPLETED

    def state(self) -> CallState:
        if self.ended_at is not None:
            return CallState.ENDED
        if self.reason is not None:
            return CallState.ENDING
        if any(leg.answered for leg in self.live_legs):
            return CallState.ACTIVE
        return CallState.RINGING if self.live_legs else CallState.SETUP

    def view(self) -> CallView:
        """The call as API and store show it."""
        legs = [
            LegView(
                leg.role,
                leg.uniqueid,
                leg.channel,
                "gone" if leg.gone else "held" if leg.held else "up" if leg.answered else "dialling",
                held=leg.held,
                quality=leg.quality,
            )
            for leg in self.legs.values()
        ]
        return CallView(
            self.id, self.session_id, self.state(), self.mode, self.source_language, self.target_language, self.started_at,
            self.answered_at, self.ended_at, self.reason, self.status, "trunk", self.caller, dict(self.metadata),
            list(self.dtmf), legs,
        )  # fmt: skip
