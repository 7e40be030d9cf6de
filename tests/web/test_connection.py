"""Connections that ask for nothing: they are dropped, and what asks is not."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from functools import partial

import pytest

from kallglot_ari.door import Door
from kallglot_ari.portions import Portions
from tests.turns import BOMB, MOST_CALLS, MOST_OCTETS, MOST_PIECES, busiest_turn, flooding, unpacked
from tests.web.conftest import TOKEN, Make

pytestmark = pytest.mark.real_time


async def opened(stack: AsyncExitStack, port: int, text: bytes = b"") -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.callback(writer.close)
    writer.write(text)
    await writer.drain()
    return reader


async def ended(reader: asyncio.StreamReader, within: float, rest: bool = False) -> bool:
    """:param rest: something may come before the end."""
    try:
        async with asyncio.timeout(within):
            return await reader.read() == b"" or rest
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Half: "])
async def test_who_asks_for_nothing_is_dropped(make_site: Make, sent: bytes) -> None:
    site = await make_site(ask_within=0.2)
    async with AsyncExitStack() as stack:
        silent = await opened(stack, site.server._port, sent)
        reading = await opened(stack, site.server._port, b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reading.readline()).startswith(b"HTTP/1.1 200")
        assert await ended(silent, 5)
        assert not await ended(reading, 0.3), "a stream of events has asked"
        assert (await site.ask("GET", "/healthz"))[0] == 200


async def test_of_many_who_ask_for_nothing_the_oldest_goes(make_site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kallglot_ari.web.server.Door", partial(Door, silent=3))
    site = await make_site()
    async with AsyncExitStack() as stack:
        silent = [await opened(stack, site.server._port) for _ in range(5)]
        assert [await ended(reader, 5 if number < 2 else 0.1) for number, reader in enumerate(silent)] == [
            True, True, False, False, False,
        ]  # fmt: skip
        assert (await site.ask("GET", "/healthz"))[0] == 200


async def test_no_more_connections_than_there_may_be(make_site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kallglot_ari.web.server.Door", partial(Door, most=2))
    site = await make_site()
    async with AsyncExitStack() as stack:
        first = [await opened(stack, site.server._port) for _ in range(2)]
        assert await ended(await opened(stack, site.server._port), 5)
        assert not await ended(first[0], 0.1)
    for _ in range(100):
        await asyncio.sleep(0.02)
        try:
            assert (await site.ask("GET", "/healthz"))[0] == 200
        except OSError:
            continue
        break
    else:
        raise AssertionError("their places were not given back")


@pytest.mark.parametrize("path", [b"/healthz", b"/api/v1/calls", b"/nothing", b"/"])
async def test_strangers_keep_nobody_out(make_site: Make, monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    """Whoever reaches the port may ask for what needs no token, or in vain, and keep the connection."""
    monkeypatch.setattr("kallglot_ari.web.server.Door", partial(Door, most=4))
    site = await make_site(token=TOKEN)
    asked = b" HTTP/1.1\r\nHost: a\r\n"
    async with AsyncExitStack() as stack:
        reading = await opened(
            stack, site.server._port, b"GET /api/v1/events" + asked + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        assert (await reading.readline()).startswith(b"HTTP/1.1 200")
        strangers = []
        for _ in range(5):
            strangers.append(await opened(stack, site.server._port, b"GET " + path + asked + b"\r\n"))
            assert (await strangers[-1].readline()).startswith(b"HTTP/1.1")
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert (await site.ask("GET", "/api/v1/calls", headers=allowed))[0] == 200
        left = [await ended(reader, 0.2, rest=True) for reader in strangers]
        assert left[:3] == [True, True, True], "the oldest leave first"
        assert not left[-1]
        assert not await ended(reading, 0.1), "who has shown a token stays"


async def test_head_of_the_event_stream_is_answered_at_once(make_site: Make) -> None:
    site = await make_site()
    async with AsyncExitStack() as stack:
        reader = await opened(
            stack, site.server._port, b"HEAD /api/v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        async with asyncio.timeout(5):
            head = await reader.read()
        assert head.startswith(b"HTTP/1.1 200")
        assert head.endswith(b"\r\n\r\n")
        assert len(site.server._streams) == 0


_SIGNED = (
    b"POST /webhooks/kallglot HTTP/1.1\r\nHost: a\r\nKallglot-Signature: t=1,v1=0\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (_SIGNED, b"1\r\na\r\n" * 50_000),
        (b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 5_000),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 50_000),
    ],
    ids=["chunks of one byte", "requests without a pause", "chunks nobody reads"],
)
async def test_a_flood_leaves_calls_their_turn(
    make_site: Make, first: bytes, again: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await make_site()
    held: list[int] = []
    hold = Portions.hold

    def noted(portions: Portions, data: bytes) -> None:
        hold(portions, data)
        held.append(len(portions._held))

    monkeypatch.setattr(Portions, "hold", noted)
    with flooding(site.server._port, first, again):
        most = await busiest_turn(0.3)
        assert most.calls < MOST_CALLS
        assert most.octets < MOST_OCTETS
    assert max(held) < 2_000_000, "what is held back does not grow"
    assert (await site.ask("GET", "/healthz"))[0] == 200


async def test_what_was_sent_in_one_go_is_answered_in_order(make_site: Make) -> None:
    site = await make_site()
    asked = b"".join(b"GET /nothing/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(500))
    async with AsyncExitStack() as stack:
        reader = await opened(stack, site.server._port, asked + b"GET /last HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 20)
    found = re.findall(rb"nothing at /(?:nothing/)?(\w+)", answer)
    assert found == [*(str(number).encode() for number in range(500)), b"last"]


@pytest.mark.parametrize("path", [b"/nothing", b"/healthz", b"/pbx/incoming", b"/webhooks/kallglot"])
async def test_what_nobody_reads_is_not_unpacked(make_site: Make, monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    pieces = unpacked(monkeypatch)
    site = await make_site(token=TOKEN)
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (path, len(BOMB))
    async with AsyncExitStack() as stack:
        reader = await opened(stack, site.server._port, head + BOMB)
        assert await ended(reader, 5, rest=True)
    assert len(pieces) < MOST_PIECES
    assert (await site.ask("GET", "/healthz"))[0] == 200


@pytest.mark.parametrize("path", [b"/healthz", b"/nothing"])
async def test_an_expectation_that_is_no_text_is_the_clients_fault(
    make_site: Make, caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    site = await make_site()
    async with AsyncExitStack() as stack:
        asked = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nExpect: \xff\r\n\r\n"
        reader = await opened(stack, site.server._port, asked)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 400")
    assert caplog.text == ""
