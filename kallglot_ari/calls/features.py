"""Digits: kept, told, passed on to the others; and codes that do something for who dials them."""

from __future__ import annotations

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import Call
from kallglot_ari.calls.dialling import dial_for
from kallglot_ari.calls.legs import Leg, Role

DIGITS_TIMER = "digits."
DIGIT_SECONDS = 2.0
"""How long the rest of a code is waited for before what was dialled of it is passed on."""
KEPT = 100
ORIGINAL_DB = -15.0
"""How loud others' own voices are when somebody switches them on and no level is set."""
OFF = -1000.0
"""dB: not at all. JSON, as which calls are written down, has no infinity."""


def dialled(call: Call, event: e.DtmfReceived) -> list[c.Command]:
    """A party pressed a key."""
    leg = call.leg_of(event.channel_id)
    if leg is None or not leg.up or leg.role is not Role.PARTY or not call.active:
        return []
    if _again(leg, event):
        return []
    at = call.wall.isoformat().replace("+00:00", "Z")
    call.dtmf.append({"speaker": leg.speaker, "digit": event.digit, "at": at})
    del call.dtmf[:-KEPT]
    commands: list[c.Command] = [c.Publish("dtmf", {"speaker": leg.speaker, "digit": event.digit})]
    commands.append(c.Pressed(leg.id, event.duration_ms / 1000))
    leg.digits += event.digit
    codes = call.plan.features
    if (feature := dict(codes).get(leg.digits)) is not None:
        leg.digits = ""
        return [*commands, c.CancelTimer(DIGITS_TIMER + leg.id), *_do(call, leg, feature)]
    if any(code.startswith(leg.digits) for code, _ in codes):
        return [*commands, c.SetTimer(DIGITS_TIMER + leg.id, DIGIT_SECONDS)]
    return commands + _pass_on(call, leg)


def _again(leg: Leg, event: e.DtmfReceived) -> bool:
    """Whether Asterisk tells a digit for the second time (22.10 does after it has sent one): it ended before it can have begun."""
    digit, ended_at = leg.last_digit
    leg.last_digit = event.digit, event.ended_at
    return event.ended_at > 0 and digit == event.digit and event.ended_at - ended_at < event.duration_ms / 1000


def waited(call: Call, timer: str) -> list[c.Command]:
    """No code came of it."""
    leg = call.legs.get(timer.removeprefix(DIGITS_TIMER))
    return _pass_on(call, leg) if leg is not None and leg.up else []


def _pass_on(call: Call, leg: Leg) -> list[c.Command]:
    digits, leg.digits = leg.digits, ""
    if call.direct or not digits:
        return []  # in one bridge, Asterisk passes them on
    return [c.SendDtmf(other.channel_id, digits) for other in call.parties if other is not leg]


def _do(call: Call, leg: Leg, feature: str) -> list[c.Command]:
    told = c.Publish("feature", {"speaker": leg.speaker, "feature": feature})
    if feature == "repeat":
        return [told, c.Repeat(leg.id)]
    if feature == "original":
        before = call.plan.original_gain_db if leg.original_db is None else leg.original_db
        usual = ORIGINAL_DB if call.plan.original_gain_db is None else call.plan.original_gain_db
        leg.original_db = usual if before in (None, OFF) else OFF
        return [told]
    return [told, *_ask_for_human(call, leg)]


def original(call: Call, event: e.OriginalAsked) -> list[c.Command]:
    """Others' own voices for one party, as loud as asked for; what follows from it is `routing`'s."""
    leg = call.leg_named(event.speaker)
    if leg is not None:
        leg.original_db = OFF if event.gain_db is None else event.gain_db
    return []


def _ask_for_human(call: Call, leg: Leg) -> list[c.Command]:
    told = c.Publish("human.asked", {"speaker": leg.speaker})
    if not call.plan.human or call.human in call.legs or call.full:
        return [told]
    new = call.add_party("human", "")
    call.human = new.id
    return [told, *dial_for(call, call.plan.human, new.id, call.plan.timeout)[1]]
