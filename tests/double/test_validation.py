"""The double's two gatekeepers, requests and messages: what the reference shows passes, everything else does not."""

from __future__ import annotations

import base64
import json
from typing import cast

import numpy as np
import pytest

from tests.double import g711
from tests.double.messages import AudioIn, BadMessage, Control, End, Ping, StreamChecker
from tests.double.requests import Contract, Json, Refusal, check_create, check_end

ROUTING: Json = {
    "mode": "bidirectional_translation",
    "source_language": "de",
    "target_language": "en-GB",
    "audio": {"sample_rate": 8000, "encoding": "mulaw", "channels": 1},
    "recording": {"enabled": True, "channels": "dual"},
    "metadata": {"caller_id": "+49301234"},
    "routing": {
        "type": "sip",
        "sip": {"from_uri": "sip:alice@example.com", "headers": {"X-Id": "1"}},
        "direction": "inbound",
    },
}
PROVIDER: Json = {
    "mode": "ai_agent",
    "provider": {
        "type": "sip",
        "transport": "tls",
        "codecs": ["opus", "G722", "PCMU", "PCMA"],
        "tls": {"verify_certificate": True, "min_version": "TLSv1.2"},
        "srtp": {"enabled": True, "crypto_suites": ["AES_CM_128_HMAC_SHA1_80"]},
        "refer": {"enabled": True, "notify_url": "https://example.com/refer"},
        "endpoints": [{"uri": "sip.kallglot.com", "priority": 1}],
        "failover": {"enabled": True, "timeout": 3000},
        "debug": {"sip_trace": False, "pcap_capture": False},
    },
    "conference": {"enabled": True, "max_participants": 5},
}


def changed(body: Json, path: str, value: object) -> Json:
    """A deep copy of `body` with one place set (or, for `...`, taken away)."""
    copy = cast(Json, json.loads(json.dumps(body)))
    *way, last = path.split(".")
    table = copy
    for step in way:
        table = cast(Json, table[step])
    if value is ...:
        del table[last]
    else:
        table[last] = value
    return copy


def test_the_examples_of_the_reference_pass() -> None:
    assert check_create(ROUTING, "routing") == ROUTING
    assert check_create(PROVIDER, "provider") == PROVIDER
    assert check_create({"mode": "ai_agent", "phone_number": "+4930"}, "routing")
    assert check_create({"mode": "ai_agent", "connection_id": "conn_1"}, "routing")
    assert check_end(None) == check_end({}) == "completed"
    assert check_end({"reason": "customer_hangup"}) == "customer_hangup"


@pytest.mark.parametrize(
    ("contract", "path", "value", "status", "code"),
    [
        ("routing", "mode", ..., 422, "invalid_mode"),
        ("routing", "mode", "translate", 422, "invalid_mode"),
        ("routing", "mode", 1, 422, "invalid_mode"),
        ("routing", "source_language", "german!", 422, "invalid_language_code"),
        ("routing", "target_language", "", 422, "invalid_language_code"),
        ("routing", "target_language", None, 422, "invalid_language_code"),
        ("routing", "provider", {"type": "sip"}, 422, "invalid_provider"),
        ("routing", "provider", "sip", 400, "unknown_parameter"),
        ("routing", "routing", ..., 422, "invalid_routing"),
        ("routing", "phone_number", "+4930", 422, "invalid_routing"),
        ("routing", "connection_id", "conn_1", 422, "invalid_routing"),
        ("routing", "routing", "sip", 400, "invalid_request"),
        ("routing", "routing.type", ..., 422, "invalid_routing"),
        ("routing", "routing.type", "twilio", 422, "invalid_routing"),
        ("routing", "routing.sip", ..., 422, "invalid_routing"),
        ("routing", "routing.sip.from_uri", "alice", 422, "invalid_routing"),
        ("routing", "routing.sip.from_uri", "", 422, "invalid_routing"),
        ("routing", "routing.sip.to_uri", "sip:b@example.com", 400, "unknown_parameter"),
        ("routing", "routing.sip.headers.X-Id", 1, 400, "invalid_request"),
        ("routing", "routing.sip.headers.X-Id", "a\r\nVia: b", 422, "invalid_routing"),
        ("routing", "routing.sip.headers", {"X Id": "1"}, 422, "invalid_routing"),
        ("routing", "routing.direction", "in", 422, "invalid_routing"),
        ("routing", "audio.encoding", "pcm_16", 422, "invalid_audio_format"),
        ("routing", "audio.sample_rate", 16000, 422, "invalid_audio_format"),
        ("routing", "audio.channels", True, 422, "invalid_audio_format"),
        ("routing", "recording.enabled", "yes", 400, "invalid_request"),
        ("routing", "recording.channels", "mono", 422, "invalid_recording"),
        ("routing", "metadata", [], 400, "invalid_request"),
        ("routing", "conference", {"enabled": True}, 400, "unknown_parameter"),
        ("routing", "language", "de", 400, "unknown_parameter"),
        ("provider", "routing", ROUTING["routing"], 400, "unknown_parameter"),
        ("provider", "provider", "sip", 400, "invalid_request"),
        ("provider", "provider.type", ..., 422, "invalid_provider"),
        ("provider", "provider.type", "twilio", 422, "invalid_provider"),
        ("provider", "provider.transport", "wss", 422, "invalid_provider"),
        ("provider", "provider.codecs", ["opus", "opus"], 422, "invalid_request"),
        ("provider", "provider.codecs", ["ulaw"], 422, "invalid_provider"),
        ("provider", "provider.codecs", [], 400, "invalid_request"),
        ("provider", "provider.tls.min_version", "TLSv1", 422, "invalid_provider"),
        ("provider", "provider.srtp.crypto_suites", ["NULL"], 422, "invalid_provider"),
        ("provider", "provider.refer.notify_url", "", 422, "invalid_provider"),
        ("provider", "provider.endpoints", [{"uri": "sip.kallglot.com"}], 422, "invalid_request"),
        ("provider", "provider.endpoints", [{"uri": "sip:x", "priority": 1}], 422, "invalid_provider"),
        ("provider", "provider.failover.timeout", 0, 400, "invalid_request"),
        ("provider", "provider.failover.timeout_ms", 3000, 400, "unknown_parameter"),
        ("provider", "conference.max_participants", 1, 400, "invalid_request"),
        ("provider", "conference.enabled", ..., 422, "invalid_request"),
    ],
)
def test_everything_else_is_refused(contract: Contract, path: str, value: object, status: int, code: str) -> None:
    with pytest.raises(Refusal) as refusal:
        check_create(changed(ROUTING if contract == "routing" else PROVIDER, path, value), contract)
    assert (refusal.value.status, refusal.value.code) == (status, code)


def test_bodies_that_are_no_objects_are_refused() -> None:
    bodies: tuple[object, ...] = (None, [], "x", 1)
    for body in bodies:
        with pytest.raises(Refusal, match="expected an object"):
            check_create(body, "routing")
    with pytest.raises(Refusal, match="provider: required"):
        check_create({"mode": "ai_agent"}, "provider")
    ends: tuple[object, ...] = ({"reason": "bored"}, {"why": "completed"}, [])
    for end in ends:
        with pytest.raises(Refusal):
            check_end(end)


# --- the stream


def audio_input(**changes: object) -> Json:
    audio = {"encoding": "mulaw", "sample_rate_hz": 8000, "payload": base64.b64encode(b"\xff" * 800).decode()}
    return {"type": "audio.input", "sequence": 0, "timestamp_ms": 0, "speaker": "customer", "audio": audio} | changes


def audio(**changes: object) -> Json:
    data = base64.b64encode(np.arange(1600, dtype="<i2").tobytes()).decode()
    return {"type": "audio", "data": data, "encoding": "pcm_16", "sample_rate": 16000, "channels": 1} | changes


def test_routing_messages_pass() -> None:
    checker = StreamChecker("routing")
    first = checker.check(json.dumps(audio_input()))
    assert isinstance(first, AudioIn)
    assert len(first.samples["customer"]) == 800
    assert not first.samples["customer"].any()
    checker.check(json.dumps(audio_input(speaker="agent")))
    checker.check(json.dumps(audio_input(sequence=1, timestamp_ms=100)))
    assert checker.check('{"type":"ping"}') == Ping()
    assert checker.check('{"type":"session.end"}') == End()
    with pytest.raises(BadMessage, match="after the end"):
        checker.check('{"type":"ping"}')


def test_provider_messages_pass() -> None:
    checker = StreamChecker("provider")
    mono = checker.check(json.dumps(audio(speaker="agent")))
    assert isinstance(mono, AudioIn)
    assert mono.samples["agent"].tolist() == list(range(1600))
    stereo = StreamChecker("provider", None).check(json.dumps(audio(channels=2)))
    assert isinstance(stereo, AudioIn)
    assert stereo.samples["customer"].tolist() == list(range(0, 1600, 2))
    assert stereo.samples["agent"].tolist() == list(range(1, 1600, 2))
    assert checker.check('{"type":"control","action":"mute"}') == Control("mute")
    assert checker.check('{"type":"end"}') == End()


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"{}", "text frame"),
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"type":"ping","type":"ping"}', "twice"),
        ('{"type":NaN}', "NaN"),
        ({"type": "audio"}, "not in the routing contract"),
        ({"type": ["x"]}, "not in the routing contract"),
        ({"type": "ping", "id": 1}, "id: unknown"),
        (audio_input(language="de"), "language: unknown"),
        (audio_input(sequence=-1), "sequence: expected"),
        (audio_input(sequence=True), "sequence: expected"),
        (audio_input(timestamp_ms=1.5), "timestamp_ms: expected"),
        (audio_input(speaker=""), "speaker: expected"),
        (audio_input(audio="x"), "audio: expected"),
        (changed(audio_input(), "audio.encoding", "alaw"), "expected mulaw"),
        (changed(audio_input(), "audio.sample_rate_hz", 16000), "expected mulaw"),
        (changed(audio_input(), "audio.payload", "!!"), "base64"),
        (changed(audio_input(), "audio.payload", ""), "base64"),
        (changed(audio_input(), "audio.payload", ...), "payload: missing"),
        (changed(audio_input(), "audio.payload", base64.b64encode(b"x" * 160).decode()), "100 to 200 ms"),
    ],
)
def test_routing_messages_refused(message: Json | str | bytes, what: str) -> None:
    with pytest.raises(BadMessage, match=what):
        StreamChecker("routing").check(message if isinstance(message, str | bytes) else json.dumps(message))


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"timestamp_ms": 100}, "sequence: customer had 0"), ({"sequence": 1, "timestamp_ms": 50}, "overlap")],
)
def test_order_within_a_speaker(changes: Json, what: str) -> None:
    checker = StreamChecker("routing")
    checker.check(json.dumps(audio_input()))
    with pytest.raises(BadMessage, match=what):
        checker.check(json.dumps(audio_input(**changes)))


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (audio_input(), "not in the provider contract"),
        ({"type": "session.end"}, "not in the provider contract"),
        ({"type": "control", "action": "stop"}, "action: expected"),
        (audio(encoding="opus"), "encoding: expected"),
        (audio(sample_rate=44100), "sample_rate: expected"),
        (audio(channels=3), "channels: expected"),
        (audio(channels=2, speaker="agent"), "two speakers"),
        (audio(data=base64.b64encode(b"x" * 3201).decode()), "odd number"),
        (audio(channels=2, data=base64.b64encode(b"x" * 3202).decode()), "whole frames"),
        (audio(sequence=1), "sequence: unknown"),
    ],
)
def test_provider_messages_refused(message: Json, what: str) -> None:
    with pytest.raises(BadMessage, match=what):
        StreamChecker("provider").check(json.dumps(message))


def test_a_line_keeps_its_format() -> None:
    checker = StreamChecker("provider", None)
    checker.check(json.dumps(audio(speaker="agent")))
    with pytest.raises(BadMessage, match="format of agent"):
        checker.check(json.dumps(audio(speaker="agent", sample_rate=8000)))


# --- G.711


def test_g711_known_values_and_round_trip() -> None:
    assert g711.ulaw_decode(b"\xff\x7f\x00\x80").tolist() == [0, 0, -32124, 32124]
    assert g711.alaw_decode(b"\xd5\x55\x2a\xaa").tolist() == [8, -8, -32256, 32256]
    assert g711.ulaw_encode(np.array([0, 32767, -32768], np.int16)) == b"\xff\x80\x00"
    assert g711.alaw_encode(np.array([0, 32767, -32768], np.int16)) == b"\xd5\xaa\x2a"
    every = bytes(range(256))
    assert g711.alaw_encode(g711.alaw_decode(every)) == every
    assert g711.ulaw_encode(g711.ulaw_decode(every)).replace(b"\xff", b"\x7f", 1) == every
