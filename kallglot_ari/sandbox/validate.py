"""What the API accepts in ``POST /sessions``, in both contracts. Pure.

The request's shape decides the contract: a `provider` object, a `conference`, or `audio` hints that only the older one knows make it
the provider contract; `routing`, `phone_number`, `connection_id`, or none of all these make it the current one. Without telephony the
session is its stream alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kallglot_ari.settings import LANGUAGE_PATTERN, MODES

_METHODS = ("routing", "phone_number", "connection_id")
_URI = re.compile(r"(sips?:[^\s@]{1,128}@)?[^\s@]{1,255}|tel:\+?[0-9.\-]{1,32}")
_CODECS = ("opus", "G722", "PCMU", "PCMA")
_ENCODINGS = ("mulaw", "alaw", "pcm_16", "pcm_8")
_RATES = (8000, 16000, 24000, 48000)
_METADATA_LIMIT = 50
_CODES = (
    "aaabafakamanarasavayazbabebgbhbibmbnbobrbscacechcocrcscucvcydadedvdzeeeleneoeseteufafffifjfofrfygagd"
    "glgngugvhahehihohrhthuhyhziaidieigiiikioisitiujajvkakgkikjkkklkmknkokrkskukvkwkylalblglilnloltlulvmg"
    "mhmimkmlmnmrmsmtmynanbndnengnlnnnonrnvnyocojomorospapiplpsptqurmrnrorurwsascsdsesgsiskslsmsnsosqsrss"
    "stsusvswtatetgthtitktltntotrtstttwtyugukuruzvevivowawoxhyiyozazhzu"
)
_LANGUAGES = frozenset(_CODES[i : i + 2] for i in range(0, len(_CODES), 2))
"""ISO 639-1. Codes of three letters are taken as they are."""

Contract = Literal["routing", "provider"]


class Problem(Exception):
    """An answer with `status` and an error object."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        kind: str = "invalid_request_error",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.kind = kind
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Wanted:
    """A valid request for a session."""

    contract: Contract
    mode: str
    source_language: str
    target_language: str
    provider: str
    """The response's `provider`: ``sip``, or empty."""
    recording: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    max_participants: int = 2


def parse_create(body: Mapping[str, Any]) -> Wanted:
    """:raises Problem: naming the first field that cannot be used."""
    methods = [name for name in _METHODS if body.get(name) is not None]
    contract: Contract = "routing" if methods or not _older(body) else "provider"
    mode = body.get("mode")
    if mode is None:
        raise Problem(400, "missing_parameter", "mode is required", param="mode")
    if mode not in MODES:
        raise Problem(422, "invalid_mode", f"expected one of {', '.join(MODES)}, found {_show(mode)}", param="mode")
    languages = [_language(body, name) for name in ("source_language", "target_language")]
    if contract == "routing":
        provider = _routing(body, methods)
    else:
        provider = _provider(body["provider"]) if body.get("provider") is not None else ""
    _audio(body, contract)
    return Wanted(
        contract=contract,
        mode=str(mode),
        source_language=languages[0],
        target_language=languages[1],
        provider=provider,
        recording=_recording(body),
        metadata=_metadata(body),
        max_participants=_conference(body, contract),
    )


def _older(body: Mapping[str, Any]) -> bool:
    audio = body.get("audio")
    hints = audio if isinstance(audio, Mapping) else {}
    wide = (
        hints.get("encoding", "mulaw") != "mulaw"
        or hints.get("sample_rate", 8000) != 8000
        or hints.get("channels", 1) != 1
    )
    return wide or any(body.get(name) is not None for name in ("provider", "conference"))


def _language(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None or value == "auto":
        return "auto"
    primary = value.partition("-")[0].lower() if isinstance(value, str) else ""
    known = primary in _LANGUAGES if len(primary) == 2 else bool(primary)
    if not isinstance(value, str) or not re.fullmatch(LANGUAGE_PATTERN, value) or not known:
        raise Problem(
            422, "invalid_language_code", f"expected a language code or auto, found {_show(value)}", param=name
        )
    return value


def _routing(body: Mapping[str, Any], methods: list[str]) -> str:
    if body.get("provider") is not None:
        raise Problem(422, "invalid_provider", "provider is read-only: name the telephony by routing", param="provider")
    if len(methods) > 1:
        raise Problem(
            400, "invalid_routing", f"expected exactly one routing method, found {', '.join(methods)}", param=methods[1]
        )
    if not methods:
        return ""
    if methods[0] != "routing":
        if not isinstance(body[methods[0]], str) or not body[methods[0]]:
            raise Problem(
                400, "invalid_parameter", f"expected a string, found {_show(body[methods[0]])}", param=methods[0]
            )
        return "twilio"
    routing = _object(body, "routing", "invalid_routing")
    if routing.get("type") != "sip":
        raise Problem(422, "invalid_routing", f"expected sip, found {_show(routing.get('type'))}", param="routing.type")
    if routing.get("direction", "inbound") not in ("inbound", "outbound"):
        raise Problem(422, "invalid_routing", "expected inbound or outbound", param="routing.direction")
    sip = _object(routing, "sip", "invalid_routing", "routing.")
    uri = sip.get("from_uri")
    if not isinstance(uri, str) or not uri.startswith(("sip:", "sips:", "tel:")) or not _URI.fullmatch(uri):
        raise Problem(
            422, "invalid_routing", f"expected a SIP or tel URI, found {_show(uri)}", param="routing.sip.from_uri"
        )
    headers = sip.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
        raise Problem(422, "invalid_routing", "expected an object of strings", param="routing.sip.headers")
    return "sip"


def _provider(value: object) -> str:
    if not isinstance(value, dict):
        raise Problem(422, "invalid_provider", f"expected an object, found {_show(value)}", param="provider")
    _one_of(value, "type", ("sip",), required=True)
    _one_of(value, "transport", ("tls", "tcp", "udp"))
    codecs = value.get("codecs", ["opus"])
    if not isinstance(codecs, list) or not codecs or any(codec not in _CODECS for codec in codecs):
        raise Problem(422, "invalid_provider", f"expected some of {', '.join(_CODECS)}", param="provider.codecs")
    tls, srtp, refer = (_section(value, name) for name in ("tls", "srtp", "refer"))
    _one_of(tls, "min_version", ("TLSv1.2", "TLSv1.3"), prefix="provider.tls.")
    for section, name, key in (
        (tls, "tls", "verify_certificate"),
        (srtp, "srtp", "enabled"),
        (refer, "refer", "enabled"),
    ):
        if not isinstance(section.get(key, True), bool):
            raise Problem(422, "invalid_provider", "expected true or false", param=f"provider.{name}.{key}")
    if refer.get("enabled") and not str(refer.get("notify_url", "")).startswith(("http://", "https://")):
        raise Problem(422, "invalid_provider", "expected a URL", param="provider.refer.notify_url")
    endpoints = value.get("endpoints", [])
    if not isinstance(endpoints, list) or not all(
        isinstance(e, dict) and isinstance(e.get("uri"), str) for e in endpoints
    ):
        raise Problem(422, "invalid_provider", "expected objects with a uri", param="provider.endpoints")
    timeout = _section(value, "failover").get("timeout", 3000)
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 0 < timeout <= 60000:
        raise Problem(422, "invalid_provider", "expected 1 to 60000 ms", param="provider.failover.timeout")
    _section(value, "debug")
    return "sip"


def _audio(body: Mapping[str, Any], contract: Contract) -> None:
    if body.get("audio") is None:
        return
    audio = _object(body, "audio", "invalid_parameter")
    wide = contract == "provider"
    accepted: dict[str, tuple[int | str, ...]] = {
        "sample_rate": _RATES if wide else (8000,),
        "encoding": _ENCODINGS if wide else ("mulaw",),
        "channels": (1, 2) if wide else (1,),
    }
    for key, allowed in accepted.items():
        if audio.get(key, allowed[0]) not in allowed:
            shown = ", ".join(str(item) for item in allowed)
            raise Problem(
                422, "invalid_audio_format", f"expected one of {shown}, found {_show(audio[key])}", param=f"audio.{key}"
            )


def _recording(body: Mapping[str, Any]) -> bool:
    if body.get("recording") is None:
        return False
    recording = _object(body, "recording", "invalid_parameter")
    if not isinstance(recording.get("enabled", False), bool):
        raise Problem(422, "invalid_parameter", "expected true or false", param="recording.enabled")
    if recording.get("channels", "dual") not in ("dual", "mono"):
        raise Problem(422, "invalid_parameter", "expected dual or mono", param="recording.channels")
    return bool(recording.get("enabled", False))


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    if body.get("metadata") is None:
        return {}
    metadata = _object(body, "metadata", "invalid_parameter")
    if len(metadata) > _METADATA_LIMIT:
        raise Problem(
            422,
            "invalid_parameter",
            f"expected at most {_METADATA_LIMIT} keys, found {len(metadata)}",
            param="metadata",
        )
    return {key: value if isinstance(value, str) else str(value) for key, value in metadata.items()}


def _conference(body: Mapping[str, Any], contract: Contract) -> int:
    if body.get("conference") is None:
        return 2
    if contract == "routing":
        raise Problem(422, "invalid_parameter", "conference is not known here", param="conference")
    conference = _object(body, "conference", "invalid_parameter")
    limit = conference.get("max_participants", 5)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 2 <= limit <= 100:
        raise Problem(422, "invalid_parameter", "expected 2 to 100", param="conference.max_participants")
    return limit if conference.get("enabled", True) is True else 2


def _object(body: Mapping[str, Any], name: str, code: str, prefix: str = "") -> dict[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise Problem(422, code, f"expected an object, found {_show(value)}", param=prefix + name)
    return value


def _section(provider: Mapping[str, Any], name: str) -> dict[str, Any]:
    return _object(provider, name, "invalid_provider", "provider.") if provider.get(name) is not None else {}


def _one_of(
    body: Mapping[str, Any], name: str, allowed: tuple[str, ...], *, required: bool = False, prefix: str = "provider."
) -> None:
    value = body.get(name, None if required else allowed[0])
    if value not in allowed:
        raise Problem(
            422, "invalid_provider", f"expected one of {', '.join(allowed)}, found {_show(value)}", param=prefix + name
        )


def _show(value: object) -> str:
    return "nothing" if value is None else repr(value)[:64]
