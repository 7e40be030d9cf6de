"""Frames of ours are what aiohttp reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.helpers import websocket_mask
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.websocket.frames import BINARY, TEXT, client_frame, header, mask_slowly, server_frame
from tests.websocket.test_shortcut import Inner


@pytest.mark.parametrize("frame", [client_frame, server_frame])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 1100, 65_535, 65_536, 100_001])
def test_a_frame_of_ours_is_what_the_other_end_reads(frame: Callable[[int, bytes], bytes], size: int) -> None:
    said = ("ä" * (size // 2) + "x" * (size % 2)).encode()
    inner = Inner()
    inner.data_received(frame(TEXT, said) + frame(BINARY, said) + frame(TEXT, b"next"))
    text, binary = WSMsgType.TEXT.name, WSMsgType.BINARY.name
    assert inner.take() == [(text, said.decode()), (binary, said), (text, "next")]


@pytest.mark.parametrize("frame", [client_frame, server_frame])
@given(size=st.integers(0, 70_000), at=st.integers(0, 3))
def test_a_header_says_where_its_frame_ends(frame: Callable[[int, bytes], bytes], size: int, at: int) -> None:
    data = bytes(at) + frame(BINARY, bytes(size))
    begin, length = header(data, at)
    assert (length, begin + length) == (size, len(data))
    for cut in range(at, begin):
        assert header(data[:cut], at)[0] > cut, "it is not all there"


def test_no_two_messages_of_a_client_have_one_mask() -> None:
    assert len({client_frame(TEXT, bytes(8)) for _ in range(100)}) == 100


@given(st.binary(min_size=4, max_size=4), st.binary(max_size=70))
def test_the_masks_are_the_same(mask: bytes, data: bytes) -> None:
    one, other = bytearray(data), bytearray(data)
    websocket_mask(mask, one)
    mask_slowly(mask, other)
    assert one == other
