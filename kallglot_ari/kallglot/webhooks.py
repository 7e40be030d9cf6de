"""Signed webhooks from Kallglot: `Kallglot-Signature: t=<unix>,v1=<hex>`, HMAC-SHA256 over ``"{t}." + body``. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from kallglot_ari.kallglot.rest import parse_time

SIGNATURE_HEADER = "Kallglot-Signature"
ID_HEADER = "Kallglot-Webhook-Id"
RETRY_HEADER = "Kallglot-Retry-Count"
TIMESTAMP_HEADER = "Kallglot-Original-Timestamp"
TOLERANCE = 300
"""Seconds that a signature's time may be off, in either direction."""
_HEADER_LIMIT = 1024


class BadSignature(ValueError):
    """The signature is missing, malformed, too old or wrong. `reason` is a short word for a metric."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadEvent(ValueError):
    """The body is not an event."""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A notification. Each may come several times: `id` tells which ones are the same."""

    id: str
    type: str
    created_at: datetime | None
    data: Mapping[str, Any]
    api_version: str = ""

    @property
    def session_id(self) -> str:
        """The session it is about, or empty: `data.session_id`, or `data.id` in events about a session itself."""
        value = self.data.get("session_id")
        if value is None and self.type.startswith("session."):
            value = self.data.get("id")
        return value if isinstance(value, str) else ""


def sign(body: bytes, secret: str | bytes, *, at: int) -> str:
    """The header's value for `body`, signed at unix second `at`."""
    return f"t={at},v1={_digest(body, secret, str(at))}"


def verify(body: bytes, header: str | None, secrets: str | Sequence[str], *, now: float) -> int:
    """Check a signature; returns its time in unix seconds.

    :param secrets: the endpoint's secret, or several while it is being changed. :param now: unix seconds.
    :raises BadSignature: for anything that is not a fresh, right signature.
    """
    known = [secrets] if isinstance(secrets, str) else list(secrets)
    if not known or not all(known):
        raise BadSignature("no_secret", "no webhook secret is set: nothing can be accepted")
    if not header:
        raise BadSignature("missing", f"expected a {SIGNATURE_HEADER} header, found none")
    stamp, signatures = _parse(header)
    if abs(now - int(stamp)) > TOLERANCE:
        raise BadSignature(
            "stale", f"expected a signature of the last {TOLERANCE} s, found one {now - int(stamp):.0f} s old"
        )
    good = False
    for secret in known:
        expected = _digest(body, secret, stamp).encode()
        for signature in signatures:
            # Every pair is compared, so that the time tells nothing about which one fits.
            good |= hmac.compare_digest(expected, signature)
    if not good:
        raise BadSignature("wrong", "the signature does not fit the body and the secret")
    return int(stamp)


def parse_event(body: bytes) -> WebhookEvent:
    """The event in a body whose signature was verified. :raises BadEvent: naming the field."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadEvent(f"expected JSON, found {len(body)} bytes that are not") from None
    if not isinstance(value, dict):
        raise BadEvent(f"expected an object, found {type(value).__name__}")
    for key in ("id", "type"):
        if not isinstance(value.get(key), str) or not 0 < len(value[key]) <= 128:
            raise BadEvent(f"{key}: expected a string of 1 to 128 characters")
    data = value.get("data", {})
    if not isinstance(data, dict):
        raise BadEvent(f"data: expected an object, found {type(data).__name__}")
    try:
        orjson.dumps(data)
    except TypeError:
        raise BadEvent("data: expected what can be told again, found it nested too deep") from None
    version = value.get("api_version")
    return WebhookEvent(
        id=value["id"],
        type=value["type"],
        created_at=parse_time(value.get("created_at")),
        data=data,
        api_version=version if isinstance(version, str) else "",
    )


def receive(body: bytes, headers: Mapping[str, str], secrets: str | Sequence[str], *, now: float) -> WebhookEvent:
    """`verify`, then `parse_event`. `headers` finds names whatever their case (aiohttp's does)."""
    verify(body, headers.get(SIGNATURE_HEADER), secrets, now=now)
    return parse_event(body)


def _parse(header: str) -> tuple[str, list[bytes]]:
    if len(header) > _HEADER_LIMIT:
        raise BadSignature("malformed", f"expected a header of at most {_HEADER_LIMIT} characters, found {len(header)}")
    stamps: list[str] = []
    signatures: list[bytes] = []
    for item in header.split(","):
        name, _, value = item.strip().partition("=")
        if name == "t":
            stamps.append(value)
        elif name == "v1":
            signatures.append(value.encode("utf-8", "replace"))
    if len(stamps) != 1 or not (stamps[0].isascii() and stamps[0].isdigit() and len(stamps[0]) <= 12):
        raise BadSignature("malformed", "expected t=<unix seconds> once")
    if not signatures:
        raise BadSignature("malformed", "expected v1=<hex>, found none")
    return stamps[0], signatures


def _digest(body: bytes, secret: str | bytes, stamp: str) -> str:
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.new(key, stamp.encode() + b"." + body, "sha256").hexdigest()
