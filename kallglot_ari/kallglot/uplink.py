"""The stream's messages, client → server, both contracts. Pure: chunks in, JSON text out."""

from __future__ import annotations

import binascii
from typing import Any

import orjson

from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.kallglot import assumed
from kallglot_ari.kallglot.interleave import Interleaver


class Timeline:
    """Puts the legs' own times, which start at each leg's first packet, on the stream's one time line."""

    def __init__(self) -> None:
        self._epoch: float | None = None
        self._shifts: dict[str, int] = {}
        self._own: dict[str, int] = {}
        self._ends: dict[str, int] = {}

    def at(self, speaker: str, chunk: UplinkChunk) -> int:
        """Milliseconds from the stream's first chunk to `chunk`."""
        if self._epoch is None:
            self._epoch = chunk.received_at
        if speaker not in self._shifts or chunk.timestamp_ms < self._own[speaker]:
            # A leg whose first packet came before the one the line starts with begins with the line, and all of it moves with that;
            # one whose media channel was made anew counts from 0 again, and goes on after what it has said.
            begin = max(self._ends.get(speaker, 0), round((chunk.received_at - self._epoch) * 1000))
            self._shifts[speaker] = begin - chunk.timestamp_ms
        at = max(0, chunk.timestamp_ms + self._shifts[speaker])
        self._own[speaker] = chunk.timestamp_ms
        width = 2 if chunk.audio.encoding == "pcm_16" else 1
        self._ends[speaker] = at + len(chunk.audio.payload) * 1000 // (chunk.audio.sample_rate * width)
        return at


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
