"""The words of a call: its states, its parties, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

CUSTOMER = "customer"
AGENT = "agent"
AUTO = "auto"
"""A language that is to be detected."""


def of_customer(speaker: str) -> bool:
    """Whether a speaker of a session is on the customer's side and speaks its source language."""
    return speaker == CUSTOMER or speaker.startswith(f"{CUSTOMER}-")


class CallState(StrEnum):
    """Where a call stands; it only ever moves down this list."""

    SETUP = "setup"
    RINGING = "ringing"
    ACTIVE = "active"
    ENDING = "ending"
    ENDED = "ended"


class EndReason(StrEnum):
    """Why a session ended, in the API's words."""

    COMPLETED = "completed"
    CUSTOMER_HANGUP = "customer_hangup"
    AGENT_HANGUP = "agent_hangup"
    ERROR = "error"
    TIMEOUT = "timeout"


class DialplanStatus(StrEnum):
    """What `KALLGLOT_STATUS` tells the dialplan at the end."""

    COMPLETED = "COMPLETED"
    NOANSWER = "NOANSWER"
    AGENTBUSY = "AGENTBUSY"
    UNAVAILABLE = "UNAVAILABLE"
    BUSY = "BUSY"
    FAILED = "FAILED"


class LegState(StrEnum):
    """Where one party stands."""

    DIALLING = "dialling"
    RINGING = "ringing"
    UP = "up"
    HELD = "held"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a Kallglot session is created with. `source_language` is party A's (the customer), `target_language` party B's."""

    mode: str = "bidirectional_translation"
    source_language: str = "auto"
    target_language: str = "en"
    metadata: dict[str, str] = field(default_factory=dict)
    from_uri: str = ""
    """SIP or tel URI of the caller, for the routing contract's `routing.sip.from_uri`."""
    direction: Literal["inbound", "outbound"] = "inbound"
    participants: int = 2
    """Expected parties; beyond 2 the provider contract's `conference` object is sent."""
    trunk: bool = False
    """The parties reach the session over SIP, not over the stream."""


@dataclass(frozen=True, slots=True)
class Session:
    """A created session. `stream_token` is a secret."""

    id: str
    mode: str
    stream_url: str
    stream_token: str = field(repr=False)
    expires_at: datetime | None
    created_at: datetime | None = None
    base_url: str = ""
    """The API address that created it: every later request goes there."""


class StreamAudio(NamedTuple):
    """A piece of audio as the stream carries it, mono.

    `payload` is mu-law bytes, A-law bytes or little-endian signed 16-bit PCM (`pcm_8`: unsigned 8-bit).
    """

    encoding: Literal["mulaw", "alaw", "pcm_16", "pcm_8"]
    sample_rate: int
    payload: bytes


class UplinkChunk(NamedTuple):
    """Audio of one speaker on its way to Kallglot."""

    audio: StreamAudio
    timestamp_ms: int
    """Start of the chunk in the leg's own time, which starts at 0 and goes on through silence."""
    received_at: float
    """Monotonic seconds at which the chunk's first RTP packet came in."""


@dataclass(frozen=True, slots=True)
class TranscriptTurn:
    """One utterance. A final replaces the partial with the same `id`."""

    id: str
    speaker: str
    language: str
    text: str
    final: bool
    translation_language: str = ""
    translation: str = ""


@dataclass(frozen=True, slots=True)
class LegQuality:
    """How well a leg's audio arrives; times in milliseconds, counts since its start."""

    packets_received: int = 0
    packets_sent: int = 0
    packets_lost: int = 0
    packets_late: int = 0
    packets_reordered: int = 0
    jitter_ms: float = 0.0
    buffer_ms: float = 0.0
    concealed_ms: float = 0.0
    drift_ppm: float = 0.0
    level_dbfs: float = -96.0
    r_factor: float = 93.2
    mos: float = 4.41
    backlog_ms: float = 0.0
    """Translated speech that waits to be played."""
    lag_ms: float = 0.0
    """How far it is behind its arrival."""


@dataclass(frozen=True, slots=True)
class SipQuality:
    """What Asterisk counts between itself and a party's phone; times in milliseconds, counts since the channel's start."""

    packets_received: int = 0
    packets_sent: int = 0
    packets_lost: int = 0
    """Of what the phone sent."""
    packets_lost_there: int = 0
    """Of what the phone was sent, as it reports by RTCP."""
    jitter_ms: float = 0.0
    jitter_there_ms: float = 0.0
    round_trip_ms: float | None = None
    """By RTCP; None where the phone sends no reports."""
    r_factor: float = 93.2
    mos: float = 4.41

    def as_json(self) -> dict[str, Any]:
        """The API's form."""
        return {
            "packets_received": self.packets_received,
            "packets_sent": self.packets_sent,
            "packets_lost": self.packets_lost,
            "packets_lost_there": self.packets_lost_there,
            "jitter_ms": round(self.jitter_ms, 3),
            "jitter_there_ms": round(self.jitter_there_ms, 3),
            "round_trip_ms": None if self.round_trip_ms is None else round(self.round_trip_ms, 1),
            "r_factor": round(self.r_factor, 1),
            "mos": round(self.mos, 2),
        }


@dataclass(slots=True)
class LegView:
    """A party as the API shows it."""

    speaker: str
    channel_id: str
    channel_name: str = ""
    state: str = "dialling"
    language: str = ""
    held: bool = False
    quality: LegQuality = field(default_factory=LegQuality)
    role: str = "party"
    """`party`, or of a supervisor `listen` or `whisper`."""
    sip: SipQuality | None = None
    """The last that was asked of it; None: nothing yet, or no RTP channel."""

    def as_json(self) -> dict[str, Any]:
        """The API's form."""
        q = self.quality
        return {
            "speaker": self.speaker,
            "channel_id": self.channel_id,
            "channel_name": self.channel_name,
            "state": self.state,
            "language": self.language,
            "held": self.held,
            "role": self.role,
            "packets_received": q.packets_received,
            "packets_sent": q.packets_sent,
            "packets_lost": q.packets_lost,
            "packets_late": q.packets_late,
            "packets_reordered": q.packets_reordered,
            "jitter_ms": round(q.jitter_ms, 3),
            "buffer_ms": round(q.buffer_ms, 1),
            "concealed_ms": round(q.concealed_ms, 1),
            "drift_ppm": round(q.drift_ppm, 1),
            "level_dbfs": round(q.level_dbfs, 1),
            "r_factor": round(q.r_factor, 1),
            "mos": round(q.mos, 2),
            "backlog_ms": round(q.backlog_ms, 1),
            "lag_ms": round(q.lag_ms, 1),
            "sip": self.sip.as_json() if self.sip else None,
        }


@dataclass(slots=True)
class CallView:
    """A call as the API and the store show it."""

    id: str
    session_id: str
    state: str
    mode: str
    source_language: str
    target_language: str
    started_at: datetime
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
    status: str | None = None
    kind: str = "media"
    """`media`, `trunk` or `pbx`: how the call came to us."""
    caller: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    dtmf: list[dict[str, str]] = field(default_factory=list)
    legs: list[LegView] = field(default_factory=list)
    degraded: str = ""
    """Empty, or why the parties are not being translated at the moment."""
    translation: str = ""
    """`starting`, `up`, `reconnecting`, `new_session`, `down`, or `direct`: connected without translation. Empty: over, or not ours."""

    def as_json(self) -> dict[str, Any]:
        """The API's form; dates are ISO 8601 in UTC. Once the call is over nobody is in it: not who was still being dialled either."""

        def iso(value: datetime | None) -> str | None:
            return value.isoformat().replace("+00:00", "Z") if value else None

        legs = [leg.as_json() for leg in self.legs]
        if self.state == CallState.ENDED:
            legs = [leg | {"state": LegState.GONE.value} for leg in legs]
        return {
            "id": self.id,
            "session_id": self.session_id,
            "state": self.state,
            "kind": self.kind,
            "mode": self.mode,
            "source_language": self.source_language,
            "target_language": self.target_language,
            "caller": self.caller,
            "started_at": iso(self.started_at),
            "answered_at": iso(self.answered_at),
            "ended_at": iso(self.ended_at),
            "end_reason": self.end_reason,
            "status": self.status,
            "degraded": self.degraded,
            "translation": self.translation,
            "metadata": self.metadata,
            "dtmf": self.dtmf,
            "legs": legs,
        }
