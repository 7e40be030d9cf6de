"""The FastAGI server against clients that behave, and against those that do not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from kallglot_ari.agi import server as agi_server
from kallglot_ari.agi.protocol import set_variable
from kallglot_ari.agi.server import AgiServer, AgiSession, Script
from kallglot_ari.errors import AgiError, AgiGone, ListenError
from kallglot_ari.metrics import Metrics
from tests.turns import MOST_CALLS, busiest_turn, flooding

pytestmark = pytest.mark.real_time

HEADER = b"agi_network: yes\nagi_network_script: %s\nagi_channel: PJSIP/a-1\nagi_uniqueid: 1.1\n%s\n"


class Scripts:
    """Handlers for the tests, and what became of them."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.done = asyncio.Event()

    async def greet(self, session: AgiSession) -> None:
        await session.set_variable("HELLO", await session.get_variable("NAME"))

    async def wait(self, session: AgiSession) -> None:
        await session.wait_gone()
        self.outcomes.append("gone" if session.gone else "?")
        self.done.set()

    async def slow(self, _: AgiSession) -> None:
        await asyncio.Event().wait()

    async def fault(self, _: AgiSession) -> None:
        raise ZeroDivisionError("a fault of ours")

    async def refused(self, _: AgiSession) -> None:
        raise AgiError("not today")

    def table(self) -> dict[str, Script]:
        return {
            "greet": Script(self.greet),
            "wait": Script(self.wait),
            "slow": Script(self.slow, 0.05),
            "fault": Script(self.fault),
            "refused": Script(self.refused),
        }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def scripts() -> Scripts:
    return Scripts()


@pytest.fixture
async def server(metrics: Metrics, scripts: Scripts) -> AsyncIterator[AgiServer]:
    server = AgiServer("127.0.0.1", 0, scripts.table(), metrics, header_seconds=0.5)
    await server.start()
    yield server
    await server.stop(0.1)
    assert server.connections == 0


def count(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("kallglot_agi_requests_total", {"reason": reason}) or 0


async def until(metrics: Metrics, reason: str, value: float = 1) -> None:
    async with asyncio.timeout(5):
        while count(metrics, reason) < value:
            await asyncio.sleep(0.005)


async def talk(port: int, data: bytes, *, eof: bool = False) -> bytes:
    """Send `data`, and return what comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if eof:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def greet(port: int, name: bytes = b"Ada") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEADER % (b"greet", b""))
    assert await reader.readline() == b'GET FULL VARIABLE "${NAME}"\n'
    writer.write(b"200 result=1 (%s)\n" % name)
    line = await reader.readline()
    writer.write(b"200 result=1\n")
    assert await reader.read() == b""
    writer.close()
    return line


async def test_a_request_is_served(server: AgiServer, metrics: Metrics) -> None:
    assert await greet(server.port) == b'SET VARIABLE "HELLO" "Ada"\n'
    await until(metrics, "ok")


async def test_a_header_in_single_bytes(server: AgiServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for byte in HEADER % (b"greet", b""):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await reader.readline()).startswith(b"GET FULL VARIABLE")
    writer.close()


async def test_an_end_at_any_byte_is_survived(server: AgiServer, metrics: Metrics) -> None:
    header = HEADER % (b"greet", b"agi_arg_1: source=de\n")
    for end in range(len(header)):
        assert await talk(server.port, header[:end], eof=True) == b""
    await until(metrics, "gone", len(header))
    assert await greet(server.port) == b'SET VARIABLE "HELLO" "Ada"\n'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "malformed"),
        (b"\x00\xff\xfe\n" * 10, "malformed"),
        (b"\n", "malformed"),
        (b"x" * 10_000_000, "malformed"),
        (b"agi_x: y\n" * 100_000, "malformed"),
        (HEADER % (b"nothing", b""), "unknown_script"),
        (HEADER % (b"slow", b""), "timeout"),
        (HEADER % (b"fault", b""), "fault"),
        (HEADER % (b"refused", b""), "failed"),
        (b"", "timeout"),
        (b"agi_network: y", "timeout"),
    ],
)
async def test_bad_clients_are_closed_and_counted(
    server: AgiServer, metrics: Metrics, data: bytes, reason: str
) -> None:
    assert await talk(server.port, data) == b""
    await until(metrics, reason)
    assert await greet(server.port) == b'SET VARIABLE "HELLO" "Ada"\n'


async def test_bad_clients_do_not_hold_up_good_ones(server: AgiServer) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
    for index, (_, writer) in enumerate(silent):
        writer.write((b"", b"agi_net", os.urandom(200), b"x" * 100_000)[index % 4])
    started = asyncio.get_running_loop().time()
    assert await greet(server.port) == b'SET VARIABLE "HELLO" "Ada"\n'
    assert asyncio.get_running_loop().time() - started < 0.4
    for _, writer in silent:
        writer.close()


async def test_many_short_connections(server: AgiServer, metrics: Metrics) -> None:
    for _ in range(10):
        answers = await asyncio.gather(*(greet(server.port, b"n%d" % n) for n in range(100)))
        assert answers == [b'SET VARIABLE "HELLO" "n%d"\n' % n for n in range(100)]
    await until(metrics, "ok", 1000)
    assert server.connections <= 100


@pytest.mark.parametrize("how", ["HANGUP", "close", "with the header"])
async def test_a_hangup_is_seen(server: AgiServer, scripts: Scripts, how: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEADER % (b"wait", b"") + (b"HANGUP\n" if how == "with the header" else b""))
    if how == "HANGUP":
        writer.write(b"HANGUP\n")
    elif how == "close":
        writer.close()
    await asyncio.wait_for(scripts.done.wait(), 5)
    assert scripts.outcomes == ["gone"]
    writer.close()
    del reader


async def test_a_client_that_leaves_between_commands(server: AgiServer, metrics: Metrics) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEADER % (b"greet", b""))
    await reader.readline()
    writer.close()
    await until(metrics, "gone")


async def test_garbage_instead_of_a_reply(server: AgiServer, metrics: Metrics) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEADER % (b"greet", b""))
    await reader.readline()
    writer.write(b"y" * 20_000)
    await until(metrics, "gone")
    writer.close()


@pytest.mark.parametrize("then", [b"", b"200 result=1 (x)\n"])
async def test_a_caller_ends_no_header(server: AgiServer, metrics: Metrics, then: bytes) -> None:
    """A number may hold line ends: what looks like the end of the header is none when more of it follows."""
    injected = HEADER % (b"greet", b"agi_callerid: 1\nagi_arg_1: agent=Local/0900@out\n")
    assert await talk(server.port, injected + then + b"agi_calleridname: A\nagi_arg_1: source=de\n\n") == b""
    await until(metrics, "malformed")


async def test_a_header_that_goes_on_later_is_no_reply(server: AgiServer, metrics: Metrics) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEADER % (b"greet", b""))
    await reader.readline()
    writer.write(b"agi_calleridname: A\nagi_arg_1: source=de\n\n200 result=1 (x)\n")
    assert await reader.read() == b""
    await until(metrics, "gone")
    writer.close()


async def test_a_refused_variable_is_an_error(server: AgiServer, metrics: Metrics) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEADER % (b"greet", b""))
    await reader.readline()
    writer.write(b"200 result=0\n")
    assert await reader.readline() == b'SET VARIABLE "HELLO" ""\n'
    writer.write(b"511 Command Not Permitted\n")
    assert await reader.read() == b""
    await until(metrics, "failed")
    writer.close()


async def test_a_late_reply_is_not_taken_for_the_next_one(monkeypatch: pytest.MonkeyPatch, metrics: Metrics) -> None:
    monkeypatch.setattr(agi_server, "COMMAND_SECONDS", 0.05)
    seen: list[str] = []

    async def script(session: AgiSession) -> None:
        with pytest.raises(AgiError, match="expected a reply within"):
            await session.get_variable("A")
        seen.append(await session.get_variable("B"))

    server = AgiServer("127.0.0.1", 0, {"x": Script(script)}, metrics)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEADER % (b"x", b""))
    await reader.readline()
    await reader.readline()
    writer.write(b"200 result=1 (late)\n200 result=1 (right)\n")
    assert await reader.read() == b""
    assert seen == ["right"]
    writer.close()
    await server.stop()


async def test_no_command_on_a_closed_connection(metrics: Metrics) -> None:
    failures: list[type[Exception]] = []
    done = asyncio.Event()

    async def script(session: AgiSession) -> None:
        await session.wait_gone()
        await asyncio.sleep(0.05)
        try:
            await session.command(set_variable("A", "1"))
            await session.command(set_variable("A", "1"))
        except AgiError as error:
            failures.append(type(error))
        finally:
            done.set()

    server = AgiServer("127.0.0.1", 0, {"x": Script(script)}, metrics)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEADER % (b"x", b""))
    writer.transport.abort()
    await asyncio.wait_for(done.wait(), 7)
    assert failures == [AgiGone]
    await server.stop()
    del reader


async def test_too_many_connections_are_turned_away(
    monkeypatch: pytest.MonkeyPatch, server: AgiServer, metrics: Metrics
) -> None:
    monkeypatch.setattr(agi_server, "MAX_CONNECTIONS", 2)
    open_ones = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert await talk(server.port, HEADER % (b"greet", b"")) == b""
    assert count(metrics, "busy") == 1
    for _, writer in open_ones:
        writer.close()


async def test_a_port_in_use_is_one_clear_line(server: AgiServer, metrics: Metrics) -> None:
    second = AgiServer("127.0.0.1", server.port, {}, metrics)
    with pytest.raises(ListenError, match=rf"agi.port: cannot listen on 127.0.0.1:{server.port}"):
        await second.start()


async def test_stop_cuts_off_what_still_runs(metrics: Metrics, scripts: Scripts) -> None:
    server = AgiServer("127.0.0.1", 0, scripts.table(), metrics)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(HEADER % (b"wait", b""))
    await asyncio.sleep(0.05)
    await server.stop(0.05)
    assert await reader.read() == b""
    assert server.connections == 0
    writer.close()


async def test_only_the_addresses_that_may_are_let_in(metrics: Metrics, scripts: Scripts) -> None:
    for allowed, welcome in ((("10.0.0.0/8",), False), (("10.0.0.0/8", "127.0.0.1"), True)):
        server = AgiServer("127.0.0.1", 0, scripts.table(), metrics, allowed_ips=allowed)
        await server.start()
        try:
            if welcome:
                await greet(server.port)
            else:
                assert await talk(server.port, HEADER % (b"greet", b"")) == b""
                await until(metrics, "forbidden")
        finally:
            await server.stop(0.1)


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (HEADER % (b"wait", b""), b"\n" * 500_000),
        (HEADER % (b"wait", b""), b"200 result=1\n" * 50_000),
        (b"", b"".join(b"agi_%d:\n" % number for number in range(7_000))),
    ],
    ids=["lines of nothing", "answers to nothing", "header"],
)
async def test_a_flood_leaves_calls_their_turn(server: AgiServer, first: bytes, again: bytes) -> None:
    with flooding(server.port, first, again):
        assert (await busiest_turn(0.5)).calls < MOST_CALLS
    assert (await greet(server.port)).startswith(b"SET VARIABLE")
