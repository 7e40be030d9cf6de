"""Between the words of a call and the rows of a table: pure functions."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from sqlalchemy.engine import RowMapping

from kallglot_ari.calls.interfaces import PendingSession
from kallglot_ari.calls.model import CallView, LegQuality, LegView, SipQuality, TranscriptTurn

T = TypeVar("T", LegQuality, SipQuality, LegView, CallView)

_DATES = ("started_at", "answered_at", "ended_at")


def clean(value: str) -> str:
    """`value` as both databases can keep it: NUL and lone surrogates become U+FFFD."""
    return value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def dump(value: Any) -> str:
    """`value` (JSON's types, dataclasses, dates) as JSON text; a number JSON does not have becomes null."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, or a number beyond 64 bits
        return orjson.dumps(_plain(value)).decode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def load(text: str) -> Any:
    return orjson.loads(text)


def call_row(call: CallView) -> dict[str, Any]:
    return {
        "id": clean(call.id),
        "session_id": clean(call.session_id),
        "state": str(call.state),
        "started_at": call.started_at.timestamp(),
        "view": dump(call),
    }


def call_of(view: str) -> CallView:
    """The call of a row's `view`; a field that an older release did not write has its default."""
    data = load(view)
    for name in _DATES:
        if data.get(name):
            data[name] = datetime.fromisoformat(data[name]).astimezone(UTC)
    legs = []
    for leg in data.get("legs") or ():
        leg["quality"] = _build(LegQuality, leg.get("quality") or {})
        leg["sip"] = _build(SipQuality, leg["sip"]) if leg.get("sip") else None
        legs.append(_build(LegView, leg))
    data["legs"] = legs
    return _build(CallView, data)


def _build(cls: type[T], data: Mapping[str, Any]) -> T:
    known: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value = data.get(field.name)
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if value is not None or required:
            known[field.name] = value
    return cls(**known)


def turn_row(call_id: str, turn: TranscriptTurn, at: float) -> dict[str, Any]:
    """A turn with the same id and words as an earlier one replaces it (its translation came later); without an id, never.

    The words count because a replaced session may number its turns from the beginning again.
    """
    mark = (
        hashlib.sha256("\x1f".join((turn.id, turn.speaker, turn.text)).encode("utf-8", "replace")).hexdigest()
        if turn.id
        else uuid.uuid4().hex
    )
    return {"call_id": clean(call_id), "fingerprint": mark, "at": at, "turn": dump(turn)}


def turn_json(sequence: int, at: float, text: str) -> dict[str, Any]:
    """``{sequence, id, speaker, language, text, translation {language, text} or None, timestamp}``; `sequence` from 1."""
    turn = load(text)
    translated = turn.get("translation") or ""
    return {
        "sequence": sequence,
        "id": turn["id"],
        "speaker": turn["speaker"],
        "language": turn["language"],
        "text": turn["text"],
        "translation": {"language": turn.get("translation_language") or "", "text": translated} if translated else None,
        "timestamp": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def pending_row(pending: PendingSession) -> dict[str, Any]:
    return {
        "key": clean(pending.key),
        "call_id": clean(pending.call_id),
        "session_id": clean(pending.session_id),
        "base_url": clean(pending.base_url),
        "request": None if pending.request is None else dump(pending.request),
        "reason": clean(pending.reason),
        "created_at": pending.created_at,
        "attempts": pending.attempts,
    }


def pending_of(row: RowMapping) -> PendingSession:
    return PendingSession(
        key=row["key"],
        call_id=row["call_id"],
        session_id=row["session_id"],
        base_url=row["base_url"],
        request=None if row["request"] is None else load(row["request"]),
        reason=row["reason"],
        created_at=row["created_at"],
        attempts=row["attempts"],
    )
