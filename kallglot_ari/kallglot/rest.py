"""The bodies of Kallglot's REST interface, both contracts. Pure: values in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

import orjson

from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.errors import (
    ApiConflict,
    ApiCreditsExhausted,
    ApiError,
    ApiInvalid,
    ApiNotFound,
    ApiRateLimited,
    ApiUnauthorized,
    ApiUnavailable,
)
from kallglot_ari.kallglot import assumed
from kallglot_ari.settings import KallglotSettings, TrunkSettings

SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
"""Ids become part of URLs, SIP URIs and dialplan variables: nothing else is let in."""
IDEMPOTENCY_CONFLICT = "idempotency_conflict"
IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
INVALID_RESPONSE = "invalid_response"
_MESSAGE_LIMIT = 300
_WORD_LIMIT = 64
_REQUEST_ID_LIMIT = 128
VALUES_MAX = 100_000
"""Values that an answer may have: more would hold up everybody else while they are read."""


def create_body(request: SessionRequest, settings: KallglotSettings, trunk: TrunkSettings) -> dict[str, Any]:
    """The body of ``POST /sessions`` in the contract of `settings`."""
    body: dict[str, Any] = {"mode": request.mode}
    if request.source_language != "auto":
        body["source_language"] = request.source_language
    if request.target_language != "auto":
        body["target_language"] = request.target_language
    if not request.trunk:
        body["audio"] = audio_hints(settings)
    if settings.recording:
        body["recording"] = {"enabled": True, "channels": "dual"}
    if request.metadata:
        body["metadata"] = dict(request.metadata)
    if settings.contract == "routing":
        sip = {"from_uri": request.from_uri or assumed.ANONYMOUS, "headers": {}}
        body["routing"] = {"type": "sip", "sip": sip, "direction": request.direction}
        return body
    body["provider"] = provider_object(trunk)
    if request.participants > 2:
        body["conference"] = {"enabled": True, "max_participants": request.participants}
    return body


def audio_hints(settings: KallglotSettings) -> dict[str, Any]:
    """The `audio` object: what the stream will carry."""
    stereo = settings.contract == "provider" and settings.provider_speakers == "channels"
    return {
        "sample_rate": settings.sample_rate,
        "encoding": settings.encoding,
        "channels": 2 if stereo else 1,
    }


def provider_object(trunk: TrunkSettings) -> dict[str, Any]:
    """The `provider` object of the older SIP guide, field by field."""
    endpoints = sorted(trunk.endpoints, key=lambda endpoint: endpoint.priority)
    refer: dict[str, Any] = {"enabled": bool(trunk.refer_notify_url)}
    if trunk.refer_notify_url:
        refer["notify_url"] = trunk.refer_notify_url
    return {
        "type": "sip",
        "transport": trunk.transport,
        "codecs": list(trunk.codecs),
        "tls": {"verify_certificate": trunk.tls_verify_certificate, "min_version": trunk.tls_min_version},
        "srtp": {"enabled": trunk.srtp, "crypto_suites": list(trunk.srtp_suites)},
        "refer": refer,
        "endpoints": [{"uri": endpoint.uri, "priority": endpoint.priority} for endpoint in endpoints],
        "failover": {"enabled": len(endpoints) > 1, "timeout": trunk.failover_timeout_ms},
        "debug": {"sip_trace": trunk.sip_trace, "pcap_capture": False},
    }


def parse_object(body: bytes, *, content_type: str = "") -> dict[str, Any]:
    """A JSON object.

    :raises ApiUnavailable: for anything else: what answered is not the API but something between us and it.
    """
    if body.count(b",") > VALUES_MAX:
        raise ApiUnavailable(f"expected at most {VALUES_MAX} values in an answer, found more", code=INVALID_RESPONSE)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = f"{len(body)} bytes of {content_type}" if content_type else f"{len(body)} bytes that are not JSON"
        raise ApiUnavailable(f"expected a JSON object, found {found}", code=INVALID_RESPONSE) from None
    if not isinstance(value, dict):
        raise ApiUnavailable(f"expected a JSON object, found {_kind(value)}", code=INVALID_RESPONSE)
    return value


def parse_session(data: Mapping[str, Any], *, base_url: str, streamed: bool) -> Session:
    """A session from the answer to its creation.

    :param streamed: the session's audio goes over the stream, so that an answer without its URL is useless.
    :raises ApiError: (not retryable) with code ``invalid_response``, naming the field.
    """
    session_id = data.get("id")
    if not isinstance(session_id, str) or not SESSION_ID.fullmatch(session_id):
        raise _bad("id", "a session id", session_id)
    stream = data.get("stream") or {}
    if not isinstance(stream, dict):
        raise _bad("stream", "an object", stream)
    url, token = stream.get("url") or "", stream.get("token") or ""
    if not isinstance(url, str) or (streamed and not url):
        raise _bad("stream.url", "a URL", url or None)
    if not isinstance(token, str):
        raise _bad("stream.token", "a string", token)
    url, token = _token_apart(url, token)
    mode = data.get("mode")
    return Session(
        id=session_id,
        mode=mode if isinstance(mode, str) else "",
        stream_url=url,
        stream_token=token,
        expires_at=parse_time(stream.get("expires_at")),
        created_at=parse_time(data.get("created_at")),
        base_url=base_url,
    )


def _token_apart(url: str, token: str) -> tuple[str, str]:
    """The URL without its token: a session is shown in logs, its token never. `stream.stream_request` puts it back."""
    base, mark, query = url.partition("?")
    if not mark:
        return url, token
    rest = []
    for item in query.split("&"):
        name, _, value = item.partition("=")
        if name == "token" and (not token or unquote(value) == token):
            token = unquote(value)
        else:
            rest.append(item)
    return base + ("?" + "&".join(rest) if rest else ""), token


def session_id_of(data: Mapping[str, Any]) -> str:
    """The id in an answer that is otherwise unusable, so that the session can be ended; empty if there is none."""
    value = data.get("id")
    return value if isinstance(value, str) and SESSION_ID.fullmatch(value) else ""


def parse_time(value: object) -> datetime | None:
    """ISO 8601 or unix seconds as aware UTC; None for anything else."""
    try:
        if isinstance(value, str):
            when = datetime.fromisoformat(value)
            return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def parse_retry_after(value: str | None, *, now: datetime) -> float | None:
    """`Retry-After` in seconds (RFC 9110 §10.2.3: seconds or an HTTP date); None if it is missing or nonsense."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - now).total_seconds())
    except (ValueError, OverflowError):  # the latter of a year that no clock has
        return None


def parse_error(
    status: int, body: bytes, *, request_id: str = "", retry_after: str | None = None, now: datetime
) -> ApiError:
    """The typed error of an answer with `status` >= 300. Never raises, whatever the body is."""
    detail = _error_object(body)
    code = _word(detail, "code", _WORD_LIMIT)
    message = _word(detail, "message", _MESSAGE_LIMIT)
    param = _word(detail, "param", _WORD_LIMIT) or None
    request_id = request_id or _word(detail, "request_id", _REQUEST_ID_LIMIT)
    wait = parse_retry_after(retry_after, now=now)
    if wait is None:
        told = detail.get("retry_after")
        if isinstance(told, int | float) and not isinstance(told, bool) and 0 <= told < 1e9:
            wait = float(told)
    text = f"{status} {code}".strip() + (f": {message}" if message else "")
    if param:
        text += f" ({param})"
    kind = _error_type(status, code)
    return kind(text, status=status, code=code, request_id=request_id, retry_after=wait, param=param)


def _word(detail: Mapping[str, Any], key: str, limit: int) -> str:
    """A text of an error, which is logged: no longer than `limit`; empty if it is none."""
    value = detail.get(key)
    return value[:limit] if isinstance(value, str) else ""


def _error_type(status: int, code: str) -> type[ApiError]:
    if status == 400 and code == IDEMPOTENCY_CONFLICT:
        return ApiConflict
    by_status: dict[int, type[ApiError]] = {
        400: ApiInvalid,
        401: ApiUnauthorized,
        402: ApiCreditsExhausted,
        403: ApiUnauthorized,
        404: ApiNotFound,
        408: ApiUnavailable,
        409: ApiConflict if code in ("", IDEMPOTENCY_CONFLICT) else ApiInvalid,
        410: ApiNotFound,
        422: ApiInvalid,
        429: ApiRateLimited,
    }
    if status >= 500:
        return ApiUnavailable
    return by_status.get(status, ApiError)


def _error_object(body: bytes) -> dict[str, Any]:
    if body.count(b",") > VALUES_MAX:
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _bad(field: str, expected: str, found: object) -> ApiError:
    shown = "nothing" if found is None else _kind(found)
    return ApiError(f"answer to POST /sessions: {field}: expected {expected}, found {shown}", code=INVALID_RESPONSE)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "another string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
