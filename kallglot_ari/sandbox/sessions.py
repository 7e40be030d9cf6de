"""What the sandbox remembers: sessions, their transcripts, and the answers to idempotency keys. Bounded, and asked with `now`. Pure."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kallglot_ari.calls.model import TranscriptTurn
from kallglot_ari.sandbox.validate import Problem, Wanted

TOKEN_LIFE = {"routing": 300.0, "provider": 3600.0}
"""Seconds in which a stream may be opened."""
IDLE = 1800.0
"""Seconds without a message on the stream or a request, after which the server ends a session."""
KEY_LIFE = 24 * 3600.0
MAX_LIVE = 20_000
MAX_ENDED = 2_000
MAX_TURNS = 5_000
MAX_KEYS = 50_000


def iso(when: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Record:
    """A session."""

    id: str
    wanted: Wanted
    token: str = field(repr=False)
    created_at: datetime
    created: float
    """Monotonic seconds, as are all further times without `_at`."""
    active: float
    started: float | None = None
    ended: float | None = None
    ended_at: datetime | None = None
    reason: str = ""
    turns: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_TURNS))
    sequence: int = 0

    @property
    def status(self) -> str:
        """``created``, ``active`` (its stream was opened) or ``ended``."""
        if self.ended is not None:
            return "ended"
        return "created" if self.started is None else "active"

    @property
    def token_life(self) -> float:
        return TOKEN_LIFE[self.wanted.contract]

    def check_token(self, token: str, now: float) -> None:
        """:raises Problem: 401, when `token` may not open the stream at `now`."""
        if not hmac.compare_digest(token.encode(errors="replace"), self.token.encode()):
            raise Problem(
                401, "invalid_stream_token", "the stream token is not this session's", kind="authentication_error"
            )
        if now - self.created > self.token_life:
            raise Problem(
                401,
                "stream_token_expired",
                f"the stream token was good for {self.token_life:.0f} s",
                kind="authentication_error",
            )

    def add_turn(self, turn: TranscriptTurn, at: datetime) -> dict[str, Any]:
        """Keep a final turn; the oldest goes beyond `MAX_TURNS`."""
        self.sequence += 1
        entry = {
            "sequence": self.sequence,
            "speaker": turn.speaker,
            "language": turn.language,
            "text": turn.text,
            "translation": {"language": turn.translation_language, "text": turn.translation},
            "timestamp": iso(at),
        }
        self.turns.append(entry)
        return entry

    def duration(self, now: float) -> int:
        """Billed seconds: from creation to the end."""
        return max(0, round((now if self.ended is None else self.ended) - self.created))

    def as_json(self, now: float) -> dict[str, Any]:
        """The session without its stream's token, as ``GET`` and ``end`` show it."""
        provider: str | dict[str, str] | None = self.wanted.provider or None
        if self.wanted.contract == "provider" and self.wanted.provider:
            provider = {"type": self.wanted.provider, "status": "pending" if self.started is None else "connected"}
        shown: dict[str, Any] = {
            "id": self.id,
            "object": "session",
            "status": self.status,
            "mode": self.wanted.mode,
            "source_language": self.wanted.source_language,
            "target_language": self.wanted.target_language,
            "provider": provider,
            "recording": {"enabled": self.wanted.recording, "channels": "dual"},
            "metadata": self.wanted.metadata,
            "created_at": iso(self.created_at),
        }
        if self.ended_at is not None:
            key = "duration_seconds" if self.wanted.contract == "routing" else "duration"
            shown |= {"ended_at": iso(self.ended_at), "end_reason": self.reason, key: self.duration(now)}
        return shown

    def stream_json(self, stream_base: str) -> dict[str, Any]:
        """The `stream` object; `stream_base` is ``ws://host:port/v1``."""
        url = f"{stream_base}/sessions/{self.id}/connect"
        if self.wanted.contract == "routing":
            url += f"?token={self.token}"
        expires = self.created_at + timedelta(seconds=self.token_life)
        return {"url": url, "token": self.token, "expires_at": iso(expires)}


class Sessions:
    """All live sessions and the last ended ones."""

    def __init__(self) -> None:
        self._live: dict[str, Record] = {}
        self._ended: OrderedDict[str, Record] = OrderedDict()
        self.created = 0
        """How many there ever were."""
        self.ended = 0

    def create(self, wanted: Wanted, *, now: float, wall: datetime) -> Record:
        """:raises Problem: 503 when there are `MAX_LIVE` already."""
        if len(self._live) >= MAX_LIVE:
            raise Problem(503, "capacity", f"expected at most {MAX_LIVE} live sessions", kind="api_error")
        record = Record(
            id=f"sess_{secrets.token_hex(12)}",
            wanted=wanted,
            token=f"kst_{secrets.token_urlsafe(24)}",
            created_at=wall,
            created=now,
            active=now,
        )
        self._live[record.id] = record
        self.created += 1
        return record

    def get(self, session_id: str) -> Record:
        """:raises Problem: 404."""
        record = self._live.get(session_id) or self._ended.get(session_id)
        if record is None:
            raise Problem(404, "session_not_found", "there is no such session", kind="not_found_error")
        return record

    def end(self, record: Record, reason: str, *, now: float, wall: datetime) -> bool:
        """True when this ended it; False when it was over already."""
        if record.ended is not None:
            return False
        record.ended, record.ended_at, record.reason = now, wall, reason
        self._live.pop(record.id, None)
        self._ended[record.id] = record
        self.ended += 1
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        return True

    def live(self) -> list[Record]:
        return list(self._live.values())

    def idle(self, now: float) -> list[Record]:
        """Those in which nothing happened for `IDLE` seconds."""
        return [record for record in self._live.values() if now - record.active > IDLE]


@dataclass(slots=True)
class _Kept:
    digest: bytes
    at: float
    answer: tuple[int, dict[str, Any]] | None = None


class IdempotencyKeys:
    """Answers by (path, key), for about 24 hours."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    def begin(self, path: str, key: str, body: bytes, now: float) -> tuple[int, dict[str, Any]] | None:
        """The kept answer, or None: then the request is to be carried out, and `done` or `failed` called.

        :raises Problem: 400 `idempotency_mismatch`, 409 `idempotency_conflict`.
        """
        self._expire(now)
        digest = hashlib.sha256(body).digest()
        kept = self._kept.get((path, key))
        if kept is None:
            self._kept[path, key] = _Kept(digest, now)
            return None
        if kept.digest != digest:
            raise Problem(
                400, "idempotency_mismatch", "this Idempotency-Key was used with another body", kind="idempotency_error"
            )
        if kept.answer is None:
            raise Problem(
                409,
                "idempotency_conflict",
                "the first request with this Idempotency-Key is still running",
                kind="idempotency_error",
                retry_after=1,
            )
        return kept.answer

    def done(self, path: str, key: str, status: int, answer: dict[str, Any]) -> None:
        if (kept := self._kept.get((path, key))) is not None:
            kept.answer = (status, answer)

    def failed(self, path: str, key: str) -> None:
        """The request was not carried out: the key may be used again."""
        self._kept.pop((path, key), None)

    def _expire(self, now: float) -> None:
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if len(self._kept) < MAX_KEYS and now - oldest.at <= KEY_LIFE:
                return
            self._kept.popitem(last=False)
