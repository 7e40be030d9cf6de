"""How a call, or one party's part in it, ends."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.legs import MEDIA_TRIES, Leg, Role, Thing
from kallglot_ari.calls.model import CallState, DialplanStatus, EndReason

RING_TIMER = "ring"
READY_TIMER = "ready"


def finish(call: Call, reason: EndReason, status: DialplanStatus, *, hang_up: bool = False) -> list[c.Command]:
    """Let go of everything. Parties that came from the dialplan go back to it, unless the call was completed."""
    if not call.active:
        return []
    call.state = CallState.ENDING
    call.reason, call.status = reason, status
    commands: list[c.Command] = [
        c.CancelTimer(RING_TIMER),
        c.CancelTimer(READY_TIMER),
        c.Publish("call.ending", {"end_reason": reason.value, "status": status.value}),
    ]
    back = status is not DialplanStatus.COMPLETED and not hang_up
    for leg in call.legs.values():
        commands += _let_go(leg, status, back=back)
        commands += dismantle(leg)
    commands += call.drop_candidates()
    for link in call.links:
        commands += link.close(reason)
    return commands


def _let_go(leg: Leg, status: DialplanStatus, *, back: bool) -> list[c.Command]:
    """A leg's party is none of the call's any more. :param back: who came from the dialplan goes on there."""
    was_up = leg.up
    leg.up = leg.vacant = False
    if not was_up:
        return []
    if leg.ours:
        return [c.Hangup(leg.channel_id)]
    told = c.SetVariable(leg.channel_id, "KALLGLOT_STATUS", status.value)
    if back:
        return [*without_music(leg), told, c.ContinueInDialplan(leg.channel_id)]
    return [told, c.Hangup(leg.channel_id)]


def without_music(leg: Leg) -> list[c.Command]:
    """For a party that goes on elsewhere: nobody there would stop what we have begun."""
    return [c.MusicOnHold(leg.channel_id, False)] if leg.music_on else []


def dismantle(leg: Leg) -> list[c.Command]:
    """Remove what we made for a leg; it is never made again."""
    commands: list[c.Command] = []
    if leg.media in (Thing.ASKED, Thing.LIVE):
        commands.append(c.RemoveMedia(leg.media_id, leg.id))
    if leg.bridge in (Thing.ASKED, Thing.LIVE):
        commands.append(c.DestroyBridge(leg.bridge_id))
    leg.media = leg.bridge = Thing.GONE
    leg.media_failures = MEDIA_TRIES
    return commands


def party_gone(call: Call, leg: Leg) -> list[c.Command]:
    """A party left. Who shall come in its place is waited for; else the call goes on if two or more remain."""
    leg.up = False
    leg.in_bridge = leg.in_bridge_done = ""
    told: list[c.Command] = [c.Publish("leg.left", {"speaker": leg.speaker})]
    for candidate in call.candidates.values():
        if candidate.referrer == leg.channel_id:
            candidate.referrer = ""
    if leg.role is not Role.PARTY:
        return told + remove(call, leg)
    if call.consulting is not None and leg.id == call.consulting[0]:
        told += _consulted_takes_over(call, leg)
    if call.parties and any(cand.leg == leg.id and cand.replaces for cand in call.candidates.values()):
        leg.vacant = True
        return told
    return told + without(call, leg, DialplanStatus.COMPLETED)


def _consulted_takes_over(call: Call, leg: Leg) -> list[c.Command]:
    """The one who asked somebody in has left; if that one is still being dialled, it replaces who left."""
    assert call.consulting is not None
    other = call.legs.get(call.consulting[1])
    call.consulting = None
    if other is None or other.up:
        return []
    for candidate in call.candidates.values():
        if candidate.leg == other.id:
            candidate.leg, candidate.replaces = leg.id, True
            candidate.language = candidate.language or other.language
    del call.legs[other.id]
    return dismantle(other)


def without(call: Call, leg: Leg, status: DialplanStatus) -> list[c.Command]:
    """Go on without a leg: with two parties or more, or with one and another one to come."""
    return finish(call, _reason(call, leg), status) if too_few_without(call, leg) else remove(call, leg)


def leg_failed(call: Call, leg: Leg, error: str) -> list[c.Command]:
    """Asterisk does not give a leg what it needs: the call goes on without it, if it can."""
    if leg.id in ("customer", "agent") or (leg.up and leg.role is Role.PARTY and too_few_without(call, leg)):
        call.problem = error
        return finish(call, EndReason.ERROR, DialplanStatus.FAILED)
    told: list[c.Command] = [c.Publish("leg.left", {"speaker": leg.speaker})] if leg.up else []
    return told + _let_go(leg, DialplanStatus.FAILED, back=True) + remove(call, leg)


def too_few_without(call: Call, leg: Leg) -> bool:
    """Whether nobody, or one alone, is left in a call when this leg is no party of it any more."""
    if not call.first_are_there and leg.id not in ("customer", "agent"):
        return False  # these two are still to come
    remaining = [other for other in call.parties if other is not leg]
    waiting = sum(other.vacant for other in call.legs.values() if other is not leg)
    return len(remaining) + waiting < 2 or not remaining or _only_consulting(call, leg)


def remove(call: Call, leg: Leg) -> list[c.Command]:
    """The call no longer has this leg."""
    if call.consulting is not None and leg.id in call.consulting:
        call.consulting = None
    del call.legs[leg.id]
    for other in call.legs.values():
        other.originals.pop(leg.id, None)
    return call.drop_candidates(leg.id) + dismantle(leg)


def _only_consulting(call: Call, leg: Leg) -> bool:
    """The last one for whom two parties consulted has left."""
    consulting = call.consulting
    return (
        consulting is not None
        and leg.id not in consulting
        and all(other.id in consulting for other in call.legs.values() if other is not leg and other.role is Role.PARTY)
    )


def _reason(call: Call, leg: Leg) -> EndReason:
    if not leg.hung_up and call.state is CallState.ACTIVE:
        return EndReason.COMPLETED
    return EndReason.CUSTOMER_HANGUP if leg.id == "customer" else EndReason.AGENT_HANGUP
