"""The stream's messages, both contracts. Pure: chunks in, text out; text in, events out.

An encoder and a decoder belong to one stream each and are thrown away with it. Nothing that comes from the server makes a decoder
raise: what it cannot use is returned as `Unused`, to be counted.
"""

from __future__ import annotations

import binascii
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import orjson

from kallglot_ari.calls.interfaces import (
    StreamEnd,
    StreamEvent,
    StreamProblem,
    StreamReady,
    StreamSpeech,
    StreamTranscript,
)
from kallglot_ari.calls.model import StreamAudio, TranscriptTurn, UplinkChunk
from kallglot_ari.kallglot import assumed
from kallglot_ari.kallglot.interleave import Interleaver, silent, split
from kallglot_ari.settings import KallglotSettings

Encoding = Literal["mulaw", "alaw", "pcm_16", "pcm_8"]
_WIDTH: dict[str, int] = {"mulaw": 1, "alaw": 1, "pcm_16": 2, "pcm_8": 1}
_RATES = frozenset({8000, 16000, 24000, 48000})
_TEXT_LIMIT = 20_000
_SEGMENTS = 64
"""Segments whose translation may still come."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to our ping."""


@dataclass(frozen=True, slots=True)
class Unused:
    """A message that was not used: `reason` is ``malformed``, ``unknown`` or ``orphan``; `detail` says what was found."""

    reason: Literal["malformed", "unknown", "orphan"]
    detail: str


Decoded = StreamEvent | Pong | Unused


class Encoder(Protocol):
    """Client → server."""

    def audio(self, speaker: str, chunk: UplinkChunk) -> list[str]:
        """The messages that carry `chunk`; none when it has to wait for the other channel, or has no place in the contract."""
        ...

    def ping(self) -> str | None:
        """The contract's ping message, or None: then the WebSocket's own ping has to do."""
        ...

    def end(self) -> str:
        """The message that ends the session on the stream."""
        ...


class Decoder(Protocol):
    """Server → client."""

    def decode(self, message: str | bytes, *, received_at: float) -> list[Decoded]:
        """What `message` says, in order. Never raises."""
        ...


def encoder(settings: KallglotSettings) -> Encoder:
    """The encoder of a new stream."""
    if settings.contract == "routing":
        return RoutingEncoder()
    if settings.provider_speakers == "channels":
        return ChannelsEncoder(settings.chunk_ms)
    return ProviderEncoder()


def decoder(settings: KallglotSettings, *, stream_id: str) -> Decoder:
    """The decoder of a new stream. `stream_id` tells this stream's turns from those of an earlier one of the same session."""
    return RoutingDecoder(stream_id) if settings.contract == "routing" else ProviderDecoder()


class Timeline:
    """Puts the legs' own times, which start at each leg's first packet, on the stream's one time line."""

    def __init__(self) -> None:
        self._epoch: float | None = None
        self._shifts: dict[str, int] = {}

    def at(self, speaker: str, chunk: UplinkChunk) -> int:
        """Milliseconds from the stream's first chunk to `chunk`."""
        if self._epoch is None:
            self._epoch = chunk.received_at
        if speaker not in self._shifts:
            self._shifts[speaker] = round((chunk.received_at - self._epoch) * 1000) - chunk.timestamp_ms
        return max(0, chunk.timestamp_ms + self._shifts[speaker])


class RoutingEncoder:
    """Client → server, current contract."""

    def __init__(self) -> None:
        self._sequence = 0
        self._timeline = Timeline()

    def audio(self, speaker: str, chunk: UplinkChunk) -> list[str]:
        sequence, self._sequence = self._sequence, self._sequence + 1
        return [
            _json(
                {
                    "type": "audio.input",
                    "sequence": sequence,
                    "timestamp_ms": self._timeline.at(speaker, chunk),
                    "speaker": speaker,
                    "audio": {
                        "encoding": chunk.audio.encoding,
                        "sample_rate_hz": chunk.audio.sample_rate,
                        "payload": _base64(chunk.audio.payload),
                    },
                }
            )
        ]

    def ping(self) -> str | None:
        return '{"type":"ping"}'

    def end(self) -> str:
        return '{"type":"session.end"}'


class ProviderEncoder:
    """Client → server, older contract, one message per speaker and chunk."""

    def audio(self, speaker: str, chunk: UplinkChunk) -> list[str]:
        return [_json(_provider_audio(chunk.audio, 1) | {assumed.PROVIDER_SPEAKER_FIELD: speaker})]

    def ping(self) -> str | None:
        return None

    def end(self) -> str:
        return '{"type":"end"}'


class ChannelsEncoder(ProviderEncoder):
    """Client → server, older contract, customer left and agent right. A third party has no channel: it is left out."""

    def __init__(self, chunk_ms: int) -> None:
        self._interleaver = Interleaver(assumed.PROVIDER_LEFT, assumed.PROVIDER_RIGHT, chunk_ms=chunk_ms)

    def audio(self, speaker: str, chunk: UplinkChunk) -> list[str]:
        if speaker not in (assumed.PROVIDER_LEFT, assumed.PROVIDER_RIGHT):
            return []
        pieces = self._interleaver.push(speaker, chunk.audio, chunk.timestamp_ms)
        return [_json(_provider_audio(audio, 2)) for _, audio in pieces]


def _provider_audio(audio: StreamAudio, channels: int) -> dict[str, Any]:
    return {
        "type": "audio",
        "data": _base64(audio.payload),
        "encoding": audio.encoding,
        "sample_rate": audio.sample_rate,
        "channels": channels,
    }


def _json(message: dict[str, Any]) -> str:
    return orjson.dumps(message).decode()


def _base64(payload: bytes) -> str:
    return binascii.b2a_base64(payload, newline=False).decode("ascii")


class _Bad(Exception):
    """A field is not what the contract says."""


class _TableDecoder:
    """Looks the message's type up in a table; the handlers raise `_Bad` for what they cannot read."""

    def __init__(self) -> None:
        self._table: dict[str, Callable[[dict[str, Any], float], list[Decoded]]] = {}

    def decode(self, message: str | bytes, *, received_at: float) -> list[Decoded]:
        try:
            data = orjson.loads(message)
        except orjson.JSONDecodeError as error:
            return [Unused("malformed", f"expected JSON, found {len(message)} bytes that are not: {error.msg[:80]}")]
        if not isinstance(data, dict):
            return [Unused("malformed", f"expected an object, found {type(data).__name__}")]
        kind = data.get("type")
        if not isinstance(kind, str):
            return [Unused("malformed", f"type: expected a string, found {type(kind).__name__}")]
        handler = self._table.get(kind)
        if handler is None:
            return [Unused("unknown", kind[:64])]
        try:
            return handler(data, received_at)
        except _Bad as error:
            return [Unused("malformed", f"{kind}: {error}")]


class RoutingDecoder(_TableDecoder):
    """Server → client, current contract.

    Its transcripts have no id, so that one is made: the partials of a speaker and the final that follows them share it.
    """

    def __init__(self, stream_id: str) -> None:
        super().__init__()
        self._stream_id = stream_id
        self._finals: dict[str, int] = {}
        self._table = {
            "session.ready": lambda data, at: [StreamReady()],
            "pong": lambda data, at: [Pong()],
            "transcript.partial": lambda data, at: [self._transcript(data, final=False)],
            "transcript.final": lambda data, at: [self._transcript(data, final=True)],
            "session.error": lambda data, at: [_problem(data)],
            "session.ended": lambda data, at: [StreamEnd(True, _text(data, "reason", "") or "ended")],
            assumed.ROUTING_SPEECH: self._speech,
        }

    def _transcript(self, data: dict[str, Any], *, final: bool) -> StreamTranscript:
        speaker = _text(data, "speaker", limit=64)
        number = self._finals.get(speaker, 0)
        if final and (speaker in self._finals or len(self._finals) < _SEGMENTS):
            self._finals[speaker] = number + 1
        translation = data.get("translation")
        if translation is not None and not isinstance(translation, dict):
            raise _Bad(f"translation: expected an object, found {type(translation).__name__}")
        return StreamTranscript(
            TranscriptTurn(
                id=f"{self._stream_id}-{speaker}-{number}",
                speaker=speaker,
                language=_text(data, "language", ""),
                text=_text(data, "text"),
                final=final,
                translation_language=_text(translation, "language", "") if translation else "",
                translation=_text(translation, "text", "") if translation else "",
            )
        )

    def _speech(self, data: dict[str, Any], received_at: float) -> list[Decoded]:
        audio = data.get("audio")
        if not isinstance(audio, dict):
            raise _Bad(f"audio: expected an object, found {type(audio).__name__}")
        decoded = _audio(audio, data_key="payload", rate_key="sample_rate_hz", channels=1)
        return [StreamSpeech(_text(data, "speaker", assumed.NOBODY, limit=64), decoded, received_at)]


class ProviderDecoder(_TableDecoder):
    """Server → client, older contract.

    A translation comes by itself after its segment: the turn is then told again, with it. Both have the segment's id.
    """

    def __init__(self) -> None:
        super().__init__()
        self._segments: OrderedDict[str, TranscriptTurn] = OrderedDict()
        self._table = {
            "transcript": self._transcript,
            assumed.PROVIDER_TRANSLATION: self._translation,
            assumed.PROVIDER_SPEECH: self._speech,
            assumed.PROVIDER_ERROR: lambda data, at: [_problem(data)],
            assumed.PROVIDER_ENDED: lambda data, at: [StreamEnd(True, _text(data, "reason", "") or "ended")],
        }

    def _transcript(self, data: dict[str, Any], received_at: float) -> list[Decoded]:
        final = data.get("is_final", False)
        if not isinstance(final, bool):
            raise _Bad(f"is_final: expected true or false, found {type(final).__name__}")
        turn = TranscriptTurn(
            id=_text(data, "id", limit=128),
            speaker=_text(data, "speaker", assumed.NOBODY, limit=64),
            language=_text(data, "language", ""),
            text=_text(data, "text"),
            final=final,
        )
        known = self._segments.get(turn.id)
        if known is not None and known.translation:
            turn = replace(turn, translation=known.translation, translation_language=known.translation_language)
        self._remember(turn)
        return [StreamTranscript(turn)]

    def _translation(self, data: dict[str, Any], received_at: float) -> list[Decoded]:
        known = self._segments.get(_text(data, "id", limit=128))
        if known is None:
            return [Unused("orphan", "a translation of a segment that is not known")]
        turn = replace(known, translation=_text(data, "text"), translation_language=_text(data, "language", ""))
        self._remember(turn)
        return [StreamTranscript(turn)]

    def _remember(self, turn: TranscriptTurn) -> None:
        self._segments[turn.id] = turn
        self._segments.move_to_end(turn.id)
        if len(self._segments) > _SEGMENTS:
            self._segments.popitem(last=False)

    def _speech(self, data: dict[str, Any], received_at: float) -> list[Decoded]:
        channels = data.get("channels", 1)
        if isinstance(channels, bool) or channels not in (1, 2):
            raise _Bad("channels: expected 1 or 2")
        audio = _audio(data, data_key="data", rate_key="sample_rate", channels=channels)
        if channels == 1:
            speaker = _text(data, assumed.PROVIDER_SPEAKER_FIELD, assumed.NOBODY, limit=64)
            return [StreamSpeech(speaker, audio, received_at)]
        sides = zip((assumed.PROVIDER_LEFT, assumed.PROVIDER_RIGHT), split(audio), strict=True)
        return [StreamSpeech(speaker, side, received_at) for speaker, side in sides if not silent(side)]


def _problem(data: Mapping[str, Any]) -> StreamProblem:
    detail = data.get("error")
    detail = detail if isinstance(detail, dict) else data
    return StreamProblem(_text(detail, "code", "", limit=64), _text(detail, "message", "", limit=500))


def _audio(data: Mapping[str, Any], *, data_key: str, rate_key: str, channels: int) -> StreamAudio:
    encoding, rate, payload = data.get("encoding"), data.get(rate_key), data.get(data_key)
    if not isinstance(encoding, str) or encoding not in _WIDTH:
        raise _Bad(f"encoding: expected one of {', '.join(_WIDTH)}, found {str(encoding)[:32]!r}")
    if isinstance(rate, bool) or not isinstance(rate, int) or rate not in _RATES:
        raise _Bad(f"{rate_key}: expected one of {sorted(_RATES)}, found {str(rate)[:32]}")
    if not isinstance(payload, str):
        raise _Bad(f"{data_key}: expected base64, found {type(payload).__name__}")
    try:
        raw = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError as error:
        raise _Bad(f"{data_key}: expected base64: {error}") from None
    if not raw or len(raw) % (_WIDTH[encoding] * channels):
        raise _Bad(f"{data_key}: expected whole samples of {encoding}, found {len(raw)} bytes")
    kind: Encoding = encoding  # type: ignore[assignment]  # one of _WIDTH's keys, which are its values
    return StreamAudio(kind, rate, raw)


def _text(data: Mapping[str, Any], key: str, default: str | None = None, *, limit: int = _TEXT_LIMIT) -> str:
    value = data.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise _Bad(f"{key}: expected a string, found {type(value).__name__}")
    if len(value) > limit:
        raise _Bad(f"{key}: expected at most {limit} characters, found {len(value)}")
    return value
