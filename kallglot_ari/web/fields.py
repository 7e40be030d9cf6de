"""The fields of a request body, checked one by one; each message names the field, what was expected and what was found.

What reaches dial strings, the dialplan or SIP is let through by `calls.names` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kallglot_ari.calls import names
from kallglot_ari.settings import LANGUAGE_PATTERN, MODES
from kallglot_ari.web.problem import Problem, invalid

Check = Callable[[str, Any], Any]

_LANGUAGE = re.compile(LANGUAGE_PATTERN)
_SIP_URI = re.compile(r"(?:sip|sips|tel):[A-Za-z0-9@.:;=+_\-*#~%!?&\[\]]{1,512}")
_CALLER_ID = re.compile(r"[^\x00-\x1f\x7f\"\\,;|${}]{1,80}")
_ID = re.compile(r"[!-~]{1,128}")
_ADDRESS = re.compile(r"[^\x00-\x1f\x7f]{1,512}")
_EVENT = re.compile(r"[a-z][a-z0-9_.]{0,63}")


def shown(value: Any) -> str:
    """`value` as an error message may show it: short, and without control characters."""
    try:
        text = repr(value)
    except RecursionError:
        return f"{type(value).__name__} too deep to show"
    return text if len(text) <= 80 else text[:77] + "…"


def _text(param: str, value: Any, what: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str):
        raise invalid(param, f"{param}: expected {what}, found {shown(value)}")
    if not pattern.fullmatch(value):
        raise invalid(param, f"{param}: expected {what}, found {shown(value)}")
    return value


def dial_string(param: str, value: Any) -> str:
    """Technology/resource."""
    return _text(param, value, "a dial string like PJSIP/1001 (one; no spaces, commas or quotes)", names.DIAL_STRING)


def dial_strings(param: str, value: Any) -> str:
    """One dial string, or several joined with ``&``; at most 16 parties."""
    what = "a dial string like PJSIP/1001 (several joined with &, no spaces, commas or quotes)"
    if not isinstance(value, str):
        raise invalid(param, f"{param}: expected {what}, found {shown(value)}")
    parts = value.split("&")
    if len(parts) > names.MAX_DIAL_STRINGS or not all(names.DIAL_STRING.fullmatch(part) for part in parts):
        raise invalid(param, f"{param}: expected {what}, found {shown(value)}")
    return value


def transfer_target(param: str, value: Any) -> str:
    """An extension, a dial string, or ``context,extension,priority`` of the dialplan."""
    what = "an extension, a dial string like PJSIP/1002, or context,extension,priority"
    if isinstance(value, str) and (
        names.EXTENSION.fullmatch(value) or names.DIAL_STRING.fullmatch(value) or names.is_place(value)
    ):
        return value
    raise invalid(param, f"{param}: expected {what}, found {shown(value)}")


def transfer_mode(param: str, value: Any) -> str:
    if value not in ("cold", "warm"):
        raise invalid(param, f"{param}: expected cold or warm, found {shown(value)}")
    return str(value)


def supervision(param: str, value: Any) -> str:
    if value not in ("listen", "whisper", "barge"):
        raise invalid(param, f"{param}: expected listen, whisper or barge, found {shown(value)}")
    return str(value)


def sip_uri(param: str, value: Any) -> str:
    """A SIP, SIPS or tel URI without angle brackets; a name before and brackets around it are taken off."""
    what = "a SIP URI like sip:1002@example.com"
    if isinstance(value, str) and (
        match := re.fullmatch(r'(?:"[^"\x00-\x1f]{0,128}" *|[^<>"\x00-\x1f]{0,128})<([^<>]+)>', value)
    ):
        value = match.group(1)
    return _text(param, value, what, _SIP_URI)


def language(param: str, value: Any) -> str:
    return _text(param, value, 'a language like "de" or "pt-BR", or "auto"', _LANGUAGE)


def mode(param: str, value: Any) -> str:
    if value not in MODES:
        raise invalid(param, f"{param}: expected one of {', '.join(MODES)}, found {shown(value)}")
    return str(value)


def speaker(param: str, value: Any) -> str:
    return _text(param, value, "a party's label like customer, agent or party-3", names.SPEAKER)


def digits(param: str, value: Any) -> str:
    """DTMF of RFC 4733: 0-9, A-D, * and #."""
    return _text(param, value, "1 to 64 DTMF digits (0-9, A-D, * and #)", names.DTMF).upper()


def gain(param: str, value: Any) -> float | None:
    """Decibels, as `media.original_gain_db` has them; None: off."""
    if value == "off":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -60 <= value <= 6:
        raise invalid(param, f"{param}: expected a number from -60 to 6 or off, found {shown(value)}")
    return float(value)


def caller_id(param: str, value: Any) -> str:
    return _text(param, value, "up to 80 characters, a number or Name <number>", _CALLER_ID)


def identifier(param: str, value: Any) -> str:
    """An id of another system: printable ASCII without spaces. A number is taken as its digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _text(param, value, "an id of 1 to 128 printable characters without spaces", _ID)


def address(param: str, value: Any) -> str:
    """A calling or called number or URI, as a PBX gives it; may be empty (withheld)."""
    if value in ("", None):
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _text(param, value, "a number or URI of at most 512 characters without control characters", _ADDRESS)


def flag(param: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid(param, f"{param}: expected true or false, found {shown(value)}")
    return value


def seconds(low: float, high: float) -> Check:
    """A check for a duration between `low` and `high` seconds."""

    def check(param: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise invalid(param, f"{param}: expected seconds between {low:g} and {high:g}, found {shown(value)}")
        return float(value)

    return check


def event_type(param: str, value: Any) -> str:
    return _text(param, value, "an event type like session.ended", _EVENT)


def metadata(param: str, value: Any) -> dict[str, str]:
    """At most 50 keys; the values are text of at most 500 characters."""
    if not isinstance(value, Mapping) or len(value) > 50:
        raise invalid(param, f"{param}: expected an object of at most 50 keys, found {shown(value)}")
    found = {}
    for key, item in value.items():
        if not isinstance(key, str) or not names.METADATA_KEY.fullmatch(key):
            raise invalid(param, f"{param}: expected keys of letters, digits, _ . and -, found {shown(key)}")
        if not isinstance(item, str) or len(item) > 500 or "\x00" in item:
            raise invalid(
                f"{param}.{key}", f"{param}.{key}: expected text of at most 500 characters, found {shown(item)}"
            )
        found[key] = item
    return found


def take(
    body: Any, required: Mapping[str, Check], optional: Mapping[str, Check] | None = None, *, strict: bool = True
) -> dict[str, Any]:
    """The checked fields of `body`.

    :param strict: a field that is in neither list is an error; otherwise it is left out.
    :raises Problem: 400 that names the field.
    """
    optional = optional or {}
    if not isinstance(body, Mapping):
        raise Problem(400, "invalid_request", f"expected a JSON object, found {shown(body)}")
    if strict and (unknown := [key for key in body if key not in required and key not in optional]):
        names = ", ".join([*required, *optional]) or "none"
        raise invalid(str(unknown[0])[:64], f"unknown field {shown(unknown[0])}; expected {names}")
    found = {}
    for name, check in required.items():
        if name not in body:
            raise invalid(name, f"{name}: it is needed")
        found[name] = check(name, body[name])
    for name, check in optional.items():
        if body.get(name) is not None:
            found[name] = check(name, body[name])
    return found
