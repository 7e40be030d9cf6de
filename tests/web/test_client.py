"""The command line's side: what it shows, and one clear line for everything that can go wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr
from rich.console import Console

from kallglot_ari.calls.model import CallView
from kallglot_ari.errors import StoreError
from kallglot_ari.settings import Settings, WebSettings
from kallglot_ari.web import client
from tests.web.conftest import TOKEN, Make, Site
from tests.web.fakes import a_call

pytestmark = pytest.mark.real_time


def settings_of(port: int, token: str = "") -> Settings:
    return Settings(web=WebSettings(port=port, token=SecretStr(token)))


def port_of(site: Site) -> int:
    return int(site.server.url.rsplit(":", 1)[1])


@pytest.fixture
async def site(make_site: Make, capsys: pytest.CaptureFixture[str]) -> Site:
    found = await make_site()
    capsys.readouterr()  # the log of the start
    return found


async def run(command: Callable[..., int], *arguments: Any, **options: Any) -> int:
    """The functions run a loop of their own, so they go to a thread here."""
    return await asyncio.to_thread(command, *arguments, **options)


async def test_the_table(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(client.run_calls, settings_of(port_of(site))) == 0
    out = capsys.readouterr().out
    for words in ("c1", "active", "de → en", "customer (up)", "0.2 %"):
        assert words in out


async def test_a_call_is_one_line_where_there_is_no_terminal(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = a_call("kg-a-host-of-ours1-0123456789")
    call.degraded = "no session: the API does not take the key; check kallglot.api_key"
    site.control.live = {call.id: call}
    monkeypatch.delenv("COLUMNS", raising=False)
    assert await run(client.run_calls, settings_of(port_of(site))) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if call.id in line)
    assert "customer (up), agent (up)" in line
    assert line.rstrip().endswith(call.degraded)
    monkeypatch.setenv("COLUMNS", "80")
    assert await run(client.run_calls, settings_of(port_of(site))) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


async def test_json_is_the_apis(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(client.run_calls, settings_of(port_of(site)), as_json=True) == 0
    assert orjson.loads(capsys.readouterr().out)["calls"][0]["id"] == "c1"


async def test_every_live_call_is_shown_and_ended_ones_among_the_newest(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(150):
        call = a_call(f"live-{number:03}")
        site.control.live[call.id] = call
    assert await run(client.run_calls, settings_of(port_of(site)), as_json=True) == 0
    shown = [call["id"] for call in orjson.loads(capsys.readouterr().out)["calls"]]
    assert len(shown) == len(set(shown))
    assert {f"live-{number:03}" for number in range(150)} <= set(shown)
    assert await run(client.run_calls, settings_of(port_of(site))) == 0
    assert "151 live" in capsys.readouterr().out


async def test_live_calls_are_shown_though_the_database_is_away(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(**_: object) -> list[CallView]:
        raise StoreError("store.url: PostgreSQL is away")

    monkeypatch.setattr(site.store, "list_calls", away)
    assert await run(client.run_calls, settings_of(port_of(site))) == 0
    out, err = capsys.readouterr()
    assert "c1" in out
    (line,) = [line for line in err.splitlines() if line.startswith("kallglot-ari:")]
    assert line.startswith("kallglot-ari: only live calls are shown: ")


async def test_events_as_json_lines_until_the_service_stops(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    watching = asyncio.get_running_loop().run_in_executor(
        None, lambda: client.run_calls(settings_of(port_of(site)), watch=True, as_json=True)
    )
    while not site.hub.readers:
        await asyncio.sleep(0.01)
    site.hub.publish("call.active", "c1", {"n": 1})
    await site.server.stop()
    assert await watching == 0
    lines = capsys.readouterr().out.splitlines()
    assert [orjson.loads(line)["type"] for line in lines] == ["call.active"]


async def test_watching_ends_with_one_line_when_the_service_stops(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "REFRESH_SECONDS", 0.02)
    watching = asyncio.get_running_loop().run_in_executor(
        None, lambda: client.run_calls(settings_of(port_of(site)), watch=True)
    )
    await asyncio.sleep(0.2)
    shown = capsys.readouterr().out
    await site.server.stop()
    assert await watching == 1
    assert shown.count("\n") == 2  # no terminal: the table once, for nothing changes
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_hangup_and_transfer(make_site: Make, capsys: pytest.CaptureFixture[str]) -> None:
    site = await make_site(token=TOKEN)
    settings = settings_of(port_of(site), TOKEN)
    capsys.readouterr()
    assert await run(client.run_transfer, settings, "c1", "1002", party="agent") == 0
    assert await run(client.run_hangup, settings, "c1") == 0
    assert site.control.asked == [
        (
            "transfer",
            {"call_id": "c1", "party": "agent", "target": "1002", "mode": "cold", "language": "", "timeout": 30},
        ),
        ("hangup", {"call_id": "c1"}),
    ]
    assert capsys.readouterr().out == "the agent is transferred to 1002\ncall c1 is being hung up\n"


@pytest.mark.parametrize(
    ("command", "status", "line"),
    [
        (lambda s: client.run_hangup(s, "nobody"), 1, "there is no call 'nobody'"),
        (lambda s: client.run_hangup(s, "../../x y"), 1, "there is no call '../../x y'"),
        (lambda s: client.run_transfer(s, "c1", "a b"), 2, "target: expected an extension"),
        (lambda s: client.run_transfer(s, "c1", "1002", party="nobody"), 2, "party: expected one of customer, agent"),
    ],
)
async def test_arguments_that_cannot_be_used(
    site: Site, capsys: pytest.CaptureFixture[str], command: Callable[[Settings], int], status: int, line: str
) -> None:
    assert await run(command, settings_of(port_of(site))) == status
    err = capsys.readouterr().err
    assert err.startswith(f"kallglot-ari: {line}")
    assert len(err.splitlines()) == 1


async def test_a_wrong_token(make_site: Make, capsys: pytest.CaptureFixture[str]) -> None:
    site = await make_site(token=TOKEN)
    for token in ("", "wrong-token"):
        for watch in (False, True):
            assert await run(client.run_calls, settings_of(port_of(site), token), watch=watch, as_json=watch) == 1
            err = capsys.readouterr().err
            assert (
                err == "kallglot-ari: web.token: the service does not take it; expected the one it was started with\n"
            )


def test_no_service(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for options in ({}, {"watch": True}, {"watch": True, "as_json": True}):
            assert client.run_calls(settings_of(port), **options) == 1
            err = capsys.readouterr().err
            assert err.startswith(f"kallglot-ari: no service at http://127.0.0.1:{port}: start it with")
            assert len(err.splitlines()) == 1


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_another_service_on_the_port(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<h1>It works</h1>", status=status)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        assert await run(client.run_calls, settings_of(runner.addresses[0][1])) == 1
        assert "is it kallglot-ari?" in capsys.readouterr().err
    finally:
        await runner.cleanup()


async def test_a_service_that_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert await run(client.run_calls, settings_of(silent.getsockname()[1])) == 1
    assert "did not answer within 0.1 s" in capsys.readouterr().err


def test_the_table_of_calls_in_every_state() -> None:
    now = datetime(2026, 1, 1, 14, 0, 5, tzinfo=UTC)
    calls = [
        a_call("a", "ended", ended_at=datetime(2026, 1, 1, 12, 1, 1, tzinfo=UTC), end_reason="timeout").as_json(),
        a_call("b", "active", degraded="[bold]stream\x1b[2J lost", legs=[]).as_json(),
    ]
    console = Console(width=200, record=True)
    console.print(client.table(calls, now))
    text = console.export_text()
    assert "1:01" in text
    assert "2:00:05" in text
    assert "timeout" in text
    assert "[bold]stream\\x1b[2J lost" in text, "what comes from outside is no markup, and commands no terminal"
    console.print(client.table([], now))
    assert "no calls" in console.export_text()


@pytest.mark.parametrize(("width", "columns"), [(40, 3), (50, 4), (80, 6), (100, 8)])
def test_on_a_narrow_terminal_nothing_is_cut_into_single_letters(width: int, columns: int) -> None:
    call = a_call("kg-host1234-0123456789").as_json()
    console = Console(width=width, record=True)
    console.print(client.table([call], datetime(2026, 1, 1, 14, 0, 5, tzinfo=UTC), width))
    heads, *lines = console.export_text().splitlines()
    assert len(heads.split()) == columns
    assert call["id"] in lines[0]
    assert "active" in lines[0]
    assert len(lines) <= 2


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("localhost", "http://localhost:1"),
    ],
)
async def test_where_it_looks_for_the_service(bind: str, url: str) -> None:
    async with client.Client(Settings(web=WebSettings(bind=bind, port=1, token=SecretStr("t")))) as found:
        assert found.url == url
