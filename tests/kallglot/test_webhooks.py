from __future__ import annotations

import contextlib
import hashlib
import hmac

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.kallglot.webhooks import BadEvent, BadSignature, parse_event, receive, sign, verify

BODY = b'{"id":"evt_1","type":"session.ended","api_version":"v","created_at":"2026-11-24T05:00:00Z","data":{"id":"sess_1"}}'
NOW = 1_795_496_400
SECRET = "whsec_test"


def test_the_signature_is_the_references() -> None:
    digest = hmac.new(SECRET.encode(), f"{NOW}.".encode() + BODY, hashlib.sha256).hexdigest()
    assert sign(BODY, SECRET, at=NOW) == f"t={NOW},v1={digest}"


def test_a_signed_event_is_received() -> None:
    event = receive(BODY, {"Kallglot-Signature": sign(BODY, SECRET, at=NOW)}, SECRET, now=NOW + 299)
    assert (event.id, event.type, event.session_id, event.api_version) == ("evt_1", "session.ended", "sess_1", "v")
    assert event.created_at is not None


@pytest.mark.parametrize("off", [-300, 0, 300])
def test_within_five_minutes(off: int) -> None:
    assert verify(BODY, sign(BODY, SECRET, at=NOW), SECRET, now=NOW + off) == NOW


GOOD = sign(BODY, SECRET, at=NOW)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "missing"),
        ("", "missing"),
        ("v1=ab", "malformed"),
        (f"t={NOW}", "malformed"),
        (f"t=x{NOW},v1=ab", "malformed"),
        (f"t=-{NOW},v1=ab", "malformed"),
        ("t=1.5,v1=ab", "malformed"),
        ("t=٣,v1=ab", "malformed"),
        (f"t={NOW},{GOOD}", "malformed"),
        ("t=" + "9" * 5000 + ",v1=ab", "malformed"),
        (GOOD + ",v1=00" * 200, "malformed"),
        (f"t={NOW},v0=" + GOOD.split("v1=")[1], "malformed"),
        (f"t={NOW},v1=", "wrong"),
        (f"t={NOW},v1=é", "wrong"),
        (GOOD[:-1], "wrong"),
        (GOOD.upper().replace("T=", "t=").replace("V1=", "v1="), "wrong"),
        (sign(BODY, "other", at=NOW), "wrong"),
        (sign(BODY + b" ", SECRET, at=NOW), "wrong"),
        (sign(BODY, SECRET, at=NOW - 301), "stale"),
        (sign(BODY, SECRET, at=NOW + 301), "stale"),
        (GOOD.replace(f"t={NOW}", f"t={NOW + 1}"), "wrong"),
    ],
)
def test_anything_else_is_refused(header: str | None, reason: str) -> None:
    with pytest.raises(BadSignature) as caught:
        verify(BODY, header, SECRET, now=NOW)
    assert caught.value.reason == reason
    assert SECRET not in str(caught.value)


def test_one_of_several_signatures_and_secrets_is_enough() -> None:
    right = GOOD.split("v1=")[1]
    assert verify(BODY, f"t={NOW}, v1=00, v1={right}", ["old", SECRET], now=NOW) == NOW


@pytest.mark.parametrize("secrets", ["", [], ["", SECRET]])
def test_without_a_secret_nothing_is_accepted(secrets: str | list[str]) -> None:
    with pytest.raises(BadSignature) as caught:
        verify(BODY, sign(BODY, "", at=NOW), secrets, now=NOW)
    assert caught.value.reason == "no_secret"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"id":"","type":"t"}', b'{"id":1,"type":"t"}', b'{"id":"e","type":"t","data":[]}',
             orjson.dumps({"id": "e" * 129, "type": "t"})]
)  # fmt: skip
def test_a_body_that_is_no_event(body: bytes) -> None:
    with pytest.raises(BadEvent, match="expected"):
        parse_event(body)


def test_an_event_that_could_not_be_told_again_is_none() -> None:
    """Whoever listens to the events would stumble over it each time it comes back."""
    with pytest.raises(BadEvent, match="nested too deep"):
        parse_event(b'{"id": "e", "type": "t", "data": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}")
    assert parse_event(b'{"id": "e", "type": "t", "data": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}").id == "e"


def test_session_id_of_an_event() -> None:
    assert parse_event(b'{"id":"e","type":"transcript.ready","data":{"session_id":"s","id":"t"}}').session_id == "s"
    assert parse_event(b'{"id":"e","type":"recording.ready","data":{"id":"rec_1"}}').session_id == ""
    assert parse_event(b'{"id":"e","type":"session.ended","data":{"session_id":5}}').session_id == ""
    assert parse_event(b'{"id":"e","type":"x"}').data == {}


@given(st.binary(max_size=200), st.text(max_size=100))
def test_no_header_or_body_gets_in_or_breaks(body: bytes, header: str) -> None:
    with pytest.raises(BadSignature):
        verify(body, header, SECRET, now=NOW)
    with contextlib.suppress(BadEvent):
        assert parse_event(body).id
