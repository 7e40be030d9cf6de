"""Who hears whom: uplinks, translations, original voices, and music for who waits."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.legs import Leg, Thing


def reconcile(call: Call) -> list[c.Command]:
    """Ask for what has changed."""
    up = call.parties
    talking = [leg for leg in up if not leg.held]
    idle = call.direct or (len(up) > 1 and len(talking) < 2)
    commands: list[c.Command] = []
    for leg in up:
        wanted = not (idle or leg.held)
        if leg.media in (Thing.ASKED, Thing.LIVE) and leg.uplink_on != wanted:
            leg.uplink_on = wanted
            commands.append(c.Uplink(leg.id, wanted))
        music = len(up) > 1 and not leg.held and len(talking) < 2 and not call.direct
        if leg.music_on != music:
            leg.music_on = music
            commands.append(c.MusicOnHold(leg.channel_id, music))
        commands += _originals(call, leg, up)
    deaf_to = tuple((leg.id, _deaf(call, leg)) for leg in up if not call.direct and not _reads(call, leg))
    if deaf_to != call.deaf_to:
        call.deaf_to = deaf_to
        commands.append(c.Route(deaf_to))
    return commands


def _deaf(call: Call, leg: Leg) -> tuple[str, ...]:
    alone = not call.plan.agents and len(call.legs) == 1
    return () if alone else (leg.speaker,)


def _reads(call: Call, leg: Leg) -> bool:
    """Assistive: everybody but the customer hears the original and reads the translation."""
    return call.plan.request.mode == "assistive_translation" and leg.id != "customer"


def _originals(call: Call, leg: Leg, up: list[Leg]) -> list[c.Command]:
    wanted: dict[str, float] = {}
    if not call.direct:
        gain = 0.0 if _reads(call, leg) else call.plan.original_gain_db
        if gain is not None:
            wanted = {other.id: gain for other in up if other is not leg}
    commands: list[c.Command] = [c.Hear(leg.id, other, None) for other in leg.originals if other not in wanted]
    commands += [c.Hear(leg.id, other, gain) for other, gain in wanted.items() if leg.originals.get(other) != gain]
    leg.originals = wanted
    return commands
