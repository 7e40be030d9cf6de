"""What a client may send on the stream, in both contracts, checked to the letter. Pure.

One `StreamChecker` follows one connection, so that it sees what single messages do not show: order, overlap, and
anything said after the end.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tests.double import g711
from tests.double.g711 import Pcm
from tests.double.requests import ENCODINGS, RATES, Contract, Json

MONO = "mono"
"""Where audio of the provider contract is kept that names no speaker."""
CONTROLS = ("mute", "unmute", "pause_transcription", "resume_transcription")
_SPEAKER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")


class BadMessage(Exception):
    """The message breaks the contract. `code` is what the server answers with."""

    def __init__(self, what: str, *, code: str = "invalid_message") -> None:
        super().__init__(what)
        self.code = code


@dataclass(frozen=True, slots=True)
class AudioIn:
    """A chunk: samples by speaker (two at once when it has two channels)."""

    samples: dict[str, Pcm]
    sample_rate: int
    timestamp_ms: int | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """Wants a pong."""


@dataclass(frozen=True, slots=True)
class Control:
    """mute and the like, provider contract only."""

    action: str


@dataclass(frozen=True, slots=True)
class End:
    """The client ends the session."""


ClientMessage = AudioIn | Ping | Control | End


@dataclass
class StreamChecker:
    """Checks the messages of one connection in their order.

    :param chunk_ms: least and greatest length of a chunk; None = any.
    """

    contract: Contract
    chunk_ms: tuple[float, float] | None = (100, 200)
    _ended: bool = False
    _sequence: dict[str, int] = field(default_factory=dict)
    _time: dict[str, float] = field(default_factory=dict)
    _format: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def check(self, text: str | bytes) -> ClientMessage:
        """One frame as it came. :raises BadMessage:"""
        if isinstance(text, bytes):
            raise BadMessage(f"expected a text frame, found a binary one of {len(text)} bytes")
        if self._ended:
            raise BadMessage("message after the end of the session")
        try:
            message = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        except ValueError as error:
            raise BadMessage(f"not JSON: {error}") from None
        if not isinstance(message, dict):
            raise BadMessage(f"expected an object, found {text[:80]!r}")
        result = self._routing(message) if self.contract == "routing" else self._provider(message)
        self._ended = isinstance(result, End)
        return result

    def _routing(self, message: Json) -> ClientMessage:
        match message.get("type"):
            case "audio.input":
                return self._audio_input(message)
            case "ping":
                _keys(message, ("type",))
                return Ping()
            case "session.end":
                _keys(message, ("type",))
                return End()
            case other:
                raise BadMessage(f"type: {other!r} is not in the routing contract")

    def _audio_input(self, message: Json) -> AudioIn:
        _keys(message, ("type", "sequence", "timestamp_ms", "speaker", "audio"))
        speaker = _speaker(message["speaker"])
        sequence = _count(message["sequence"], "sequence")
        timestamp = _count(message["timestamp_ms"], "timestamp_ms")
        audio = message["audio"]
        if not isinstance(audio, dict):
            raise BadMessage(f"audio: expected an object, found {audio!r}")
        _keys(audio, ("encoding", "sample_rate_hz", "payload"), "audio.")
        if audio["encoding"] != "mulaw" or audio["sample_rate_hz"] != 8000 or type(audio["sample_rate_hz"]) is not int:
            raise BadMessage(
                f"audio: expected mulaw at 8000, found {audio['encoding']!r} at {audio['sample_rate_hz']!r}",
                code="invalid_audio_format",
            )
        samples = g711.ulaw_decode(_base64(audio["payload"], "audio.payload"))
        self._length(len(samples) / 8)
        if sequence <= self._sequence.get(speaker, -1):
            raise BadMessage(f"sequence: {speaker} had {self._sequence[speaker]}, found {sequence}")
        if timestamp < self._time.get(speaker, 0) - 1:
            raise BadMessage(
                f"timestamp_ms: {speaker}'s last chunk reaches to {self._time[speaker]:g}, found {timestamp}: overlap"
            )
        self._sequence[speaker] = sequence
        self._time[speaker] = timestamp + len(samples) / 8
        return AudioIn({speaker: samples}, 8000, timestamp, sequence)

    def _provider(self, message: Json) -> ClientMessage:
        match message.get("type"):
            case "audio":
                return self._audio(message)
            case "control":
                _keys(message, ("type", "action"))
                action = message["action"]
                if not isinstance(action, str) or action not in CONTROLS:
                    raise BadMessage(f"action: expected one of {', '.join(CONTROLS)}, found {action!r}")
                return Control(action)
            case "end":
                _keys(message, ("type",))
                return End()
            case other:
                raise BadMessage(f"type: {other!r} is not in the provider contract")

    def _audio(self, message: Json) -> AudioIn:
        _keys(message, ("type", "data", "encoding", "sample_rate", "channels"), optional=("speaker",))
        encoding, rate, channels = message["encoding"], message["sample_rate"], message["channels"]
        if encoding not in ENCODINGS:
            raise BadMessage(f"encoding: expected one of {ENCODINGS}, found {encoding!r}", code="invalid_audio_format")
        if type(rate) is not int or rate not in RATES:
            raise BadMessage(f"sample_rate: expected one of {RATES}, found {rate!r}", code="invalid_audio_format")
        if type(channels) is not int or channels not in (1, 2):
            raise BadMessage(f"channels: expected 1 or 2, found {channels!r}", code="invalid_audio_format")
        if channels == 2 and "speaker" in message:
            raise BadMessage("speaker: two channels are two speakers; expected none, found one")
        speaker = _speaker(message["speaker"]) if "speaker" in message else MONO
        samples = _decode(_base64(message["data"], "data"), str(encoding))
        if len(samples) % channels:
            raise BadMessage(f"data: {len(samples)} samples are not whole frames of {channels} channels")
        self._length(len(samples) / channels / rate * 1000)
        line = "two channels" if channels == 2 else speaker
        if self._format.setdefault(line, (encoding, rate)) != (encoding, rate):
            raise BadMessage(f"format of {line}: was {self._format[line]}, found {(encoding, rate)}")
        if channels == 2:
            return AudioIn({"customer": samples[0::2], "agent": samples[1::2]}, rate)
        return AudioIn({speaker: samples}, rate)

    def _length(self, milliseconds: float) -> None:
        if self.chunk_ms and not self.chunk_ms[0] <= milliseconds <= self.chunk_ms[1]:
            raise BadMessage(f"chunk: expected {self.chunk_ms[0]:g} to {self.chunk_ms[1]:g} ms, found {milliseconds:g}")


def _decode(data: bytes, encoding: Literal["pcm_16", "pcm_8", "mulaw", "alaw"] | str) -> Pcm:
    if encoding == "mulaw":
        return g711.ulaw_decode(data)
    if encoding == "alaw":
        return g711.alaw_decode(data)
    if encoding == "pcm_8":
        return (np.frombuffer(data, dtype=np.uint8).astype(np.int16) - 128) * np.int16(256)
    if len(data) % 2:
        raise BadMessage(f"data: 16-bit PCM of an odd number of bytes, {len(data)}")
    return np.frombuffer(data, dtype="<i2").astype(np.int16)


def _keys(message: Json, names: tuple[str, ...], prefix: str = "", *, optional: tuple[str, ...] = ()) -> None:
    for name in names:
        if name not in message:
            raise BadMessage(f"{prefix}{name}: missing")
    for name in message:
        if name not in names and name not in optional:
            raise BadMessage(f"{prefix}{name}: unknown field")


def _count(value: object, name: str) -> int:
    if type(value) is not int or value < 0:
        raise BadMessage(f"{name}: expected an integer >= 0, found {value!r}")
    return value


def _speaker(value: object) -> str:
    if not isinstance(value, str) or not _SPEAKER.fullmatch(value):
        raise BadMessage(f"speaker: expected a label, found {value!r}")
    return value


def _base64(value: object, name: str) -> bytes:
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        data = None
    if not data:
        raise BadMessage(f"{name}: expected base64 that is not empty, found {str(value)[:40]!r}")
    return data


def _no_duplicates(pairs: list[tuple[str, object]]) -> Json:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise BadMessage(f"a key occurs twice in {[key for key, _ in pairs]}")
    return table


def _no_constant(name: str) -> float:
    raise BadMessage(f"{name} is not JSON")
