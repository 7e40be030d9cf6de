"""What the calls core needs of the world, and what it offers: each a Protocol, implemented in the layers above."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from kallglot_ari.calls.model import (
    CallView,
    LegQuality,
    Session,
    SessionRequest,
    StreamAudio,
    TranscriptTurn,
    UplinkChunk,
)
from kallglot_ari.calls.orders import Invitation, Outbound, Supervision, Supervisor, Transfer

# --- media -----------------------------------------------------------------------------------------------------------

UplinkSink = Callable[[UplinkChunk], None]
"""Called on the event loop; must not block."""


@dataclass(frozen=True, slots=True)
class FlowFormat:
    """How a leg's audio goes between Asterisk and us."""

    asterisk: str
    """`format` of `POST /channels/externalMedia`: ulaw, alaw, g722, slin16, opus."""
    receive: str
    """Codec of what Asterisk sends (name in `audio.codecs.registry`)."""
    send: str
    """Codec of what we send: the same, or g722 where Asterisk drops the payload type on its way in."""


@dataclass(frozen=True, slots=True)
class ExternalMedia:
    """How Asterisk is asked for a leg's channel: parameters of `POST /channels/externalMedia`."""

    external_host: str
    transport: Literal["udp", "websocket"]
    encapsulation: Literal["rtp", "none"]
    connection_type: Literal["client", "server"]


class CaptureFile(Protocol):
    """A pcap file that several flows write to."""

    @property
    def path(self) -> Path: ...

    @property
    def over(self) -> bool:
        """Nothing more is written: it was closed, or given up because the disk took no more."""
        ...

    def close(self) -> None:
        """End it, behind what is still to be written."""
        ...


class Flow(Protocol):
    """The audio of one leg: RTP from and to its external-media channel. All methods are called on the event loop."""

    @property
    def id(self) -> str: ...

    def connect(self, address: tuple[str, int]) -> None:
        """Asterisk's `UNICASTRTP_LOCAL_*`: where to send, and the only source to accept from. Sending starts at once."""
        ...

    async def attach(self, channelvars: Mapping[str, object]) -> None:
        """Take up the channel made for this flow, by what Asterisk says of it. Sending starts at once.

        :raises MediaError: when that is not enough, or its connection does not come about.
        """
        ...

    def play(self, source: str, audio: StreamAudio, *, received_at: float | None = None) -> None:
        """Queue speech of `source` for this leg to hear; several sources are mixed. `received_at`: when it came in, monotonic."""
        ...

    def flush(self, source: str | None = None) -> None:
        """Drop what is queued (of one source), with a short ramp so that it does not click."""
        ...

    def pause(self) -> None:
        """Stop the uplink: hold."""
        ...

    def resume(self) -> None:
        """Start the uplink again, without what was said meanwhile."""
        ...

    def pressed(self, seconds: float) -> None:
        """The party's phone sent a digit of that length in the place of sound: what is missing of it was not lost."""
        ...

    def interruptible(self, then: Callable[[], None] | None) -> None:
        """Drop what waits to be played as soon as the party begins to speak, and call `then`; None: no longer."""
        ...

    def hear(self, other: str, gain_db: float | None, duck_db: float = 0.0) -> None:
        """Let this leg hear flow `other`'s own voice at `gain_db`, lower by `duck_db` while speech is played to it; None = not at all."""
        ...

    def capture(self, file: CaptureFile | None) -> None:
        """Write the leg's packets, both ways, to `file` as well; None: no longer."""
        ...

    def record(self, path: Path, form: Literal["wav", "opus"]) -> None:
        """Write what the leg says and hears to a file of two channels, until it closes."""
        ...

    def quality(self) -> LegQuality: ...

    def close(self) -> LegQuality:
        """Stop; the remote address is drained before it may be used again. Closing twice is harmless."""
        ...


class Media(Protocol):
    """The media engine: one UDP socket, one 10 ms tick for every leg."""

    @property
    def late(self) -> float:
        """Seconds by which a tenth of the ticks of the last moments was late, or more."""
        ...

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for `external_host`; known after the start."""
        ...

    @property
    def external(self) -> ExternalMedia:
        """What Asterisk is told; known after the start."""
        ...

    @property
    def format(self) -> FlowFormat:
        """How every leg's audio goes, decided at the start from the settings and the stream's encoding."""
        ...

    def open(self, flow_id: str, sink: UplinkSink) -> Flow:
        """A new flow; chunks of `chunk_ms` in the stream's encoding go to `sink`."""
        ...

    def capture_file(self, path: Path) -> CaptureFile:
        """A new capture at `path`, or beside it where there is one; made when the first packet is written."""
        ...


# --- Kallglot --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamReady:
    """The server is ready for audio."""


class StreamSpeech(NamedTuple):
    """Translated speech. It is played to every party but `speaker`, whose speech was translated."""

    speaker: str
    audio: StreamAudio
    received_at: float
    """Monotonic seconds at which the message came in."""


@dataclass(frozen=True, slots=True)
class StreamTranscript:
    """A partial or final transcript."""

    turn: TranscriptTurn


@dataclass(frozen=True, slots=True)
class StreamProblem:
    """`session.error`: the stream goes on."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The stream is over. `ended`: the session itself ended; otherwise the connection was lost."""

    ended: bool
    reason: str


StreamEvent = StreamReady | StreamSpeech | StreamTranscript | StreamProblem | StreamEnd
StreamSink = Callable[[StreamEvent], None]
"""Called on the event loop, in order; must not block. `StreamEnd` is the last."""


class Stream(Protocol):
    """The WebSocket of a session."""

    @property
    def end(self) -> StreamEnd | None:
        """How it ended; None while it is up."""
        ...

    def send(self, speaker: str, chunk: UplinkChunk) -> None:
        """Queue a chunk; when the queue is full the oldest goes, counted. Never blocks, never raises."""
        ...

    def replay(self, said: Sequence[tuple[str, UplinkChunk]]) -> None:
        """Queue what was said (speaker, chunk) before this stream was open, however much it is. Never blocks, never raises."""
        ...

    async def close(self, *, end: bool = False) -> None:
        """Close; with `end` the session is told to end on the stream first. Harmless when closed already."""
        ...


class Translator(Protocol):
    """Kallglot's API."""

    async def create_session(self, request: SessionRequest, *, idempotency_key: str) -> Session:
        """:raises ApiError: after what is retryable was retried within the total deadline."""
        ...

    async def end_session(
        self, session_id: str, reason: str, *, base_url: str = "", idempotency_key: str = ""
    ) -> dict[str, Any]:
        """Idempotent; a session that is ended already, or unknown, is success."""
        ...

    async def open_stream(self, session: Session, sink: StreamSink) -> Stream:
        """Connect and wait for `session.ready`.

        :raises StreamRefused: the server does not want it. :raises StreamClosed: it could not be reached.
        """
        ...

    async def transcript(self, session_id: str, *, base_url: str = "") -> dict[str, Any]: ...

    async def probe(self) -> None:
        """:raises ApiError: when the API cannot be reached or does not take the key."""
        ...


# --- store -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PendingSession:
    """A row of the outbox: a session that was, or may have been, created and is not known to be ended.

    It is written before the request that creates the session; `session_id` is empty until the answer came.
    """

    key: str
    """The Idempotency-Key of the creation."""
    call_id: str
    session_id: str = ""
    base_url: str = ""
    request: dict[str, Any] | None = None
    """The creation's parameters, so that an unanswered creation can be asked again with the same key."""
    reason: str = ""
    """The end reason, once it shall end; empty while the call is up."""
    created_at: float = 0.0
    """Unix seconds."""
    attempts: int = 0


class CallStore(Protocol):
    """Calls, mappings, and the outbox. Every method is durable when it returns. :raises StoreError:"""

    async def save_call(self, call: CallView) -> None:
        """Insert or replace."""
        ...

    async def get_call(self, call_id: str) -> CallView | None: ...

    async def list_calls(self, *, limit: int = 100, active: bool | None = None) -> list[CallView]:
        """The newest first."""
        ...

    async def add_turn(self, call_id: str, turn: TranscriptTurn, at: float) -> None:
        """Keep a final transcript turn."""
        ...

    async def turns(self, call_id: str) -> list[dict[str, Any]]: ...

    async def session_intended(self, pending: PendingSession) -> None: ...

    async def session_created(self, key: str, session_id: str, base_url: str) -> None: ...

    async def session_to_end(self, key: str, reason: str) -> None: ...

    async def session_ended(self, key: str) -> None:
        """Take the row away; unknown keys are harmless."""
        ...

    async def session_attempted(self, key: str) -> None: ...

    async def pending_sessions(self) -> list[PendingSession]: ...

    async def put_mapping(self, kind: str, key: str, value: dict[str, Any], *, expires_at: float | None = None) -> bool:
        """Insert unless there; False when it was there already."""
        ...

    async def update_mapping(self, kind: str, key: str, value: dict[str, Any]) -> None: ...

    async def get_mapping(self, kind: str, key: str) -> dict[str, Any] | None: ...

    async def write_mappings(
        self, kind: str, changes: Mapping[str, dict[str, Any] | None], *, expires_at: float | None = None
    ) -> None:
        """Insert, replace or (None) delete many, all or none of them."""
        ...

    async def delete_mapping(self, kind: str, key: str) -> bool: ...

    async def mappings(self, kind: str) -> dict[str, dict[str, Any]]: ...

    async def expired_mappings(self, kind: str, now: float) -> dict[str, dict[str, Any]]: ...

    async def seen_once(self, event_id: str, now: float) -> bool:
        """True the first time an event's id is shown; remembered for 3 days."""
        ...

    async def check(self) -> None:
        """:raises StoreError: when it cannot be written."""
        ...


# --- what the service offers to web, dashboard and command line -------------------------------------------------------


class Hub(Protocol):
    """Everything that happens, for whoever listens. Slow readers lose the oldest events, counted."""

    def publish(self, event: str, call_id: str, data: dict[str, Any]) -> None: ...

    def subscribe(self, *, call_id: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """`{id, type, call_id, at, data}` each."""
        ...


class CallControl(Protocol):
    """The running calls. :raises UsageError: for an argument that cannot be used; :raises LookupError: for an unknown call."""

    def calls(self) -> list[CallView]: ...

    def call(self, call_id: str) -> CallView | None: ...

    async def originate(self, order: Outbound) -> CallView: ...

    async def hangup(self, call_id: str) -> None: ...

    async def transfer(self, call_id: str, order: Transfer) -> None: ...

    async def drop(self, call_id: str, *, party: str) -> None:
        """Let one party go; the call goes on if two or more remain."""
        ...

    async def supervise(self, call_id: str, order: Supervisor) -> CallView: ...

    async def change_supervision(self, call_id: str, speaker: str, order: Supervision) -> None: ...

    async def dtmf(self, call_id: str, *, party: str, digits: str) -> None: ...

    async def original(self, call_id: str, *, party: str, gain_db: float | None) -> None:
        """How loud one party hears the others' own voices under the translation; None: not at all."""
        ...

    async def capture(self, call_id: str, *, on: bool) -> Path:
        """Write the call's RTP to a file from now on, or no longer; the file. :raises UsageError: none runs, or none can.
        :raises ConfigError: none can be written."""
        ...

    async def captured(self, call_id: str) -> Path | None:
        """The call's last capture, if there is one; also of a call that has ended. :raises ConfigError: the disk does not answer."""
        ...

    async def add_leg(self, call_id: str, order: Invitation) -> CallView: ...
