"""Packets: what goes in comes out, and every way to be too short has its message."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kallglot_ari.errors import MediaError
from kallglot_ari.rtp.packet import RtpPacket

PLAIN = RtpPacket(payload_type=0, sequence=1, timestamp=2, ssrc=3, payload=b"abcd")

packets = st.builds(
    RtpPacket,
    payload_type=st.integers(0, 63),  # 64 to 95 with the marker look like RTCP
    sequence=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFFFFFF),
    ssrc=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=200),
    marker=st.booleans(),
    csrc=st.lists(st.integers(0, 0xFFFFFFFF), max_size=15).map(tuple),
    extension=st.none()
    | st.tuples(st.integers(0, 0xFFFF), st.integers(0, 8).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))),
)


@given(packets, st.integers(0, 255))
@example(RtpPacket(0, 0, 0, 0, b""), 255)
@example(RtpPacket(0, 0, 0, 0, b"", extension=(0xBEDE, b"")), 0)
def test_pack_and_parse(packet: RtpPacket, padding: int) -> None:
    assert RtpPacket.parse(packet.pack(padding=padding)) == packet


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(MediaError):
        packet = RtpPacket.parse(data)
        assert len(packet.payload) <= len(data) - 12


@given(packets)
def test_every_cut_is_noticed_or_shortens_the_payload(packet: RtpPacket) -> None:
    data = packet.pack()
    for size in range(len(data)):
        with contextlib.suppress(MediaError):
            assert len(RtpPacket.parse(data[:size]).payload) < len(packet.payload)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "RTP header: expected at least 12 bytes, found 0"),
        (PLAIN.pack()[:11], "RTP header: expected at least 12 bytes, found 11"),
        (b"\x40" + PLAIN.pack()[1:], "RTP version: expected 2, found 1"),
        (b"\x80\xc8" + PLAIN.pack()[2:], "RTP: expected an RTP packet, found RTCP of type 200"),
        (b"\x82" + PLAIN.pack()[1:], "RTP CSRC list: expected 8 bytes, found 4"),
        (b"\x90" + PLAIN.pack()[1:12], "RTP extension header: expected 4 bytes, found 0"),
        (b"\x90" + PLAIN.pack()[1:12] + b"\0\0\0\2abcd", "RTP extension: expected 8 bytes, found 4"),
        (b"\xa0" + PLAIN.pack()[1:12], "RTP padding: expected 1 to 0 bytes, found 0"),
        (b"\xa0" + PLAIN.pack()[1:12] + b"ab\0", "RTP padding: expected 1 to 3 bytes, found 0"),
        (b"\xa0" + PLAIN.pack()[1:12] + b"ab\4", "RTP padding: expected 1 to 3 bytes, found 4"),
    ],
)
def test_exact_messages(data: bytes, message: str) -> None:
    with pytest.raises(MediaError) as caught:
        RtpPacket.parse(data)
    assert str(caught.value) == message


def test_known_bytes() -> None:
    assert PLAIN.pack() == bytes.fromhex("80000001 00000002 00000003") + b"abcd"
    marked = RtpPacket(8, 0x1FFFF, 1 << 32, 3, b"", marker=True)
    assert marked.pack() == bytes.fromhex("8088ffff 00000000 00000003")


@pytest.mark.parametrize(
    ("packet", "padding", "message"),
    [
        (RtpPacket(128, 0, 0, 0, b""), 0, "payload type: expected 0 to 127, found 128"),
        (RtpPacket(0, 0, 0, 0, b"", csrc=(1,) * 16), 0, "expected at most 15 entries, found 16"),
        (RtpPacket(0, 0, 0, 0, b"", extension=(1, b"abc")), 0, "expected a multiple of 4 bytes, found 3"),
        (PLAIN, 256, "expected 0 to 255 bytes, found 256"),
    ],
)
def test_what_has_no_room_is_refused(packet: RtpPacket, padding: int, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        packet.pack(padding=padding)
