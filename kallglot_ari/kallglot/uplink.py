"""The stream's messages, client → server, both contracts. Pure: chunks in, JSON out, as UTF-8."""

from __future__ import annotations

import binascii
from functools import lru_cache
from typing import Any

import orjson

from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.kallglot import assumed
from kallglot_ari.kallglot.interleave import Interleaver


class _Leg:
    """Where one leg is on the stream's time line, and the frame of its messages."""

    __slots__ = ("at", "encoding", "frame", "own", "rate", "shift", "size")

    def __init__(self, speaker: str, audio: StreamAudio, shift: int) -> None:
        self.encoding, self.rate = audio.encoding, audio.sample_rate
        self.frame = _routing_audio(speaker, audio.encoding, audio.sample_rate)
        self.shift = shift
        self.own = self.at = self.size = 0

    def end(self) -> int:
        """Where what it said last ends."""
        return self.at + self.size * 1000 // (self.rate * (2 if self.encoding == "pcm_16" else 1))


class RoutingEncoder:
    """Client → server, current contract. Puts the legs' own times, which start at each leg's first packet, on one time line."""

    __slots__ = ("_epoch", "_legs", "_sequence")

    def __init__(self) -> None:
        self._sequence = 0
        self._epoch: float | None = None
        self._legs: dict[str, _Leg] = {}

    def audio(self, speaker: str, chunk: UplinkChunk) -> list[bytes]:
        audio, own, received_at = chunk
        leg = self._legs.get(speaker)
        if leg is None or own < leg.own or audio.encoding != leg.encoding or audio.sample_rate != leg.rate:
            leg = self._begin(leg, speaker, audio, own, received_at)
        leg.own = own
        leg.size = len(audio.payload)
        leg.at = at = own + leg.shift
        sequence, self._sequence = self._sequence, self._sequence + 1
        return [leg.frame % (sequence, at, binascii.b2a_base64(audio.payload, newline=False))]

    def _begin(self, leg: _Leg | None, speaker: str, audio: StreamAudio, own: int, received_at: float) -> _Leg:
        """A leg that is new, that counts anew, or that speaks in another form."""
        if self._epoch is None:
            self._epoch = received_at
        if leg is not None and own >= leg.own:
            shift = leg.shift
        else:
            # A leg whose first packet came before the one the line starts with begins with the line, and all of it moves with that;
            # one whose media channel was made anew counts from 0 again, and goes on after what it has said.
            shift = max(leg.end() if leg is not None else 0, round((received_at - self._epoch) * 1000)) - own
        leg = self._legs[speaker] = _Leg(speaker, audio, shift)
        return leg

    def ping(self) -> str | None:
        return '{"type":"ping"}'

    def end(self) -> str:
        return '{"type":"session.end"}'


class ProviderEncoder:
    """Client → server, older contract, one message per speaker and chunk."""

    def audio(self, speaker: str, chunk: UplinkChunk) -> list[bytes]:
        return [_json(_provider_audio(chunk.audio, 1) | {assumed.PROVIDER_SPEAKER_FIELD: speaker})]

    def ping(self) -> str | None:
        return None

    def end(self) -> str:
        return '{"type":"end"}'


class ChannelsEncoder(ProviderEncoder):
    """Client → server, older contract, customer left and agent right. A third party has no channel: it is left out."""

    def __init__(self, chunk_ms: int) -> None:
        self._interleaver = Interleaver(assumed.PROVIDER_LEFT, assumed.PROVIDER_RIGHT, chunk_ms=chunk_ms)

    def audio(self, speaker: str, chunk: UplinkChunk) -> list[bytes]:
        if speaker not in (assumed.PROVIDER_LEFT, assumed.PROVIDER_RIGHT):
            return []
        pieces = self._interleaver.push(speaker, chunk.audio, chunk.timestamp_ms)
        return [_json(_provider_audio(audio, 2)) for _, audio in pieces]


@lru_cache(maxsize=256)
def _routing_audio(speaker: str, encoding: str, rate: int) -> bytes:
    """The message of a chunk, with places for its number, its time and its sound: all else stays the same for a whole call."""
    fixed = {"encoding": encoding, "sample_rate_hz": rate, "payload": ""}
    name, audio = (_json(part).replace(b"%", b"%%") for part in (speaker, fixed))
    head = b'{"type":"audio.input","sequence":%d,"timestamp_ms":%d,"speaker":'
    return head + name + b',"audio":' + audio.removesuffix(b'"}') + b'%b"}}'


def _provider_audio(audio: StreamAudio, channels: int) -> dict[str, Any]:
    return {
        "type": "audio",
        "data": binascii.b2a_base64(audio.payload, newline=False).decode("ascii"),
        "encoding": audio.encoding,
        "sample_rate": audio.sample_rate,
        "channels": channels,
    }


def _json(value: Any) -> bytes:
    return orjson.dumps(value)
