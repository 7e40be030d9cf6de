"""One party in the place of another: asked for by a phone or over the API, or done by Asterisk itself."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.dialling import dial_for
from kallglot_ari.calls.ending import party_gone, without_music
from kallglot_ari.calls.legs import Candidate, Leg

FETCH_SECONDS = 5.0
"""How long a channel may take from the dialplan to us."""


def asked(call: Call, event: e.TransferAsked) -> list[c.Command]:
    """Dial who shall come; a phone that asked is told that it cannot be done, if so."""
    leg = call.leg_of(event.referrer) if event.referrer else call.leg_named(event.speaker)
    if leg is None or not leg.up or not call.active:
        return []
    if event.consult:
        return _consult(call, leg, event)
    told = c.Publish("transfer.started", {"speaker": leg.speaker, "target": event.endpoint})
    candidate, commands = dial_for(call, event.endpoint, leg.id, event.timeout)
    candidate.replaces, candidate.language, candidate.referrer = True, event.language, event.referrer
    return [told, *commands]


def _consult(call: Call, leg: Leg, event: e.TransferAsked) -> list[c.Command]:
    if call.consulting is not None or call.full:
        return [c.Publish("transfer.failed", {"speaker": leg.speaker, "target": event.endpoint})]
    told = c.Publish("transfer.started", {"speaker": leg.speaker, "target": event.endpoint, "consult": True})
    new = call.add_party("", event.language or leg.language)
    call.consulting = (leg.id, new.id)
    _, commands = dial_for(call, event.endpoint, new.id, event.timeout)
    return [told, *commands]


def fetch(call: Call, event: e.FetchAsked) -> list[c.Command]:
    """An attended transfer to a party of the dialplan."""
    leg = call.leg_of(event.referrer)
    if leg is None or not leg.up or not call.active:
        return []
    call.candidates[event.channel_id] = Candidate(
        event.channel_id, event.name, leg.id, replaces=True, referrer=event.referrer, fetched=True
    )
    return [
        c.Fetch(event.channel_id, event.name, call.next_id("f")),
        c.SetTimer(f"candidate.{event.channel_id}", FETCH_SECONDS),
        c.Publish("transfer.started", {"speaker": leg.speaker, "target": event.name}),
    ]


def replaced(call: Call, event: e.PartyReplaced) -> list[c.Command]:
    """`old` is no longer the party; the new channel is ours to hang up."""
    leg = call.leg_of(event.old)
    if leg is None or not leg.up or not call.active:
        return [c.Hangup(event.channel_id)]
    commands: list[c.Command] = []
    if event.referrer:
        commands.append(c.TransferProgress(event.old, "channel_answered"))
    commands.append(c.Hangup(event.old))
    commands += call.drop_candidates(leg.id)
    leg.takes(event.channel_id, event.name, event.language)
    leg.held = event.held
    return [*commands, c.Publish("leg.replaced", {"speaker": leg.speaker, "channel": event.name})]


def given(call: Call, event: e.PartyGiven) -> list[c.Command]:
    """Another of our calls has this party now."""
    leg = call.leg_of(event.channel_id)
    if leg is None or not leg.up or not call.active:
        return []
    return without_music(leg) + party_gone(call, leg)


def to_dialplan(call: Call, event: e.DialplanAsked) -> list[c.Command]:
    leg = call.leg_named(event.speaker)
    if leg is None or not leg.up or not call.active:
        return []
    place = f"{event.context},{event.extension},{event.priority}"
    return [
        c.Publish("transfer.dialplan", {"speaker": leg.speaker, "target": place}),
        *without_music(leg),
        c.ContinueInDialplan(leg.channel_id, event.context, event.extension, event.priority),
        *party_gone(call, leg),
    ]


def progress(candidate: Candidate, state: c.TransferState) -> list[c.Command]:
    """Tell the phone that asked for this candidate."""
    if not candidate.referrer:
        return []
    return [c.TransferProgress(candidate.referrer, state)]
