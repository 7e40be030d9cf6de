"""Who hears whom: uplinks, translations, original voices, and music for who waits."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import supervising
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.features import OFF
from kallglot_ari.calls.legs import Leg, Thing
from kallglot_ari.calls.translating import ALONE, agree, is_open, link_for, of_source, serving

AS_IT_IS = (0.0, 0.0)
"""Gain and ducking, in dB, of a voice that is not translated."""


def reconcile(call: Call) -> list[c.Command]:
    """Ask for what has changed."""
    up = call.parties
    talking = [leg for leg in call.talking if not leg.held]
    unready = call.unready and not is_open(serving(call))
    lonely = len(talking) < 2 and (len(up) > 1 or call.waits_for_transfer)
    speaks: list[tuple[str, str, str]] = []
    hears: list[tuple[str, str, tuple[str, ...]]] = []
    commands: list[c.Command] = []
    for leg in up:
        said = [] if call.direct or lonely or leg not in talking else _speaks(call, leg, talking)
        speaks += said
        if not call.direct and not leg.held and not reads(call, leg):
            hears += _hears(call, leg, up)
        if leg.media in (Thing.ASKED, Thing.LIVE) and leg.uplink_on != bool(said):
            leg.uplink_on = bool(said)
            commands.append(c.Uplink(leg.id, leg.uplink_on))
        alone = len(up) == 1 and call.plan.request.mode in ALONE
        if leg.interruptible != alone:
            leg.interruptible = alone
            commands.append(c.Interruptible(leg.id, alone))
        # Of those who share a bridge, Asterisk itself plays it to who is put on hold.
        waits = call.parked(leg) if call.direct and len(up) > 1 else lonely or unready or leg not in talking
        music = not leg.held and waits
        if leg.music_on != music:
            leg.music_on, leg.music_done = music, False
            commands.append(c.MusicOnHold(leg.channel_id, music))
        commands += _originals(call, leg, talking)
    for leg in call.supervisors:
        if leg.up:
            commands += _supervises(call, leg)
            if leg.hears_translated and not call.direct:
                hears += supervising.hears(call, leg)
    route = c.Route(tuple(speaks), tuple(hears))
    if route != call.route:
        call.route = route
        commands.append(route)
    return commands


def reads(call: Call, leg: Leg) -> bool:
    """Assistive: everybody but the customer hears the original and reads the translation."""
    return call.plan.request.mode == "assistive_translation" and leg.id != "customer"


def _speaks(call: Call, leg: Leg, talking: list[Leg]) -> list[tuple[str, str, str]]:
    """(leg, link, label) for every session that is to hear this leg."""
    others: list[Leg | None] = [other for other in talking if other is not leg and not agree(call, leg, other)]
    if len(talking) == 1:
        others = [None]
    found: dict[str, tuple[str, str, str]] = {}
    for other in others:
        link = link_for(call, leg, other)
        if link is not None:
            label = link.label(leg.id, leg.speaker, of_source=of_source(link, leg))
            found[link.name] = (leg.id, link.name, label)
    return list(found.values())


def _hears(call: Call, leg: Leg, up: list[Leg]) -> list[tuple[str, str, tuple[str, ...]]]:
    """(leg, link, labels that it does not hear there): its own, and those of who speaks its language."""
    if len(up) == 1:
        alone = call.plan.request.mode in ALONE and len(call.legs) == 1
        link = link_for(call, leg, None)
        if link is None:
            return []
        own = link.label(leg.id, leg.speaker, of_source=of_source(link, leg))
        return [(leg.id, link.name, () if alone else (own,))]
    found: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for other in up:
        link = None if other is leg or agree(call, leg, other) else link_for(call, leg, other)
        if link is not None and link.name not in found:
            deaf = [one for one in up if one is leg or agree(call, leg, one)]
            labels = (link.label(one.id, one.speaker, of_source=of_source(link, one)) for one in deaf)
            found[link.name] = (leg.id, link.name, tuple(labels))
    return list(found.values())


def _originals(call: Call, leg: Leg, talking: list[Leg]) -> list[c.Command]:
    """Others' own voices: as they are where no translation is heard, else quietly under it if that is wished for."""
    wanted: dict[str, tuple[float, float]] = {}
    if not call.direct and leg in talking:
        for other in talking:
            if other is leg:
                continue
            wished = call.plan.original_gain_db if leg.original_db is None else leg.original_db
            if reads(call, leg) or agree(call, leg, other):
                wanted[other.id] = AS_IT_IS
            elif wished is not None and wished > OFF:
                wanted[other.id] = (wished, call.plan.original_duck_db)
    if not call.direct:  # then this leg's bridge has everybody in it, or nobody
        wanted |= {one.id: AS_IT_IS for one in supervising.whisper_to(call, leg)}
    return _hear(leg, wanted)


def _supervises(call: Call, leg: Leg) -> list[c.Command]:
    """A supervisor's ears. When nobody translates, the first one's bridge has everybody's voice."""
    commands: list[c.Command] = []
    if leg.media in (Thing.ASKED, Thing.LIVE) and leg.uplink_on:
        leg.uplink_on = False
        commands.append(c.Uplink(leg.id, False))
    if leg.music_on:  # as a party it waited
        leg.music_on = leg.music_done = False
        commands.append(c.MusicOnHold(leg.channel_id, False))
    heard = call.talking[:1] if call.direct else [] if leg.hears_translated else supervising.listens_to(call, leg)
    return commands + _hear(leg, {other.id: AS_IT_IS for other in heard})


def _hear(leg: Leg, wanted: dict[str, tuple[float, float]]) -> list[c.Command]:
    """The difference between what a leg hears of others' own voices and what it should."""
    commands: list[c.Command] = [c.Hear(leg.id, other, None) for other in leg.originals if other not in wanted]
    commands += [c.Hear(leg.id, other, *level) for other, level in wanted.items() if leg.originals.get(other) != level]
    leg.originals = wanted
    return commands
