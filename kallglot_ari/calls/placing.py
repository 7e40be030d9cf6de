"""Bridges and external media: what each leg needs in Asterisk, and which bridge its party belongs in."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.legs import MEDIA_HEAL_FIRST, MEDIA_HEAL_LAST, MEDIA_STABLE, MEDIA_TRIES, Leg, Thing

MEDIA_TIMER = "media."


def reconcile(call: Call) -> list[c.Command]:
    """Ask for what is missing."""
    commands: list[c.Command] = []
    for leg in call.legs.values():
        commands += _build(call, leg)
    for leg in call.legs.values():
        commands += _place(call, leg)
    return commands


def _build(call: Call, leg: Leg) -> list[c.Command]:
    """Bridge and external media of a leg, before they are needed."""
    commands: list[c.Command] = []
    if leg.bridge is Thing.NONE:
        leg.bridge = Thing.ASKED
        commands.append(c.CreateBridge(leg.bridge_id))
    if leg.media is Thing.NONE or (leg.media is Thing.GONE and leg.media_failures < MEDIA_TRIES):
        leg.media_tries += 1
        leg.media_failures += 1
        leg.media_since = None
        leg.media = Thing.ASKED
        leg.media_id = f"{call.plan.call_id}.{leg.id}.m{leg.media_tries}"
        leg.media_entered = leg.media_addressed = leg.media_bridged = False
        commands.append(c.CreateMedia(leg.media_id, leg.id))
    elif leg.media is Thing.GONE and not leg.media_waits:
        leg.media_given_up = leg.media_waits = True
        commands.append(c.SetTimer(MEDIA_TIMER + leg.id, leg.media_heal))
        leg.media_heal = min(2 * leg.media_heal, MEDIA_HEAL_LAST)
    if leg.media_usable and leg.bridge is Thing.LIVE and not leg.media_bridged:
        leg.media_bridged = True
        commands.append(c.AddToBridge(leg.bridge_id, leg.media_id))
    return commands


def _place(call: Call, leg: Leg) -> list[c.Command]:
    """Put the party into the bridge it belongs in: its own, or when nobody translates, all who talk into one."""
    if not leg.up or (leg.id == "customer" and call.waits_for_agent):
        return _indicate(call, leg)
    talking = call.talking
    where = talking[0] if call.direct and leg in talking else leg
    if where.bridge is not Thing.LIVE or leg.in_bridge == where.bridge_id:
        return []
    commands: list[c.Command] = []
    if not leg.answered:
        leg.answered = True
        commands.append(c.Answer(leg.channel_id))
    leg.in_bridge = where.bridge_id
    return [*commands, c.AddToBridge(where.bridge_id, leg.channel_id)]


def _indicate(call: Call, leg: Leg) -> list[c.Command]:
    if not leg.up or leg.id != "customer":
        return []
    commands: list[c.Command] = []
    if call.plan.answer_now and not leg.answered:
        leg.answered = True
        commands.append(c.Answer(leg.channel_id))
    if not call.ringing_told:
        call.ringing_told = True
        commands.append(c.Ring(leg.channel_id))
    return commands


def all_lost(legs: Iterable[Leg], dialled: Iterable[str], there: Collection[str]) -> bool:
    """Whether nothing of what was made for a call is there any more. People who hang up leave bridges and media behind."""
    legs = list(legs)
    things = {thing for leg in legs for thing in (leg.channel_id, leg.media_id, leg.bridge_id)}.union(dialled)
    return any(leg.bridge is Thing.LIVE for leg in legs) and things.isdisjoint(there)


# --- what Asterisk took away -----------------------------------------------------------------------------------------


def media_lost(call: Call, channel_id: str, *, still_there: bool) -> list[c.Command]:
    """An external-media channel left or is gone; it is made again."""
    for leg in call.legs.values():
        if leg.media_id == channel_id and leg.media in (Thing.ASKED, Thing.LIVE) and call.active:
            if leg.media is Thing.ASKED and not still_there:
                return []  # the reply to our request says it as well
            leg.media = Thing.GONE
            leg.media_bridged = False
            if leg.media_since is not None and call.now - leg.media_since >= MEDIA_STABLE:
                leg.media_failures, leg.media_heal = 0, MEDIA_HEAL_FIRST
            return [c.RemoveMedia(channel_id, leg.id), c.Publish("media.lost", {"speaker": leg.speaker})]
    return []


def media_again(call: Call, timer: str) -> None:
    """One more try for a leg without: what Asterisk lacked it may have again."""
    leg = call.legs.get(timer.removeprefix(MEDIA_TIMER))
    if leg is not None and leg.media_waits:
        leg.media_waits = False
        leg.media_failures = MEDIA_TRIES - 1


def media_failed(call: Call, command: c.CreateMedia) -> list[c.Command]:
    """An external-media channel could not be made, as far as we know."""
    for leg in call.legs.values():
        if leg.media_id == command.channel_id and leg.media is Thing.ASKED:
            leg.media = Thing.GONE
            # The channel may be there although the answer was lost.
            return [c.RemoveMedia(command.channel_id, leg.id)]
    return []


def bridge_lost(call: Call, bridge_id: str) -> None:
    """A bridge is gone; another is made, and everybody who was in it is placed anew."""
    for leg in call.legs.values():
        if leg.bridge_id == bridge_id and leg.bridge is Thing.LIVE and call.active:
            leg.bridge = Thing.NONE
            leg.bridge_id = call.next_id(f"{leg.id}.b")
            leg.media_bridged = False
            for other in call.legs.values():
                if other.in_bridge == bridge_id:
                    other.in_bridge = other.in_bridge_done = ""


def made(call: Call, command: c.Command) -> None:
    """One of our requests was carried out."""
    match command:
        case c.CreateBridge():
            for leg in call.legs.values():
                if leg.bridge_id == command.bridge_id and leg.bridge is Thing.ASKED:
                    leg.bridge = Thing.LIVE
        case c.CreateMedia():
            for leg in call.legs.values():
                if leg.media_id == command.channel_id and leg.media is Thing.ASKED:
                    leg.media = Thing.LIVE
                    leg.media_addressed = True
        case c.MusicOnHold():
            for leg in call.legs.values():
                if leg.channel_id == command.channel_id and leg.music_on == command.on:
                    leg.music_done = True
        case c.Dial() if command.channel_id in call.candidates:
            call.candidates[command.channel_id].placed = True
        case c.AddToBridge():
            for leg in call.legs.values():
                if leg.channel_id == command.channel_id and leg.in_bridge == command.bridge_id:
                    leg.in_bridge_done = command.bridge_id
                if leg.media_id == command.channel_id and leg.media_since is None:
                    leg.media_since = call.now
                    leg.media_given_up = False
        case _:
            pass
