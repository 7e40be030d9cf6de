"""What `POST /v1/sessions` and `POST /v1/sessions/{id}/end` may hold, in both contracts. Pure.

Whatever the reference does not name is refused: 400 for a wrong shape (not an object, wrong type, unknown field), 422 for a
value out of its set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

Contract = Literal["routing", "provider"]
Json = dict[str, object]

MODES = ("bidirectional_translation", "assistive_translation", "ai_agent", "help_chat_voice")
END_REASONS = ("completed", "customer_hangup", "agent_hangup", "error", "timeout")
ENCODINGS = ("pcm_16", "pcm_8", "mulaw", "alaw")
RATES = (8000, 16000, 24000, 48000)
ROUTING_METHODS = ("routing", "phone_number", "connection_id")
_LANGUAGE = re.compile(r"auto|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_CALLER = re.compile(r"(sips?|tel):[^\s<>\"]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?(:\d{1,5})?")

Check = Callable[[object, str], None]


class Refusal(Exception):
    """The request is refused; becomes the API's error object."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param


def check_create(body: object, contract: Contract) -> Json:
    """The body of a creation, or Refusal."""
    common: dict[str, Check] = {
        "mode": _one_of(MODES, "invalid_mode"),
        "source_language": _matching(_LANGUAGE, "invalid_language_code", "a BCP 47 tag or auto"),
        "target_language": _matching(_LANGUAGE, "invalid_language_code", "a BCP 47 tag or auto"),
        "audio": _audio(contract),
        "recording": _table({"enabled": _boolean, "channels": _one_of(("dual",), "invalid_recording")}),
        "metadata": _table(None),
    }
    if contract == "routing":
        fields = common | {"routing": _routing, "phone_number": _text, "connection_id": _text}
    else:
        fields = common | {"provider": _provider, "conference": _conference}
    table = _object(body, "")
    if contract == "routing" and isinstance(table.get("provider"), dict):
        raise Refusal(422, "invalid_provider", "provider: expected routing, found a nested object", param="provider")
    _check_fields(table, fields, "")
    if "mode" not in table:
        raise Refusal(422, "invalid_mode", f"mode: required, one of {', '.join(MODES)}", param="mode")
    if contract == "routing":
        methods = [name for name in ROUTING_METHODS if name in table]
        if len(methods) != 1:
            found = ", ".join(methods) or "none"
            raise Refusal(
                422,
                "invalid_routing",
                f"expected exactly one of {', '.join(ROUTING_METHODS)}, found {found}",
                param="routing",
            )
    elif "provider" not in table and "conference" not in table:
        raise Refusal(422, "invalid_provider", "provider: required", param="provider")
    return table


def check_end(body: object) -> str:
    """The reason in the optional body of an end; `completed` when none is given."""
    if body is None:
        return "completed"
    table = _object(body, "")
    _check_fields(table, {"reason": _one_of(END_REASONS, "invalid_reason")}, "")
    return str(table.get("reason", "completed"))


# --- parts of the two contracts -----------------------------------------------------------------------------------------


def _routing(value: object, path: str) -> None:
    def sip(value: object, path: str) -> None:
        fields = {
            "from_uri": _matching(_CALLER, "invalid_routing", "a sip:, sips: or tel: URI"),
            "headers": _headers,
        }
        _check_fields(_object(value, path), fields, path)

    table = _object(value, path)
    direction = _one_of(("inbound", "outbound"), "invalid_routing")
    _check_fields(table, {"type": _one_of(("sip",), "invalid_routing"), "sip": sip, "direction": direction}, path)
    _need(table, ("type", "sip"), path, "invalid_routing")


def _headers(value: object, path: str) -> None:
    for name, header in _object(value, path).items():
        if not re.fullmatch(r"[A-Za-z0-9\-.!%*_+`'~]+", name):
            raise Refusal(422, "invalid_routing", f"{path}: {name!r} is no SIP header name", param=path)
        _text(header, f"{path}.{name}")
        if re.search(r"[\r\n]", str(header)):
            raise Refusal(422, "invalid_routing", f"{path}.{name}: has a line break", param=f"{path}.{name}")


def _provider(value: object, path: str) -> None:
    bad = "invalid_provider"
    codecs = _one_of(("opus", "G722", "PCMU", "PCMA"), bad)
    fields: dict[str, Check] = {
        "type": _one_of(("sip",), bad),
        "transport": _one_of(("tls", "tcp", "udp"), bad),
        "codecs": _array(codecs, distinct=True),
        "tls": _table({"verify_certificate": _boolean, "min_version": _one_of(("TLSv1.2", "TLSv1.3"), bad)}),
        "srtp": _table(
            {"enabled": _boolean, "crypto_suites": _array(_one_of(("AES_CM_128_HMAC_SHA1_80",), bad), distinct=True)}
        ),
        "refer": _table({"enabled": _boolean, "notify_url": _matching(re.compile(r"https?://\S+"), bad, "a URL")}),
        "endpoints": _array(
            _table({"uri": _matching(_HOST, bad, "a host"), "priority": _integer(0)}, need=("uri", "priority"))
        ),
        "failover": _table({"enabled": _boolean, "timeout": _integer(1)}),
        "debug": _table({"sip_trace": _boolean, "pcap_capture": _boolean}),
    }
    table = _object(value, path)
    _check_fields(table, fields, path)
    _need(table, ("type",), path, bad)


def _conference(value: object, path: str) -> None:
    _table({"enabled": _boolean, "max_participants": _integer(2)}, need=("enabled",))(value, path)


def _audio(contract: Contract) -> Check:
    bad = "invalid_audio_format"
    if contract == "routing":
        return _table(
            {"sample_rate": _one_of((8000,), bad), "encoding": _one_of(("mulaw",), bad), "channels": _one_of((1,), bad)}
        )
    return _table(
        {"sample_rate": _one_of(RATES, bad), "encoding": _one_of(ENCODINGS, bad), "channels": _one_of((1, 2), bad)}
    )


# --- the small checks they are made of ------------------------------------------------------------------------------------


def _object(value: object, path: str) -> Json:
    if not isinstance(value, dict):
        raise Refusal(
            400, "invalid_request", f"{path or 'body'}: expected an object, found {value!r}", param=path or None
        )
    return value


def _check_fields(table: Json, fields: Mapping[str, Check], path: str) -> None:
    for name, value in table.items():
        where = f"{path}.{name}" if path else name
        if name not in fields:
            raise Refusal(400, "unknown_parameter", f"{where}: unknown field", param=where)
        fields[name](value, where)


def _need(table: Json, names: tuple[str, ...], path: str, code: str) -> None:
    for name in names:
        if name not in table:
            raise Refusal(422, code, f"{path}.{name}: required", param=f"{path}.{name}")


def _one_of(allowed: tuple[object, ...], code: str) -> Check:
    def check(value: object, path: str) -> None:
        if type(value) is not type(allowed[0]) or value not in allowed:
            raise Refusal(422, code, f"{path}: expected one of {allowed}, found {value!r}", param=path)

    return check


def _matching(pattern: re.Pattern[str], code: str, expected: str) -> Check:
    def check(value: object, path: str) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Refusal(422, code, f"{path}: expected {expected}, found {value!r}", param=path)

    return check


def _table(fields: Mapping[str, Check] | None, *, need: tuple[str, ...] = ()) -> Check:
    def check(value: object, path: str) -> None:
        table = _object(value, path)
        if fields is not None:
            _check_fields(table, fields, path)
        _need(table, need, path, "invalid_request")

    return check


def _array(item: Check, *, distinct: bool = False) -> Check:
    def check(value: object, path: str) -> None:
        if not isinstance(value, list) or not value:
            raise Refusal(
                400, "invalid_request", f"{path}: expected a list that is not empty, found {value!r}", param=path
            )
        for n, entry in enumerate(value):
            item(entry, f"{path}[{n}]")
        if distinct and len(set(value)) != len(value):
            raise Refusal(422, "invalid_request", f"{path}: expected each once, found {value!r}", param=path)

    return check


def _boolean(value: object, path: str) -> None:
    if not isinstance(value, bool):
        raise Refusal(400, "invalid_request", f"{path}: expected true or false, found {value!r}", param=path)


def _integer(least: int) -> Check:
    def check(value: object, path: str) -> None:
        if type(value) is not int or value < least:
            raise Refusal(
                400, "invalid_request", f"{path}: expected an integer >= {least}, found {value!r}", param=path
            )

    return check


def _text(value: object, path: str) -> None:
    if not isinstance(value, str) or not value:
        raise Refusal(400, "invalid_request", f"{path}: expected a text that is not empty, found {value!r}", param=path)
