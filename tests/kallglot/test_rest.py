from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls.model import SessionRequest
from kallglot_ari.errors import (
    ApiConflict,
    ApiCreditsExhausted,
    ApiError,
    ApiInvalid,
    ApiNotFound,
    ApiRateLimited,
    ApiUnauthorized,
    ApiUnavailable,
)
from kallglot_ari.kallglot import rest
from kallglot_ari.settings import Endpoint, KallglotSettings, TrunkSettings

NOW = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)
ROUTING = KallglotSettings()
PROVIDER = KallglotSettings(contract="provider")


def test_routing_body_is_what_the_reference_shows() -> None:
    request = SessionRequest(
        source_language="de",
        target_language="en",
        metadata={"a": "b"},
        from_uri="sip:1001@pbx.example",
        direction="outbound",
    )
    assert rest.create_body(request, ROUTING, TrunkSettings()) == {
        "mode": "bidirectional_translation",
        "source_language": "de",
        "target_language": "en",
        "audio": {"sample_rate": 8000, "encoding": "mulaw", "channels": 1},
        "metadata": {"a": "b"},
        "routing": {"type": "sip", "sip": {"from_uri": "sip:1001@pbx.example", "headers": {}}, "direction": "outbound"},
    }


def test_a_routing_body_never_has_a_provider_object_and_always_one_method() -> None:
    for request in (SessionRequest(), SessionRequest(trunk=True, participants=5)):
        body = rest.create_body(request, ROUTING, TrunkSettings())
        assert "provider" not in body
        assert "conference" not in body
        assert [key for key in body if key in ("routing", "phone_number", "connection_id")] == ["routing"]


def test_auto_languages_are_left_out_and_an_unknown_caller_is_anonymous() -> None:
    body = rest.create_body(SessionRequest(source_language="auto", target_language="auto"), ROUTING, TrunkSettings())
    assert not {"source_language", "target_language"} & set(body)
    assert body["routing"]["sip"]["from_uri"] == "sip:anonymous@anonymous.invalid"


def test_provider_body_of_a_trunk_session_has_every_field_of_the_guide() -> None:
    trunk = TrunkSettings(
        codecs=("opus", "PCMU"),
        endpoints=(Endpoint(uri="sip-eu.kallglot.com", priority=2), Endpoint(uri="sip.kallglot.com", priority=1)),
        refer_notify_url="https://pbx.example/webhooks/sip/refer",
        sip_trace=True,
    )
    body = rest.create_body(SessionRequest(trunk=True, participants=4), PROVIDER, trunk)
    assert body["provider"] == {
        "type": "sip",
        "transport": "tls",
        "codecs": ["opus", "PCMU"],
        "tls": {"verify_certificate": True, "min_version": "TLSv1.2"},
        "srtp": {"enabled": True, "crypto_suites": ["AES_CM_128_HMAC_SHA1_80"]},
        "refer": {"enabled": True, "notify_url": "https://pbx.example/webhooks/sip/refer"},
        "endpoints": [{"uri": "sip.kallglot.com", "priority": 1}, {"uri": "sip-eu.kallglot.com", "priority": 2}],
        "failover": {"enabled": True, "timeout": 3000},
        "debug": {"sip_trace": True, "pcap_capture": False},
    }
    assert body["conference"] == {"enabled": True, "max_participants": 4}
    assert "routing" not in body
    assert "audio" not in body


def test_provider_body_of_a_stream_session_says_what_the_stream_carries() -> None:
    settings = KallglotSettings(contract="provider", provider_speakers="channels", recording=True)
    body = rest.create_body(SessionRequest(), settings, TrunkSettings())
    assert body["provider"]["type"] == "sip", "the older contract expects the object in every request"
    assert body["audio"] == {"sample_rate": 16000, "encoding": "pcm_16", "channels": 2}
    assert body["recording"] == {"enabled": True, "channels": "dual"}


CREATED: dict[str, Any] = {
    "id": "sess_1",
    "mode": "ai_agent",
    "stream": {
        "url": "wss://api.kallglot.com/v1/sessions/sess_1/connect?token=kst_a%2Fb",
        "token": "kst_a/b",
        "expires_at": "2026-11-24T05:05:00Z",
    },
    "created_at": 1795496400,
}


def test_session_is_read_and_its_token_kept_out_of_what_is_shown() -> None:
    session = rest.parse_session(CREATED, base_url="https://api.example/v1", streamed=True)
    assert (session.id, session.mode, session.base_url) == ("sess_1", "ai_agent", "https://api.example/v1")
    assert session.stream_url == "wss://api.kallglot.com/v1/sessions/sess_1/connect"
    assert session.stream_token == "kst_a/b"
    assert session.expires_at == datetime(2026, 11, 24, 5, 5, tzinfo=UTC)
    assert session.created_at is not None
    assert "kst_" not in repr(session)


def test_a_token_only_in_the_url_is_found_and_other_parameters_stay() -> None:
    data = CREATED | {"stream": {"url": "wss://h/c?region=eu&token=kst_x&v=2"}}
    session = rest.parse_session(data, base_url="", streamed=True)
    assert (session.stream_url, session.stream_token) == ("wss://h/c?region=eu&v=2", "kst_x")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": None}, "id"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"id": "../x"}, "id"),
        ({"id": "sess 1"}, "id"),
        ({"id": "sess\r\nX"}, "id"),
        ({"id": "s" * 129}, "id"),
        ({"stream": None}, "stream.url"),
        ({"stream": []}, "stream.url"),
        ({"stream": "wss://x"}, "stream"),
        ({"stream": {"url": 1}}, "stream.url"),
        ({"stream": {"url": "wss://x", "token": 1}}, "stream.token"),
    ],
)
def test_an_unusable_answer_names_the_field_and_is_not_retried(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError, match=f"{field}: expected") as caught:
        rest.parse_session(CREATED | change, base_url="", streamed=True)
    assert caught.value.code == "invalid_response"
    assert not caught.value.retryable


def test_a_trunk_session_needs_no_stream() -> None:
    assert rest.parse_session({"id": "s"}, base_url="", streamed=False).stream_url == ""


@pytest.mark.parametrize("value", ["yesterday", "", True, None, [], 1e300, float("nan"), "2026-13-01"])
def test_a_time_that_is_none_is_none(value: object) -> None:
    assert rest.parse_time(value) is None


def test_times_without_a_zone_are_utc() -> None:
    assert rest.parse_time("2026-01-01T00:00:00") == datetime(2026, 1, 1, tzinfo=UTC)
    assert rest.parse_time("2026-01-01T01:00:00+01:00") == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("Tue, 24 Nov 2026 05:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 04:00:00 GMT", 0.0),
        ("Tue, 24 Nov 2026 05:00:30 -0000", 30.0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("-1", None),
        ("soon", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 30, None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    assert rest.parse_retry_after(value, now=NOW) == expected


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable"),
    [
        (400, "invalid_json", ApiInvalid, False),
        (400, "idempotency_mismatch", ApiInvalid, False),
        (400, "idempotency_conflict", ApiConflict, True),
        (401, "invalid_api_key", ApiUnauthorized, False),
        (402, "insufficient_api_credits", ApiCreditsExhausted, False),
        (403, "organization_inactive", ApiUnauthorized, False),
        (404, "session_not_found", ApiNotFound, False),
        (408, "", ApiUnavailable, True),
        (409, "idempotency_conflict", ApiConflict, True),
        (409, "session_ended", ApiInvalid, False),
        (410, "gone", ApiNotFound, False),
        (422, "invalid_mode", ApiInvalid, False),
        (429, "rate_limit_exceeded", ApiRateLimited, True),
        (500, "", ApiUnavailable, True),
        (502, "sip_dial_failed", ApiUnavailable, True),
        (599, "", ApiUnavailable, True),
        (302, "", ApiError, False),
        (418, "", ApiError, False),
    ],
)
def test_errors_are_typed_by_status_and_code(status: int, code: str, kind: type[ApiError], retryable: bool) -> None:
    body = orjson.dumps({"error": {"type": "t", "code": code, "message": "why", "param": "p", "request_id": "req_1"}})
    error = rest.parse_error(status, body, now=NOW)
    assert type(error) is kind
    assert (error.status, error.code, error.request_id, error.param) == (status, code, "req_1", "p")
    assert error.retryable is retryable
    assert "why" in str(error)


def test_retry_after_comes_from_the_header_or_else_from_the_body() -> None:
    body = orjson.dumps({"error": {"code": "rate_limit_exceeded", "retry_after": 7}})
    assert rest.parse_error(429, body, retry_after="3", now=NOW).retry_after == 3
    assert rest.parse_error(429, body, retry_after="soon", now=NOW).retry_after == 7
    assert rest.parse_error(429, b"{}", now=NOW).retry_after is None
    for nonsense in (True, -1, "7", 1e12, None):
        body = orjson.dumps({"error": {"retry_after": nonsense}})
        assert rest.parse_error(429, body, now=NOW).retry_after is None


def test_a_long_message_is_cut() -> None:
    error = rest.parse_error(500, orjson.dumps({"error": {"message": "x" * 5000}}), now=NOW)
    assert len(str(error)) < 400


def test_what_is_logged_of_an_error_is_cut() -> None:
    long = "x" * 5000
    detail = {"message": "m", "code": long, "param": long, "request_id": long}
    error = rest.parse_error(422, orjson.dumps({"error": detail}), now=NOW)
    assert len(str(error)) < 400
    assert (len(error.code), len(error.request_id), len(error.param or "")) == (64, 128, 64)


def test_millions_of_values_are_not_read() -> None:
    body = b'{"a":[' + b"{}," * 200_000 + b"0]}"
    with pytest.raises(ApiUnavailable, match="at most 100000 values"):
        rest.parse_object(body)
    assert rest.parse_error(500, body, now=NOW).status == 500
    turns = [{"id": str(n), "speaker": "customer", "text": "a, b"} for n in range(10_000)]
    assert rest.parse_object(orjson.dumps({"turns": turns})) == {"turns": turns}


@given(
    st.integers(300, 599),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["error", "code", "message", "param", "retry_after"]), inner)
        ),
    ).map(orjson.dumps),
)
def test_no_body_breaks_the_error(status: int, body: bytes) -> None:
    error = rest.parse_error(status, body, now=NOW)
    assert error.status == status
    assert error.retry_after is None or error.retry_after >= 0


@given(
    st.dictionaries(
        st.sampled_from(["id", "stream", "mode", "created_at"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: st.dictionaries(st.sampled_from(["url", "token", "expires_at"]), inner),
        ),
    )
)
def test_no_answer_breaks_the_session(data: dict[str, Any]) -> None:
    with contextlib.suppress(ApiError):
        session = rest.parse_session(data, base_url="", streamed=True)
        assert session.id
        assert session.stream_url


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'"x"', b"1", b"{", b"\xff"])
def test_what_is_no_object_is_not_the_api(body: bytes) -> None:
    with pytest.raises(ApiUnavailable, match="expected a JSON object"):
        rest.parse_object(body, content_type="text/html")


def test_session_id_of() -> None:
    assert rest.session_id_of({"id": "sess_1"}) == "sess_1"
    assert rest.session_id_of({"id": "a/b"}) == ""
    assert rest.session_id_of({}) == ""
