"""HEP packets, and what of a SIP message is written down."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.pbx.hep import SipMessage, parse, without_secrets

INVITE = "INVITE sip:sess_1@127.0.0.1:5061;transport=tls SIP/2.0\r\nVia: SIP/2.0/TLS a\r\nCall-ID: abc@x\r\n\r\nv=0\r\n"


def chunk(kind: int, data: bytes, vendor: int = 0) -> bytes:
    return struct.pack("!HHH", vendor, kind, len(data) + 6) + data


def packet(text: str = INVITE, *, kind: int = 1, ipv6: bool = False, more: bytes = b"") -> bytes:
    hosts = (
        (chunk(5, bytes(15) + b"\1") + chunk(6, bytes(15) + b"\2"))
        if ipv6
        else chunk(3, b"\x7f\0\0\1") + chunk(4, b"\x0a\0\0\2")
    )
    body = (
        hosts + chunk(7, struct.pack("!H", 5060)) + chunk(8, struct.pack("!H", 5061)) + chunk(9, struct.pack("!I", 100))
    )
    body += chunk(10, struct.pack("!I", 500_000)) + chunk(11, bytes([kind])) + more + chunk(15, text.encode())
    return b"HEP3" + struct.pack("!H", len(body) + 6) + body


def test_what_lies_behind_a_packet_is_none_of_it() -> None:
    found = parse(packet() + chunk(15, b"BYE sip:x SIP/2.0"))
    assert found is not None
    assert found.text == INVITE


def test_a_message_of_an_unknown_address_is_written_down_all_the_same() -> None:
    body = chunk(3, b"\x7f\0\0") + chunk(7, struct.pack("!H", 5060)) + chunk(11, b"\1") + chunk(15, INVITE.encode())
    found = parse(b"HEP3" + struct.pack("!H", len(body) + 6) + body)
    assert found == SipMessage(0.0, "?:5060", "?:0", INVITE)


def test_a_message() -> None:
    found = parse(packet())
    assert found == SipMessage(100.5, "127.0.0.1:5060", "10.0.0.2:5061", INVITE)
    assert (found.call_id, found.request_uri) == ("abc@x", "sip:sess_1@127.0.0.1:5061;transport=tls")
    found = parse(packet("SIP/2.0 200 OK\r\ni: short\r\n\r\n", ipv6=True, more=chunk(15, b"other", vendor=7)))
    assert found is not None
    assert (found.source, found.call_id, found.request_uri) == ("[::1]:5060", "short", "")


@pytest.mark.parametrize(
    "data", [b"", b"HEP3", b"HEP2xxxx", packet(kind=5), packet()[:-3], packet()[:30], b"HEP3\0\x0c\0\0\0\1\0\0"]
)
def test_what_is_none(data: bytes) -> None:
    assert parse(data) is None


@pytest.mark.parametrize("kind", [9, 10])
@pytest.mark.parametrize("number", [b"", b"\xff" * 5, b"\xff" * 600])
def test_a_time_that_is_none(kind: int, number: bytes) -> None:
    """No clock has it, and nobody could write it down."""
    found = parse(packet(more=chunk(kind, number)))
    assert found is not None
    assert found.at == (0.5 if kind == 9 else 100.0)
    assert found.call_id == "abc@x"


def test_of_a_message_longer_than_any_the_beginning_is_kept() -> None:
    found = parse(packet(INVITE + "x" * 50_000))
    assert found is not None
    assert len(found.text) == 16_384
    assert found.call_id == "abc@x"


@given(st.binary(max_size=200).map(lambda tail: b"HEP3" + tail) | st.binary(max_size=50))
def test_any_bytes_are_a_message_or_nothing(data: bytes) -> None:
    found = parse(data)
    assert found is None or isinstance(found.call_id, str)


def test_no_secret_is_left() -> None:
    text = (
        "INVITE sip:x@y SIP/2.0\r\n"
        'Authorization: Digest username="me", realm="r", nonce="SECRET1",\r\n response="SECRET2"\r\n'
        'Proxy-Authorization : Digest response="SECRET3"\r\n'
        'WWW-Authenticate: Digest nonce="SECRET4"\r\nProxy-Authenticate: Digest nonce="SECRET5"\r\n'
        "From: <sip:me@y>\r\n\r\n"
        "v=0\r\nk=clear:SECRET6\r\na=ice-pwd:SECRET7\r\n"
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:SECRET8|2^20|1:4\r\na=rtpmap:0 PCMU/8000\r\n"
    )
    left = without_secrets(text)
    assert "SECRET" not in left
    assert "Authorization: Digest [hidden]\r\n" in left
    assert "AES_CM_128_HMAC_SHA1_80 inline:[hidden]|2^20|1:4\r\na=rtpmap:0 PCMU/8000\r\n" in left
    assert "From: <sip:me@y>" in left
