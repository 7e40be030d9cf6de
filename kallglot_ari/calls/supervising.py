"""Supervisors: they hear a call, whisper to the agent, or break in. While they listen or whisper they are no party of it."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.dialling import dial_for
from kallglot_ari.calls.ending import finish, too_few_without
from kallglot_ari.calls.legs import Leg, Role
from kallglot_ari.calls.model import DialplanStatus, EndReason
from kallglot_ari.calls.translating import is_alone, link_for, of_source

EVERYBODY = "both"


def asked(call: Call, event: e.SuperviseAsked) -> list[c.Command]:
    """Dial a supervisor."""
    if not call.active or len(call.supervisors) >= call.plan.max_parties or (event.role is Role.PARTY and call.full):
        return []
    leg = call.add_party(event.speaker or "supervisor", event.language)
    leg.supervises = True
    leg.role, leg.hears_whom, leg.hears_translated = event.role, event.hears_whom, event.translated
    told = c.Publish("supervisor.dialled", {"speaker": leg.speaker, "mode": event.role.value})
    return [told, *dial_for(call, event.endpoint, leg.id, event.timeout)[1]]


def changed(call: Call, event: e.SuperviseChanged) -> list[c.Command]:
    """Another way to supervise. Who has broken in may step back."""
    leg = call.leg_named(event.speaker)
    if leg is None or not call.active or not leg.supervises or (event.role is Role.PARTY is not leg.role and call.full):
        return []
    steps_back = leg.role is Role.PARTY is not event.role
    leg.role, leg.hears_whom, leg.hears_translated = event.role, event.hears_whom, event.translated
    told: list[c.Command] = [c.Publish("supervisor.changed", {"speaker": leg.speaker, "mode": event.role.value})]
    return told + _no_party_any_more(call, leg) if steps_back else told


def _no_party_any_more(call: Call, leg: Leg) -> list[c.Command]:
    """Who has broken in steps back: one alone is no call then, as if that one had left."""
    if call.answered_at is not None and too_few_without(call, leg) and not is_alone(call):
        return finish(call, EndReason.COMPLETED, DialplanStatus.COMPLETED)
    if call.consulting is not None and leg.id in call.consulting:
        call.consulting = None
    return []


def listens_to(call: Call, supervisor: Leg) -> list[Leg]:
    """Whom a supervisor wants to hear, of those who are there."""
    return [leg for leg in call.parties if supervisor.hears_whom in (EVERYBODY, leg.speaker, leg.id)]


def whisper_to(call: Call, leg: Leg) -> list[Leg]:
    """The supervisors that whisper to this leg."""
    return [one for one in call.supervisors if one.up and one.role is Role.WHISPER and leg in _whispered_to(call, one)]


def _whispered_to(call: Call, supervisor: Leg) -> list[Leg]:
    """To whom it listens alone, or else the agent; where that one has left, whoever is there instead. Never the customer."""
    others = [leg for leg in call.parties if leg.id != "customer"]
    named = [leg for leg in others if supervisor.hears_whom in (leg.speaker, leg.id)]
    return named or [leg for leg in others if leg.id == "agent"] or others


def hears(call: Call, supervisor: Leg) -> list[tuple[str, str, tuple[str, ...]]]:
    """(supervisor, link, labels that it does not hear there): each speaker on one link only, whatever it is translated to."""
    wanted: dict[str, set[str]] = {}
    all_labels: dict[str, set[str]] = {}
    found: set[str] = set()
    for speaker in call.parties:
        for other in call.parties:
            link = link_for(call, speaker, other) if other is not speaker else None
            if link is None:
                continue
            label = link.label(speaker.id, speaker.speaker, of_source=of_source(link, speaker))
            all_labels.setdefault(link.name, set()).add(label)
            if speaker.id not in found and speaker in listens_to(call, supervisor):
                found.add(speaker.id)
                wanted.setdefault(link.name, set()).add(label)
    return [(supervisor.id, name, tuple(sorted(all_labels[name] - labels))) for name, labels in wanted.items()]
