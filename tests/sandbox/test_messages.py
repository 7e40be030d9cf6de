from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls.interfaces import StreamEnd, StreamProblem, StreamReady, StreamSpeech, StreamTranscript
from kallglot_ari.calls.model import StreamAudio, TranscriptTurn, UplinkChunk
from kallglot_ari.kallglot.protocol import Pong, decoder, encoder
from kallglot_ari.sandbox.messages import Control, End, Heard, Invalid, Ping, codec
from kallglot_ari.settings import KallglotSettings

INPUT: dict[str, Any] = {
    "type": "audio.input",
    "sequence": 0,
    "timestamp_ms": 40,
    "speaker": "customer",
    "audio": {"encoding": "mulaw", "sample_rate_hz": 8000, "payload": "/38="},
}
OLDER: dict[str, Any] = {"type": "audio", "data": "AQIDBA==", "encoding": "pcm_16", "sample_rate": 16000, "channels": 1}


def test_routing_messages_of_a_client() -> None:
    side = codec("routing", "sess_1")
    assert side.parse(orjson.dumps(INPUT)) == [Heard("customer", StreamAudio("mulaw", 8000, b"\xff\x7f"), 40)]
    assert side.parse('{"type":"ping"}') == [Ping()]
    assert side.parse('{"type":"session.end"}') == [End()]


def test_provider_messages_of_a_client() -> None:
    side = codec("provider", "sess_1")
    first = orjson.dumps(OLDER | {"speaker": "agent", "data": "AAAA" * 1066 + "AAA="})
    assert [item.timestamp_ms for _ in range(3) for item in side.parse(first) if isinstance(item, Heard)] == [
        0,
        100,
        200,
    ]
    assert side.parse('{"type":"control","action":"mute"}') == [Control("mute")]
    assert side.parse('{"type":"end"}') == [End()]
    (plain,) = side.parse(orjson.dumps(OLDER))
    assert plain == Heard("customer", StreamAudio("pcm_16", 16000, b"\x01\x02\x03\x04"), 0)
    left, right = side.parse(orjson.dumps(OLDER | {"channels": 2}))
    assert isinstance(left, Heard)
    assert isinstance(right, Heard)
    assert (left.speaker, left.audio.payload) == ("customer", b"\x01\x02")
    assert (right.speaker, right.audio.payload) == ("agent", b"\x03\x04")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"audio": INPUT["audio"] | {"encoding": "pcm_16"}}, "invalid_audio_format"),
        ({"audio": INPUT["audio"] | {"sample_rate_hz": 16000}}, "invalid_audio_format"),
        ({"audio": INPUT["audio"] | {"channels": 2}}, "invalid_audio_format"),
        ({"audio": INPUT["audio"] | {"payload": ""}}, "invalid_audio_format"),
        ({"audio": INPUT["audio"] | {"payload": "?"}}, "invalid_message"),
        ({"audio": INPUT["audio"] | {"payload": 5}}, "invalid_message"),
        ({"audio": None}, "invalid_message"),
        ({"speaker": None}, "invalid_message"),
        ({"speaker": ""}, "invalid_message"),
        ({"sequence": None}, "invalid_message"),
        ({"timestamp_ms": -1}, "invalid_message"),
        ({"timestamp_ms": True}, "invalid_message"),
        ({"type": "audio"}, "unknown_message_type"),
        ({"type": None}, "unknown_message_type"),
    ],
)
def test_routing_messages_that_cannot_be_used(change: dict[str, Any], code: str) -> None:
    with pytest.raises(Invalid) as caught:
        codec("routing", "s").parse(orjson.dumps(INPUT | change))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"encoding": "opus"}, "invalid_audio_format"),
        ({"sample_rate": 44100}, "invalid_audio_format"),
        ({"channels": 3}, "invalid_audio_format"),
        ({"channels": True}, "invalid_audio_format"),
        ({"data": "AQID"}, "invalid_audio_format"),
        ({"speaker": 5}, "invalid_message"),
        ({"type": "control", "action": "dance"}, "invalid_message"),
        ({"type": "audio.input"}, "unknown_message_type"),
    ],
)
def test_provider_messages_that_cannot_be_used(change: dict[str, Any], code: str) -> None:
    with pytest.raises(Invalid) as caught:
        codec("provider", "s").parse(orjson.dumps(OLDER | change))
    assert caught.value.code == code


def test_speakers_are_bounded() -> None:
    side = codec("provider", "s")
    for number in range(64):
        side.parse(orjson.dumps(OLDER | {"speaker": f"s{number}"}))
    with pytest.raises(Invalid, match="at most 64 speakers"):
        side.parse(orjson.dumps(OLDER | {"speaker": "one more"}))


@pytest.mark.parametrize("contract", ["routing", "provider"])
def test_our_client_understands_all_that_the_sandbox_says(contract: Any) -> None:
    settings = KallglotSettings(contract=contract)
    side, reader = codec(contract, "sess_1"), decoder(settings, stream_id="x")
    audio = StreamAudio("mulaw", 8000, b"\x01\x02")
    turn = TranscriptTurn("customer-0", "customer", "de", "a", True, "en", "b")
    messages = [
        *side.ready(),
        *side.pong(),
        *side.transcript(turn),
        *side.speech("agent", audio),
        *side.problem("c", "m"),
        *side.ended("r"),
    ]
    events = [event for message in messages for event in reader.decode(message, received_at=1.0)]
    kinds = [event for event in events if not isinstance(event, StreamTranscript)]
    opening = [StreamReady(), Pong()] if contract == "routing" else []
    assert kinds == [*opening, StreamSpeech("agent", audio, 1.0), StreamProblem("c", "m"), StreamEnd(True, "r")]
    final = [event.turn for event in events if isinstance(event, StreamTranscript)][-1]
    assert (final.speaker, final.language, final.text, final.final, final.translation) == (
        "customer",
        "de",
        "a",
        True,
        "b",
    )


@pytest.mark.parametrize("contract", ["routing", "provider"])
def test_the_sandbox_understands_all_that_our_client_says(contract: Any) -> None:
    settings = KallglotSettings(contract=contract)
    side, writer = codec(contract, "sess_1"), encoder(settings)
    audio = StreamAudio("mulaw", 8000, b"\x10" * 800)
    parsed = [item for message in writer.audio("agent", UplinkChunk(audio, 0, 1.0)) for item in side.parse(message)]
    assert parsed == [Heard("agent", audio, 0)]
    assert side.parse(writer.end()) == [End()]


@given(st.sampled_from(["routing", "provider"]), st.binary(max_size=60) | st.fixed_dictionaries(
    {"type": st.sampled_from(["audio", "audio.input", "control", "end", "ping", "x"])},
    optional={key: st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.just(INPUT["audio"]) | st.sampled_from(["mulaw", 8000, 1, "/38="])
              for key in ("audio", "data", "speaker", "sequence", "timestamp_ms", "encoding", "sample_rate", "channels", "action")},
).map(orjson.dumps))  # fmt: skip
def test_no_message_breaks_the_sandbox(contract: str, message: bytes) -> None:
    with contextlib.suppress(Invalid):
        for item in codec(contract, "s").parse(message):
            assert isinstance(item, Heard | Ping | End | Control)
