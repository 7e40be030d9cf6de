"""The server's side of the stream's messages, both contracts. Pure."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from kallglot_ari.calls.model import StreamAudio, TranscriptTurn
from kallglot_ari.kallglot import assumed
from kallglot_ari.kallglot.interleave import split

_WIDTH = {"mulaw": 1, "alaw": 1, "pcm_16": 2, "pcm_8": 1}
_RATES = (8000, 16000, 24000, 48000)
Encoding = Literal["mulaw", "alaw", "pcm_16", "pcm_8"]
_ACTIONS = ("mute", "unmute", "pause_transcription", "resume_transcription")
_SPEAKERS = 64


@dataclass(frozen=True, slots=True)
class Heard:
    """Audio of one speaker."""

    speaker: str
    audio: StreamAudio
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Ping:
    """The client asks whether we are there."""


@dataclass(frozen=True, slots=True)
class End:
    """The client ends the session on the stream."""


@dataclass(frozen=True, slots=True)
class Control:
    """Older contract: mute and pause."""

    action: str


class Invalid(Exception):
    """A message that cannot be used: becomes an error message with `code`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


ClientMessage = Heard | Ping | End | Control


class Codec(Protocol):
    """Reads what a client sends and writes what the server says. One for each stream."""

    def parse(self, message: str | bytes) -> list[ClientMessage]:
        """:raises Invalid: for a message that cannot be used; the stream goes on."""
        ...

    def ready(self) -> list[str]: ...

    def pong(self) -> list[str]: ...

    def transcript(self, turn: TranscriptTurn) -> list[str]: ...

    def speech(self, speaker: str, audio: StreamAudio) -> list[str]: ...

    def problem(self, code: str, message: str) -> list[str]: ...

    def ended(self, reason: str) -> list[str]: ...


class RoutingCodec:
    """Current contract."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._sequence = 0

    def parse(self, message: str | bytes) -> list[ClientMessage]:
        data = _load(message)
        kind = data.get("type")
        if kind == "ping":
            return [Ping()]
        if kind == "session.end":
            return [End()]
        if kind != "audio.input":
            raise Invalid(
                "unknown_message_type", f"expected audio.input, ping or session.end, found {str(kind)[:64]!r}"
            )
        audio = data.get("audio")
        if not isinstance(audio, dict):
            raise Invalid("invalid_message", "audio: expected an object")
        speaker = _speaker(data, required=True)
        for key in ("sequence", "timestamp_ms"):
            if isinstance(data.get(key), bool) or not isinstance(data.get(key), int) or data[key] < 0:
                raise Invalid("invalid_message", f"{key}: expected a whole number >= 0")
        if audio.get("encoding") != "mulaw" or audio.get("sample_rate_hz") != 8000 or audio.get("channels", 1) != 1:
            raise Invalid("invalid_audio_format", "expected mu-law, 8000 Hz, mono")
        payload = _payload(audio.get("payload"), 1)
        return [Heard(speaker, StreamAudio("mulaw", 8000, payload), data["timestamp_ms"])]

    def ready(self) -> list[str]:
        return [_dump({"type": "session.ready", "session_id": self._session_id})]

    def pong(self) -> list[str]:
        return [_dump({"type": "pong", "session_id": self._session_id})]

    def transcript(self, turn: TranscriptTurn) -> list[str]:
        kind = "transcript.final" if turn.final else "transcript.partial"
        message: dict[str, Any] = {"type": kind, "speaker": turn.speaker, "language": turn.language, "text": turn.text}
        if turn.final and turn.translation:
            message["translation"] = {"language": turn.translation_language, "text": turn.translation}
        return [_dump(message)]

    def speech(self, speaker: str, audio: StreamAudio) -> list[str]:
        sequence, self._sequence = self._sequence, self._sequence + 1
        body = {
            "encoding": audio.encoding,
            "sample_rate_hz": audio.sample_rate,
            "payload": binascii.b2a_base64(audio.payload, newline=False).decode(),
        }
        return [_dump({"type": assumed.ROUTING_SPEECH, "speaker": speaker, "sequence": sequence, "audio": body})]

    def problem(self, code: str, message: str) -> list[str]:
        return [_dump({"type": "session.error", "code": code, "message": message})]

    def ended(self, reason: str) -> list[str]:
        return [_dump({"type": "session.ended", "session_id": self._session_id, "reason": reason})]


class ProviderCodec:
    """Older contract. Its audio has no time stamp: each speaker's time is what was received of it."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._received: dict[str, float] = {}

    def parse(self, message: str | bytes) -> list[ClientMessage]:
        data = _load(message)
        kind = data.get("type")
        if kind == "end":
            return [End()]
        if kind == "control":
            if data.get("action") not in _ACTIONS:
                raise Invalid("invalid_message", f"action: expected one of {', '.join(_ACTIONS)}")
            return [Control(data["action"])]
        if kind != "audio":
            raise Invalid("unknown_message_type", f"expected audio, control or end, found {str(kind)[:64]!r}")
        encoding, rate, channels = data.get("encoding"), data.get("sample_rate"), data.get("channels")
        kind_ = _encoding(encoding)
        if kind_ is None or rate not in _RATES or channels not in (1, 2) or isinstance(channels, bool):
            raise Invalid("invalid_audio_format", f"expected {', '.join(_WIDTH)} at {_RATES} Hz with 1 or 2 channels")
        payload = _payload(data.get("data"), _WIDTH[kind_] * channels)
        audio = StreamAudio(kind_, int(rate), payload)
        if channels == 2:
            sides = zip((assumed.PROVIDER_LEFT, assumed.PROVIDER_RIGHT), split(audio), strict=True)
            return [self._heard(speaker, side) for speaker, side in sides]
        return [self._heard(_speaker(data, required=False), audio)]

    def _heard(self, speaker: str, audio: StreamAudio) -> Heard:
        if speaker not in self._received and len(self._received) >= _SPEAKERS:
            raise Invalid("invalid_message", f"speaker: expected at most {_SPEAKERS} speakers")
        at = self._received.get(speaker, 0.0)
        self._received[speaker] = at + len(audio.payload) / _WIDTH[audio.encoding] / audio.sample_rate * 1000
        return Heard(speaker, audio, round(at))

    def ready(self) -> list[str]:
        return []

    def pong(self) -> list[str]:
        return []

    def transcript(self, turn: TranscriptTurn) -> list[str]:
        segment = f"seg_{turn.id}"
        said = {
            "type": "transcript",
            "id": segment,
            "speaker": turn.speaker,
            "language": turn.language,
            "text": turn.text,
            "is_final": turn.final,
            "start_time": round(self._received.get(turn.speaker, 0.0) / 1000, 3),
            "confidence": 1.0,
        }
        if not turn.final or not turn.translation:
            return [_dump(said)]
        translation = {"type": assumed.PROVIDER_TRANSLATION, "id": segment}
        return [_dump(said), _dump(translation | {"language": turn.translation_language, "text": turn.translation})]

    def speech(self, speaker: str, audio: StreamAudio) -> list[str]:
        message = {
            "type": assumed.PROVIDER_SPEECH,
            "speaker": speaker,
            "data": binascii.b2a_base64(audio.payload, newline=False).decode(),
            "encoding": audio.encoding,
            "sample_rate": audio.sample_rate,
            "channels": 1,
        }
        return [_dump(message)]

    def problem(self, code: str, message: str) -> list[str]:
        return [_dump({"type": assumed.PROVIDER_ERROR, "code": code, "message": message})]

    def ended(self, reason: str) -> list[str]:
        return [_dump({"type": assumed.PROVIDER_ENDED, "session_id": self._session_id, "reason": reason})]


def codec(contract: str, session_id: str) -> Codec:
    """The codec of a new stream."""
    return RoutingCodec(session_id) if contract == "routing" else ProviderCodec(session_id)


def _load(message: str | bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(message)
    except orjson.JSONDecodeError:
        raise Invalid("invalid_message", "expected JSON") from None
    if not isinstance(data, dict):
        raise Invalid("invalid_message", "expected an object")
    return data


def _encoding(value: object) -> Encoding | None:
    """`value` if it is one; it may be any JSON."""
    match value:
        case "mulaw" | "alaw" | "pcm_16" | "pcm_8":
            return value
        case _:
            return None


def _speaker(data: Mapping[str, Any], *, required: bool) -> str:
    value = data.get("speaker", None if required else "customer")
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise Invalid("invalid_message", "speaker: expected a string of 1 to 64 characters")
    return value


def _payload(value: object, frame: int) -> bytes:
    if not isinstance(value, str):
        raise Invalid("invalid_message", "expected audio in base64")
    try:
        raw = binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        raise Invalid("invalid_message", "expected audio in base64") from None
    if not raw or len(raw) % frame:
        raise Invalid("invalid_audio_format", f"expected whole frames of {frame} bytes, found {len(raw)} bytes")
    return raw


def _dump(message: dict[str, Any]) -> str:
    return orjson.dumps(message).decode()
