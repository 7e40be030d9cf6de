from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls.interfaces import StreamEnd, StreamProblem, StreamReady, StreamSpeech, StreamTranscript
from kallglot_ari.calls.model import StreamAudio, TranscriptTurn
from kallglot_ari.kallglot.downlink import Decoded, Pong, ProviderDecoder, RoutingDecoder, Unused, base64_bytes


def routing(*messages: str | bytes) -> list[Decoded]:
    decoder = RoutingDecoder("x")
    return [event for message in messages for event in decoder.decode(message, received_at=5.0)]


def provider(*messages: str | bytes) -> list[Decoded]:
    decoder = ProviderDecoder()
    return [event for message in messages for event in decoder.decode(message, received_at=5.0)]


def test_routing_control_messages() -> None:
    assert routing(
        '{"type":"session.ready","session_id":"sess_1"}',
        '{"type":"pong","session_id":"sess_1"}',
        '{"type":"session.error","code":"invalid_audio_format","message":"m"}',
        '{"type":"session.ended","session_id":"sess_1","reason":"explicit_end"}',
        '{"type":"session.ended","session_id":"sess_1"}',
    ) == [
        StreamReady(),
        Pong(),
        StreamProblem("invalid_audio_format", "m"),
        StreamEnd(True, "explicit_end"),
        StreamEnd(True, "ended"),
    ]


def test_routing_speech() -> None:
    (event,) = routing(
        b'{"type":"audio.output","speaker":"customer","sequence":3,'
        b'"audio":{"encoding":"mulaw","sample_rate_hz":8000,"payload":"/38="}}'
    )
    assert event == StreamSpeech("customer", StreamAudio("mulaw", 8000, b"\xff\x7f"), 5.0)


def test_a_message_of_very_many_values_is_not_read() -> None:
    long = '{"type":"x","a":[' + "{}," * 10_000 + "0]}"
    for message in (long, long.encode()):
        for (event,) in (routing(message), provider(message)):
            assert isinstance(event, Unused)
            assert event.detail == f"expected at most 8192 values, found more in {len(long)} bytes"
    text = "so, " * 5_000
    (said,) = routing(orjson.dumps({"type": "transcript.final", "speaker": "agent", "language": "en", "text": text}))
    assert isinstance(said, StreamTranscript)


def test_speech_of_nobody_is_for_everybody() -> None:
    (event,) = routing('{"type":"audio.output","audio":{"encoding":"mulaw","sample_rate_hz":8000,"payload":"/w=="}}')
    assert isinstance(event, StreamSpeech)
    assert event.speaker == ""


def test_routing_partials_and_their_final_share_an_id_and_the_next_utterance_has_another() -> None:
    events = routing(
        '{"type":"transcript.partial","speaker":"customer","language":"de","text":"Guten"}',
        '{"type":"transcript.partial","speaker":"agent","language":"en","text":"Hi"}',
        '{"type":"transcript.partial","speaker":"customer","language":"de","text":"Guten Tag"}',
        '{"type":"transcript.final","speaker":"customer","language":"de","text":"Guten Tag.","translation":{"language":"en","text":"Hello."}}',
        '{"type":"transcript.partial","speaker":"customer","language":"de","text":"Wie"}',
    )
    turns = [event.turn for event in events if isinstance(event, StreamTranscript)]
    assert [turn.id for turn in turns] == ["x-customer-0", "x-agent-0", "x-customer-0", "x-customer-0", "x-customer-1"]
    assert turns[3] == TranscriptTurn("x-customer-0", "customer", "de", "Guten Tag.", True, "en", "Hello.")


def test_a_final_without_translation_is_one() -> None:
    (event,) = routing('{"type":"transcript.final","speaker":"a","language":null,"text":"","translation":null}')
    assert event == StreamTranscript(TranscriptTurn("x-a-0", "a", "", "", True))


def test_many_speakers_do_not_fill_the_memory() -> None:
    decoder = RoutingDecoder("x")
    for number in range(1000):
        decoder.decode(orjson.dumps({"type": "transcript.final", "speaker": f"s{number}", "text": "t"}), received_at=0)
    assert len(decoder._finals) <= 64


def test_provider_transcript_then_translation() -> None:
    events = provider(
        '{"type":"transcript","id":"seg_1","speaker":"customer","language":"de","text":"Gu","is_final":false,"start_time":0.1,"confidence":0.9}',
        '{"type":"transcript","id":"seg_1","speaker":"customer","language":"de","text":"Guten Tag","is_final":true}',
        '{"type":"translation","id":"seg_1","language":"en","text":"Hello"}',
    )
    turns = [event.turn for event in events if isinstance(event, StreamTranscript)]
    assert [(turn.id, turn.final, turn.text, turn.translation) for turn in turns] == [
        ("seg_1", False, "Gu", ""),
        ("seg_1", True, "Guten Tag", ""),
        ("seg_1", True, "Guten Tag", "Hello"),
    ]


def test_a_translation_that_comes_before_its_final_is_not_lost() -> None:
    events = provider(
        '{"type":"transcript","id":"s","speaker":"a","text":"Gu","is_final":false}',
        '{"type":"translation","id":"s","language":"en","text":"Hello"}',
        '{"type":"transcript","id":"s","speaker":"a","text":"Guten Tag","is_final":true}',
    )
    last = events[-1]
    assert isinstance(last, StreamTranscript)
    assert (last.turn.final, last.turn.translation, last.turn.translation_language) == (True, "Hello", "en")


def test_a_translation_of_nothing_is_counted_and_memory_is_bounded() -> None:
    decoder = ProviderDecoder()
    for number in range(100):
        decoder.decode(orjson.dumps({"type": "transcript", "id": f"s{number}", "text": "t"}), received_at=0)
    (old,) = decoder.decode('{"type":"translation","id":"s0","text":"t"}', received_at=0)
    assert isinstance(old, Unused)
    assert old.reason == "orphan"
    (new,) = decoder.decode('{"type":"translation","id":"s99","text":"t"}', received_at=0)
    assert isinstance(new, StreamTranscript)


def test_provider_speech_mono_and_two_channels() -> None:
    (mono,) = provider(
        '{"type":"audio","data":"AQI=","encoding":"pcm_16","sample_rate":16000,"channels":1,"speaker":"agent"}'
    )
    assert mono == StreamSpeech("agent", StreamAudio("pcm_16", 16000, b"\x01\x02"), 5.0)
    both = base64.b64encode(b"\x01\x00\x02\x00" * 3).decode()
    events = provider(
        orjson.dumps({"type": "audio", "data": both, "encoding": "pcm_16", "sample_rate": 8000, "channels": 2})
    )
    assert [(event.speaker, event.audio.payload) for event in events if isinstance(event, StreamSpeech)] == [
        ("customer", b"\x01\x00" * 3),
        ("agent", b"\x02\x00" * 3),
    ]
    right_only = base64.b64encode(b"\x00\x00\x02\x00" * 3).decode()
    events = provider(
        orjson.dumps({"type": "audio", "data": right_only, "encoding": "pcm_16", "sample_rate": 8000, "channels": 2})
    )
    assert [event.speaker for event in events if isinstance(event, StreamSpeech)] == ["agent"]


def test_provider_speech_that_does_not_say_how_many_channels_it_has_is_one_voice() -> None:
    """Taken for two, it would be cut into halves that are nobody's."""
    (event,) = provider('{"type":"audio","data":"AQI=","encoding":"pcm_16","sample_rate":16000}')
    assert event == StreamSpeech("", StreamAudio("pcm_16", 16000, b"\x01\x02"), 5.0)


def test_provider_errors_and_end() -> None:
    assert provider(
        '{"type":"error","code":"c","message":"m"}',
        '{"type":"error","error":{"code":"c","message":"m"}}',
        '{"type":"ended","reason":"r"}',
    ) == [StreamProblem("c", "m"), StreamProblem("c", "m"), StreamEnd(True, "r")]


@pytest.mark.parametrize("message", ['{"type":"audio.input"}', '{"type":"session.updated"}', '{"type":"transcript"}'])
def test_types_of_no_or_the_other_contract_are_unknown(message: str) -> None:
    (event,) = routing(message)
    assert isinstance(event, Unused)
    assert event.reason == "unknown"


OUTPUT: dict[str, Any] = {"encoding": "mulaw", "sample_rate_hz": 8000, "payload": "/w=="}


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        ("{", "expected JSON"),
        ("[1]", "expected an object, found list"),
        ("{}", "type: expected a string, found NoneType"),
        ('{"type":1}', "type: expected a string, found int"),
        ('{"type":"audio.output"}', "audio: expected an object"),
        ('{"type":"audio.output","audio":"x"}', "audio: expected an object"),
        ({"audio": OUTPUT | {"encoding": "mp3"}}, "encoding: expected one of"),
        ({"audio": OUTPUT | {"encoding": []}}, "encoding: expected one of"),
        ({"audio": OUTPUT | {"sample_rate_hz": 44100}}, "sample_rate_hz: expected one of"),
        ({"audio": OUTPUT | {"sample_rate_hz": "8000"}}, "sample_rate_hz: expected one of"),
        ({"audio": OUTPUT | {"sample_rate_hz": True}}, "sample_rate_hz: expected one of"),
        ({"audio": OUTPUT | {"payload": None}}, "payload: expected base64, found NoneType"),
        ({"audio": OUTPUT | {"payload": "?"}}, "payload: expected base64"),
        ({"audio": OUTPUT | {"payload": "é"}}, "payload: expected base64"),
        ({"audio": OUTPUT | {"payload": ""}}, "expected whole samples of mulaw, found 0 bytes"),
        ({"audio": OUTPUT | {"encoding": "pcm_16"}}, "expected whole samples of pcm_16, found 1 bytes"),
        ({"audio": OUTPUT, "speaker": 1}, "speaker: expected a string"),
        ({"audio": OUTPUT, "speaker": "s" * 65}, "speaker: expected at most 64 characters"),
        ('{"type":"transcript.final","text":"t"}', "speaker: expected a string"),
        ('{"type":"transcript.final","speaker":"a"}', "text: expected a string"),
        ('{"type":"transcript.final","speaker":"a","text":"t","translation":"x"}', "translation: expected an object"),
        ('{"type":"session.error","code":5}', "code: expected a string"),
    ],
)
def test_malformed_messages_say_what_was_expected(message: str | bytes | dict[str, Any], why: str) -> None:
    raw = orjson.dumps({"type": "audio.output"} | message) if isinstance(message, dict) else message
    (event,) = routing(raw)
    assert isinstance(event, Unused)
    assert event.reason == "malformed"
    assert why in event.detail


@pytest.mark.parametrize(
    "change",
    [{"channels": 3}, {"channels": True}, {"channels": "2"}, {"channels": 2}, {"sample_rate": None}, {"speaker": []}],
)
def test_malformed_provider_audio(change: dict[str, Any]) -> None:
    data = {"type": "audio", "data": "/w==", "encoding": "mulaw", "sample_rate": 8000, "channels": 1}
    (event,) = provider(orjson.dumps(data | change))
    assert isinstance(event, Unused)
    assert event.reason == "malformed"


@pytest.mark.parametrize(
    "data", ['{"type":"transcript","id":"s","text":"t","is_final":"yes"}', '{"type":"transcript","text":"t"}']
)
def test_malformed_provider_transcript(data: str) -> None:
    (event,) = provider(data)
    assert isinstance(event, Unused)


def test_no_detail_quotes_a_whole_message() -> None:
    (event,) = routing(orjson.dumps({"type": "x" * 100_000}))
    assert isinstance(event, Unused)
    assert len(event.detail) <= 64


KEYS = ["type", "id", "speaker", "language", "text", "is_final", "translation", "audio", "data", "payload", "encoding",
        "sample_rate", "sample_rate_hz", "channels", "code", "message", "error", "reason"]  # fmt: skip
TYPES = ["session.ready", "pong", "transcript.partial", "transcript.final", "session.error", "session.ended", "audio.output",
         "transcript", "translation", "audio", "error", "ended", "other"]  # fmt: skip
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from([*TYPES, "mulaw", "pcm_16", "/w==", "AQI=", 8000, 16000, 1, 2])
)
OBJECTS = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)},
    optional={
        key: st.recursive(
            VALUES,
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
            max_leaves=6,
        )
        for key in KEYS[1:]
    },
)


@given(st.lists(OBJECTS.map(orjson.dumps) | st.binary(max_size=40) | st.text(max_size=40), max_size=6))
def test_nothing_makes_a_decoder_raise(messages: list[bytes | str]) -> None:
    for decoder in (RoutingDecoder("x"), ProviderDecoder()):
        for message in messages:
            for event in decoder.decode(message, received_at=0.0):
                if isinstance(event, StreamSpeech):
                    assert event.audio.payload
                if isinstance(event, StreamTranscript):
                    assert event.turn.id


@given(st.binary(max_size=300))
def test_cut_off_messages_are_survived(tail: bytes) -> None:
    whole = orjson.dumps(
        {"type": "audio.output", "speaker": "a", "audio": OUTPUT | {"payload": base64.b64encode(tail).decode()}}
    )
    decoder = RoutingDecoder("x")
    for end in range(0, len(whole), 7):
        (event,) = decoder.decode(whole[:end], received_at=0)
        assert isinstance(event, Unused)


@given(
    st.one_of(
        st.binary(max_size=900).map(lambda raw: base64.b64encode(raw).decode()),
        st.binary(max_size=9).map(lambda raw: base64.urlsafe_b64encode(raw).decode()),
        st.text("AQg+/-_= \n\xe4", max_size=12),
    )
)
def test_base64_is_what_binascii_takes_for_it(text: str) -> None:
    try:
        expected = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)[:20]):
            base64_bytes(text)
    else:
        assert base64_bytes(text) == expected
