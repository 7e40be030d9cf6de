"""How a call, or one party's part in it, ends."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.legs import MEDIA_TRIES, Leg, Thing
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
        if leg.up and leg.ours:
            commands.append(c.Hangup(leg.channel_id))
        elif leg.up:
            commands.append(c.SetVariable(leg.channel_id, "KALLGLOT_STATUS", status.value))
            commands.append(c.ContinueInDialplan(leg.channel_id) if back else c.Hangup(leg.channel_id))
        leg.up = False
        commands += dismantle(leg)
    commands += call.drop_candidates()
    return commands + call.link.close(reason)


def dismantle(leg: Leg) -> list[c.Command]:
    """Remove what we made for a leg; it is never made again."""
    commands: list[c.Command] = []
    if leg.media in (Thing.ASKED, Thing.LIVE):
        commands.append(c.RemoveMedia(leg.media_id, leg.id))
    if leg.bridge in (Thing.ASKED, Thing.LIVE):
        commands.append(c.DestroyBridge(leg.bridge_id))
    leg.media = leg.bridge = Thing.GONE
    leg.media_tries = MEDIA_TRIES
    return commands


def party_gone(call: Call, leg: Leg) -> list[c.Command]:
    """A party left: the call goes on with those who remain, if they are two or more."""
    leg.up = False
    left: list[c.Command] = [c.Publish("leg.left", {"speaker": leg.speaker})]
    remaining = [other for other in call.parties if other is not leg]
    if len(remaining) < 2:
        return left + finish(call, _reason(call, leg), DialplanStatus.COMPLETED)
    del call.legs[leg.id]
    shared = any(other.in_bridge == leg.bridge_id for other in remaining)
    for other in remaining:
        other.originals.pop(leg.id, None)
        if shared and leg.in_bridge != leg.bridge_id:
            other.in_bridge = other.in_bridge_done = ""
    return left + call.drop_candidates(leg.id) + dismantle(leg)


def _reason(call: Call, leg: Leg) -> EndReason:
    if not leg.hung_up and call.state is CallState.ACTIVE:
        return EndReason.COMPLETED
    return EndReason.CUSTOMER_HANGUP if leg.id == "customer" else EndReason.AGENT_HANGUP
