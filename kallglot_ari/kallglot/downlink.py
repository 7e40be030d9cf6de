"""The stream's messages, server → client, both contracts. Pure: text in, events out.

Nothing that comes from the server makes a decoder raise: what it cannot use is returned as `Unused`, to be counted.
"""

from __future__ import annotations

import binascii
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import orjson
from pydantic import ConfigDict, TypeAdapter

from kallglot_ari.calls.interfaces import (
    StreamEnd,
    StreamEvent,
    StreamProblem,
    StreamReady,
    StreamSpeech,
    StreamTranscript,
)
from kallglot_ari.calls.model import StreamAudio, TranscriptTurn
from kallglot_ari.kallglot import assumed
from kallglot_ari.kallglot.interleave import silent, split

Encoding = Literal["mulaw", "alaw", "pcm_16", "pcm_8"]
_WIDTH: dict[str, int] = {"mulaw": 1, "alaw": 1, "pcm_16": 2, "pcm_8": 1}
_RATES = frozenset({8000, 16000, 24000, 48000})
_TEXT_LIMIT = 20_000
_LONG, _VALUES_MAX = 16_384, 8_192
"""Characters from which a message is looked at before it is read, and the values it may have then: millions would hold up all calls."""
_SEGMENTS = 64
"""Segments whose translation may still come."""
_quick_base64: Any = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64")).validator.validate_strings
_IS_QUICK = _quick_base64("AAAA") == bytes(3)  # else it is a pydantic that takes the letters as they are


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to our ping."""


@dataclass(frozen=True, slots=True)
class Unused:
    """A message that was not used: `reason` is ``malformed``, ``unknown`` or ``orphan``; `detail` says what was found."""

    reason: Literal["malformed", "unknown", "orphan"]
    detail: str


Decoded = StreamEvent | Pong | Unused
Table = dict[str, Callable[[Any, dict[str, Any], float], list[Decoded]]]
"""By type of message; called with the decoder, the message and when it came."""


class _Bad(Exception):
    """A field is not what the contract says."""


class _TableDecoder:
    """Looks the message's type up in a table; the handlers raise `_Bad` for what they cannot read."""

    __slots__ = ()
    _table: ClassVar[Table]

    def decode(self, message: str | bytes, *, received_at: float) -> list[Decoded]:
        if len(message) > _LONG and _has_very_many_values(message):
            return [Unused("malformed", f"expected at most {_VALUES_MAX} values, found more in {len(message)} bytes")]
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
            return handler(self, data, received_at)
        except _Bad as error:
            return [Unused("malformed", f"{kind}: {error}")]


class RoutingDecoder(_TableDecoder):
    """Server → client, current contract.

    Its transcripts have no id, so that one is made: the partials of a speaker and the final that follows them share it.
    """

    __slots__ = ("_finals", "_stream_id")

    def __init__(self, stream_id: str) -> None:
        self._stream_id = stream_id
        self._finals: dict[str, int] = {}

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

    _table: ClassVar[Table] = {
        "session.ready": lambda self, data, at: [StreamReady()],
        "pong": lambda self, data, at: [Pong()],
        "transcript.partial": lambda self, data, at: [self._transcript(data, final=False)],
        "transcript.final": lambda self, data, at: [self._transcript(data, final=True)],
        "session.error": lambda self, data, at: [_problem(data)],
        "session.ended": lambda self, data, at: [StreamEnd(True, _text(data, "reason", "") or "ended")],
        assumed.ROUTING_SPEECH: _speech,
    }


class ProviderDecoder(_TableDecoder):
    """Server → client, older contract.

    A translation comes by itself after its segment: the turn is then told again, with it. Both have the segment's id.
    """

    __slots__ = ("_segments",)

    def __init__(self) -> None:
        self._segments: OrderedDict[str, TranscriptTurn] = OrderedDict()

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

    _table: ClassVar[Table] = {
        "transcript": _transcript,
        assumed.PROVIDER_TRANSLATION: _translation,
        assumed.PROVIDER_SPEECH: _speech,
        assumed.PROVIDER_ERROR: lambda self, data, at: [_problem(data)],
        assumed.PROVIDER_ENDED: lambda self, data, at: [StreamEnd(True, _text(data, "reason", "") or "ended")],
    }


def _has_very_many_values(message: str | bytes) -> bool:
    commas = message.count(",") if isinstance(message, str) else message.count(b",")
    return commas > _VALUES_MAX


def _problem(data: Mapping[str, Any]) -> StreamProblem:
    detail = data.get("error")
    detail = detail if isinstance(detail, dict) else data
    return StreamProblem(_text(detail, "code", "", limit=64), _text(detail, "message", "", limit=500))


def _audio(data: Mapping[str, Any], *, data_key: str, rate_key: str, channels: int) -> StreamAudio:
    encoding, rate, payload = data.get("encoding"), data.get(rate_key), data.get(data_key)
    width = _WIDTH.get(encoding) if isinstance(encoding, str) else None
    if width is None:
        raise _Bad(f"encoding: expected one of {', '.join(_WIDTH)}, found {str(encoding)[:32]!r}")
    if type(rate) is not int or rate not in _RATES:
        raise _Bad(f"{rate_key}: expected one of {sorted(_RATES)}, found {str(rate)[:32]}")
    if not isinstance(payload, str):
        raise _Bad(f"{data_key}: expected base64, found {type(payload).__name__}")
    try:
        raw = base64_bytes(payload)
    except ValueError as error:
        raise _Bad(f"{data_key}: expected base64: {error}") from None
    if not raw or len(raw) % (width * channels):
        raise _Bad(f"{data_key}: expected whole samples of {encoding}, found {len(raw)} bytes")
    kind: Encoding = encoding  # type: ignore[assignment]  # one of _WIDTH's keys, which are its values
    return StreamAudio(kind, rate, raw)


def base64_bytes(text: str) -> bytes:
    """What binascii makes of `text`, in a quarter of the time where nothing is odd about it. :raises ValueError: it is no base64."""
    if _IS_QUICK and len(text) % 4 == 0 and "-" not in text and "_" not in text:  # which pydantic would take as well
        try:
            raw: bytes = _quick_base64(text)
        except ValueError:
            pass  # binascii decides, and says why
        else:
            return raw
    return binascii.a2b_base64(text, strict_mode=True)


def _text(data: Mapping[str, Any], key: str, default: str | None = None, *, limit: int = _TEXT_LIMIT) -> str:
    value = data.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise _Bad(f"{key}: expected a string, found {type(value).__name__}")
    if len(value) > limit:
        raise _Bad(f"{key}: expected at most {limit} characters, found {len(value)}")
    return value
