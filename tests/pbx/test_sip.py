"""SIP as doctor speaks it; the digests are the RFCs' own examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.pbx import sip
from kallglot_ari.pbx.sip import Dialog
from kallglot_ari.settings import TrunkSettings


def dialog() -> Dialog:
    return Dialog("sip:x@h;transport=tls", "sip:u@d", "127.0.0.1:4711", "tls", "id@us", "tag1")


def test_requests_of_a_dialog() -> None:
    one = dialog()
    invite = one.request("INVITE", [("X-More", "yes")], "v=0\r\n").decode()
    assert invite.startswith(
        "INVITE sip:x@h;transport=tls SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:4711;rport;branch=z9hG4bKtag11\r\n"
    )
    assert "X-More: yes\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n" in invite
    one.to_tag = "theirs"
    ack, bye = one.request("ACK").decode(), one.request("BYE").decode()
    assert "CSeq: 1 ACK" in ack
    assert "branch=z9hG4bKtag11\r\n" in ack, "of a refused INVITE the ACK has the branch (RFC 3261 §17.1.1.3)"
    assert "To: <sip:x@h;transport=tls>;tag=theirs" in ack
    assert "CSeq: 2 BYE" in bye


def test_the_first_message_of_a_stream() -> None:
    one, two = b"SIP/2.0 200 OK\r\nl: 3\r\n\r\nabc", b"SIP/2.0 404 Not Found\r\n\r\n"
    for cut in range(len(one)):
        assert sip.complete(one[:cut]) == 0
    assert sip.complete(one + two) == len(one)
    assert sip.complete(two) == len(two)


@pytest.mark.parametrize("data", [b"x" * 70_000, b"SIP/2.0 200 OK\r\nContent-Length: 99999\r\n\r\n"])
def test_what_never_ends(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected a SIP message"):
        sip.complete(data)


def test_a_response() -> None:
    found = sip.parse(b"SIP/2.0 401 Unauthorized\r\nVia: a\r\nVIA: b\r\nTo: <sip:x>\r\n ;tag=9\r\n\r\nbody")
    assert found is not None
    assert (found.status, found.reason, found.body) == (401, "Unauthorized", "body")
    assert (found.headers["via"], found.header("to"), found.header("none")) == (["a", "b"], "<sip:x> ;tag=9", "")
    assert sip.parse(b"OPTIONS sip:x SIP/2.0\r\n\r\n") is None
    with pytest.raises(ValueError, match="expected a SIP response"):
        sip.parse(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    try:
        sip.complete(data)
        sip.parse(data)
    except ValueError:
        pass


def test_digest_of_rfc_2617() -> None:
    challenge = 'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc"'
    answer = sip.authorization(challenge, "GET", "/dir/index.html", "Mufasa", "Circle Of Life", cnonce="0a4f113b")
    assert answer is not None
    assert 'response="6629fae49393a05397450978507c4ef1"' in answer
    assert 'opaque="5ccc"' in answer
    assert 'qop=auth, nc=00000001, cnonce="0a4f113b"' in answer, "what the response was made with"


def test_digest_of_rfc_7616() -> None:
    challenge = (
        'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"'
    )
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    answer = sip.authorization(challenge, "GET", "/dir/index.html", "Mufasa", "Circle of Life", cnonce=cnonce)
    assert answer is not None
    assert 'response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"' in answer


def test_digest_without_qop() -> None:
    answer = sip.authorization('Digest realm="r", nonce="n"', "INVITE", "sip:x", "u", "p", cnonce="c")
    assert answer is not None
    assert "qop" not in answer


@pytest.mark.parametrize(
    "challenge", ["", "Basic realm=x", 'Basic nonce="n"', 'Digest realm="r"', 'Digest nonce="n", algorithm=AKAv1-MD5']
)
def test_challenges_that_cannot_be_answered(challenge: str) -> None:
    assert sip.authorization(challenge, "INVITE", "sip:x", "u", "p", cnonce="c") is None


def test_the_offer() -> None:
    text = sip.offer(TrunkSettings(codecs=("G722", "opus")), "10.0.0.1", 4000, "KEY")
    assert "m=audio 4000 RTP/SAVP 9 107\r\na=rtpmap:9 G722/8000\r\na=rtpmap:107 opus/48000/2\r\n" in text
    assert "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:KEY\r\n" in text
    plain = sip.offer(TrunkSettings(srtp=False, transport="udp"), "10.0.0.1", 4000, "KEY")
    assert "RTP/AVP 107 9 0 8\r\n" in plain
    assert "crypto" not in plain
