"""Who is dialled, who answered, and what it means when nobody does."""

from __future__ import annotations

from typing import Final

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.ending import RING_TIMER, finish, remove, without
from kallglot_ari.calls.legs import Candidate, Leg, Role
from kallglot_ari.calls.model import AGENT, CallState, DialplanStatus, EndReason

BUSY_CAUSES = frozenset({17, 21})
"""Q.850: user busy, call rejected."""
NO_ANSWER_CAUSES = frozenset({16, 18, 19, 26, 102})
"""Q.850: no user responding, no answer, and what Asterisk says of a dial that ran out of time."""
SCREENING = ("kallglot-screening", "answered", "1")
"""Context, extension and priority of asterisk-conf that tell people from machines."""
SCREEN_SECONDS = 15.0
MACHINE = "MACHINE"
"""What Asterisk's AMD() says."""


def dial(call: Call, endpoint: str, leg: str, timeout: float) -> tuple[Candidate, list[c.Command]]:
    """Dial one more candidate for a leg."""
    channel = call.next_id("d")
    candidate = call.candidates[channel] = Candidate(channel, endpoint, leg)
    customer = call.legs.get("customer")
    originator = customer.channel_id if customer and customer.up and not customer.ours else ""
    # Asterisk's own time-out is a net below our timer.
    return candidate, [c.Dial(channel, endpoint, timeout + 5, originator, call.plan.caller_id)]


def dial_for(call: Call, endpoint: str, leg: str, timeout: float) -> tuple[Candidate, list[c.Command]]:
    """The same, given up on its own after `timeout`."""
    candidate, commands = dial(call, endpoint, leg, timeout)
    return candidate, [*commands, c.SetTimer(f"candidate.{candidate.channel_id}", timeout)]


def dial_customer(call: Call, timeout: float) -> list[c.Command]:
    """Outbound: whoever answers is perhaps no person."""
    candidate, commands = dial_for(call, call.plan.dial_customer, "customer", timeout)
    candidate.screened = not call.plan.only_humans
    return commands


def ring_agents(call: Call) -> list[c.Command]:
    """Dial all agents at once; the first to answer gets the call."""
    plan = call.plan
    if not plan.agents:
        return []
    call.add_leg("agent", AGENT if plan.speaker != AGENT else "agent-2", plan.request.target_language)
    call.state = CallState.RINGING
    commands: list[c.Command] = []
    for endpoint in plan.agents:
        commands += dial(call, endpoint, "agent", plan.timeout)[1]
    commands.append(c.SetTimer(RING_TIMER, plan.timeout))
    commands.append(c.Publish("call.ringing", {"agents": list(plan.agents)}))
    return commands


def screen(call: Call, candidate: Candidate) -> list[c.Command]:
    """It answered; the dialplan finds out whether a person did, and gives it back to us."""
    call.candidates[candidate.channel_id] = candidate
    return [
        c.ContinueInDialplan(candidate.channel_id, *SCREENING),
        c.SetTimer(f"candidate.{candidate.channel_id}", SCREEN_SECONDS),
    ]


def machine_answered(call: Call, candidate: Candidate) -> list[c.Command]:
    told = c.Publish("leg.machine", {"endpoint": candidate.endpoint})
    return [told, c.Hangup(candidate.channel_id), *candidate_failed(call, candidate, 19)]


def answered(call: Call, candidate: Candidate, name: str) -> list[c.Command]:
    """A candidate answered: it is the leg's party now, and the others are let go."""
    leg = call.legs[candidate.leg]
    commands = call.drop_candidates(leg.id)
    if candidate.referrer:
        commands.append(c.TransferProgress(candidate.referrer, "channel_answered"))
    if leg.up:  # a transfer: the one who was there is let go
        commands.append(c.Hangup(leg.channel_id))
    leg.takes(candidate.channel_id, name, candidate.language)
    commands.append(c.Publish("leg.joined", {"speaker": leg.speaker, "channel": name}))
    if leg.id == "customer" and call.plan.dial_customer and call.answered_at is None and "agent" not in call.legs:
        commands += ring_agents(call)
    elif (
        leg.role is Role.PARTY
        and call.ringing_told
        and (customer := call.legs.get("customer"))
        and customer.up
        and not customer.in_bridge
    ):
        commands.append(c.Ring(customer.channel_id, on=False))
    return commands


def candidate_failed(call: Call, candidate: Candidate, cause: int) -> list[c.Command]:
    """A candidate will not come; when it was the last of the first two parties', the call is over."""
    told: list[c.Command] = [c.Publish("leg.failed", {"endpoint": candidate.endpoint, "cause": cause})]
    if candidate.referrer:
        state: Final = "channel_declined" if cause in BUSY_CAUSES else "channel_unavailable"
        told.append(c.TransferProgress(candidate.referrer, state))
    leg = call.legs.get(candidate.leg)
    if leg is not None:
        told += _transfer_failed(call, leg, candidate)
    if leg is None or leg.up or any(cand.leg == leg.id for cand in call.candidates.values()):
        if leg is not None and not leg.up:
            call.failures.append((cause, candidate.ringing))
        return told
    if leg.vacant:
        leg.vacant = False
        status = DialplanStatus.COMPLETED if leg.id == "customer" else _status([(cause, candidate.ringing)])
        return told + without(call, leg, status)
    if leg.id in ("customer", "agent"):
        call.failures.append((cause, candidate.ringing))
        status = _status(call.failures)
        if leg.id == "customer" and status is DialplanStatus.AGENTBUSY:
            return told + finish(call, EndReason.CUSTOMER_HANGUP, DialplanStatus.BUSY)
        return told + finish(call, _REASONS[status], status)
    return told + remove(call, leg)


def _transfer_failed(call: Call, leg: Leg, candidate: Candidate) -> list[c.Command]:
    """Told when nobody takes a transfer; with a consultation it is about the one who asked somebody in."""
    if any(other.leg == leg.id for other in call.candidates.values()):
        return []
    about: Leg | None = leg if candidate.replaces else None
    if call.consulting is not None and leg.id == call.consulting[1] and not leg.up:
        about = call.legs.get(call.consulting[0])
    if about is None:
        return []
    return [c.Publish("transfer.failed", {"speaker": about.speaker, "target": candidate.endpoint})]


def not_placed(call: Call, candidate: Candidate) -> list[c.Command]:
    """Asterisk did not carry the request out, or its answer was lost: then the phone rings, and is to stop."""
    away: list[c.Command] = [] if candidate.fetched else [c.Hangup(candidate.channel_id)]
    return away + candidate_failed(call, candidate, 0)


def forwarded(call: Call, candidate: Candidate, channel_id: str) -> list[c.Command]:
    """Its phone sent the call on: who answers there is whom we wait for. A time of its own goes on with it."""
    timer = f"candidate.{candidate.channel_id}"
    candidate.channel_id, candidate.placed = channel_id, True
    call.candidates[channel_id] = candidate
    agents = candidate.leg == "agent" and not candidate.replaces
    own = [] if agents else [c.SetTimer(f"candidate.{channel_id}", call.plan.timeout)]
    return [c.CancelTimer(timer), *own]


def lost(call: Call, candidate: Candidate) -> list[c.Command]:
    """A candidate that may have answered when nobody was there: the first parties are dialled again, until they have rung enough."""
    leg = call.legs.get(candidate.leg)
    if leg is None or leg.up or leg.vacant or candidate.replaces or leg.id not in ("customer", "agent"):
        return candidate_failed(call, candidate, 19)
    if leg.id == "customer":
        return dial_customer(call, call.plan.timeout)
    return dial(call, candidate.endpoint, leg.id, call.plan.timeout)[1]


_REASONS = {
    DialplanStatus.AGENTBUSY: EndReason.AGENT_HANGUP,
    DialplanStatus.NOANSWER: EndReason.TIMEOUT,
    DialplanStatus.UNAVAILABLE: EndReason.ERROR,
}


def _status(failures: list[tuple[int, bool]]) -> DialplanStatus:
    """Nobody came: why, as the dialplan needs it."""
    if any(cause in BUSY_CAUSES for cause, _ in failures):
        return DialplanStatus.AGENTBUSY
    if any(cause in NO_ANSWER_CAUSES and (ringing or cause != 16) for cause, ringing in failures):
        return DialplanStatus.NOANSWER
    return DialplanStatus.UNAVAILABLE
