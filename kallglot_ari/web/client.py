"""The command line's side of the API: `kallglot-ari calls`, `hangup`, `transfer` against the running service.

Each function returns the exit status: 0, 1 for a failure, 2 for an argument that cannot be used; what went wrong is one line on stderr.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from rich.console import Console, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kallglot_ari import standard
from kallglot_ari.errors import KallglotAriError, UsageError
from kallglot_ari.settings import Settings
from kallglot_ari.web import tls

TIMEOUT = aiohttp.ClientTimeout(total=10, connect=3)
REFRESH_SECONDS = 1.0
MANY = 20
"""Calls whose number is told: a terminal may not show all of them."""
LIVE = "/api/v1/calls?active=true&limit=1000"
"""As many as the API tells: who is left out would seem to be gone."""
_STATES = {"setup": "cyan", "ringing": "yellow", "active": "green", "ending": "magenta", "ended": "dim"}


class ClientError(KallglotAriError):
    """The service did not do it; the message is what the user sees."""


class Client:
    """One connection to the service's API."""

    def __init__(self, settings: Settings) -> None:
        web = settings.web
        self.url = web.url()
        token = web.token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=tls.asking(web))
        self._session = aiohttp.ClientSession(headers=headers, timeout=TIMEOUT, connector=connector)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> Any:
        return await self._request("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return await self._request("POST", path, body)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """The answer's JSON. :raises ClientError: :raises UsageError: the service did not take an argument."""
        try:
            async with self._session.request(method, self.url + path, json=body) as response:
                data = await response.read()
                if response.status >= 400:
                    raise self._refusal(response.status, data)
        except TimeoutError:
            raise ClientError(f"the service at {self.url} did not answer within {TIMEOUT.total:g} s") from None
        except aiohttp.ClientError as error:
            raise self._unreachable(error) from None
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise ClientError(f"expected JSON from {self.url}, found something else; is it kallglot-ari?") from None

    async def events(self) -> AsyncIterator[str]:
        """The data of each server-sent event, as it comes."""
        forever = aiohttp.ClientTimeout(total=None, connect=3, sock_read=60)
        try:
            async with self._session.get(f"{self.url}/api/v1/events", timeout=forever) as response:
                if response.status >= 400:
                    raise self._refusal(response.status, await response.read())
                async for line in response.content:
                    if line.startswith(b"data: "):
                        yield line[6:].decode().rstrip("\n")
        except (TimeoutError, aiohttp.ClientError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: BaseException) -> ClientError:
        if isinstance(error, aiohttp.ClientConnectorError):
            return ClientError(
                f"no service at {self.url}: start it with `kallglot-ari serve`, or see [web] bind and port"
            )
        return ClientError(f"the connection to {self.url} was lost")

    def _refusal(self, status: int, data: bytes) -> KallglotAriError:
        try:
            message = str(orjson.loads(data)["error"]["message"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return ClientError(f"{self.url} answered with status {status}; is it kallglot-ari?")
        if status == 401:
            return ClientError("web.token: the service does not take it; expected the one it was started with")
        if status == 400:
            return UsageError(message)
        return ClientError(message)


def run_calls(settings: Settings, watch: bool = False, as_json: bool = False) -> int:
    """Show the calls: a table, or the API's JSON. With `watch`: the live ones until Ctrl-C, or every event as a JSON line."""
    if watch:
        return _run(_follow(settings) if as_json else _watch(settings))
    return _run(_show(settings, as_json))


def run_hangup(settings: Settings, call: str) -> int:
    """Hang up a call."""
    return _run(_post(settings, call, "hangup", {}, f"call {call} is being hung up"))


def run_transfer(
    settings: Settings, call: str, target: str, party: str = "agent", *, warm: bool = False, language: str = ""
) -> int:
    """Transfer a party of a call to an extension, a dial string or a place in the dialplan."""
    body = {"party": party, "target": target, "mode": "warm" if warm else "cold"}
    if language:
        body["language"] = language
    done = f"{party} talks to {target} first" if warm else f"the {party} is transferred to {target}"
    return _run(_post(settings, call, "transfer", body, done))


def run_call(settings: Settings, customer: str, agent: str, **options: Any) -> int:
    """Dial two parties and translate; prints the call's id."""
    return _run(_call(settings, {"customer": customer, "agent": agent, **{k: v for k, v in options.items() if v}}))


async def _call(settings: Settings, body: dict[str, Any]) -> None:
    async with Client(settings) as client:
        call = await client.post("/api/v1/calls", body)
    sys.stdout.write(call["id"] + "\n")


def _run(work: Awaitable[None]) -> int:
    async def main() -> None:
        await work

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        return 0
    except UsageError as error:
        sys.stderr.write(f"kallglot-ari: {error}\n")
        return 2
    except KallglotAriError as error:
        sys.stderr.write(f"kallglot-ari: {error}\n")
        return 1
    return 0


async def _post(settings: Settings, call: str, action: str, body: dict[str, Any], done: str) -> None:
    async with Client(settings) as client:
        await client.post(f"/api/v1/calls/{quote(call, safe='')}/{action}", body)
    sys.stdout.write(done + "\n")


async def _show(settings: Settings, as_json: bool) -> None:
    async with Client(settings) as client:
        found = await _newest(client)
    if as_json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        console = Console(width=standard.columns())
        console.print(table(found["calls"], datetime.now(UTC), console.width))


async def _newest(client: Client) -> dict[str, Any]:
    """All live calls, and ended ones as far as they are among the newest; without the database the live ones alone."""
    calls: list[dict[str, Any]] = (await client.get(LIVE))["calls"]
    live = {call["id"] for call in calls}
    try:
        newest = (await client.get("/api/v1/calls?limit=50"))["calls"]
    except ClientError as error:
        sys.stderr.write(f"kallglot-ari: only live calls are shown: {error}\n")
    else:
        calls += [call for call in newest if call["id"] not in live]
    return {"calls": sorted(calls, key=lambda call: str(call["started_at"]), reverse=True)}


async def _follow(settings: Settings) -> None:
    async with Client(settings) as client:
        async for event in client.events():
            sys.stdout.write(event + "\n")
            sys.stdout.flush()


async def _watch(settings: Settings) -> None:
    """The table in place on a terminal; elsewhere, where `Live` shows nothing before its end, once for each change."""
    console, states = Console(width=standard.columns()), None
    async with Client(settings) as client:
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            while True:
                calls = (await client.get(LIVE))["calls"]
                before, states = states, [(c["id"], c["state"], [leg["state"] for leg in c["legs"]]) for c in calls]
                if live is not None:
                    live.update(table(calls, datetime.now(UTC), console.width), refresh=True)
                elif states != before:
                    console.print(table(calls, datetime.now(UTC), console.width))
                await asyncio.sleep(REFRESH_SECONDS)


_COLUMNS = {"call": 0, "state": 0, "languages": 100, "parties": 64, "time": 0, "lost": 100, "mos": 64, "end": 50}
"""The table's columns, and how wide the terminal must be at least for each."""


def table(calls: list[dict[str, Any]], now: datetime, width: int = standard.ONE_LINE) -> Table:
    """The calls for people: one line each, with the loss and MOS of the worst leg; on a narrow terminal without what has no room."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    columns = [column for column, least in _COLUMNS.items() if width >= least]
    for column in columns:
        justify: JustifyMethod = "right" if column in ("time", "lost", "mos") else "left"
        # an id must stay in one piece to be copied into the next command
        result.add_column(column, justify=justify, overflow="fold", no_wrap=column == "call")
    for call in calls:
        legs = call["legs"]
        heard = [leg for leg in legs if leg["packets_received"]]
        lost = max((_lost(leg) for leg in heard), default=None)
        mos = min((leg["mos"] for leg in heard), default=None)
        shown: dict[str, RenderableType] = {
            "call": Text(call["id"]),
            "state": Text(call["state"], style=_STATES.get(call["state"], "")),
            "languages": Text(f"{call['source_language']} → {call['target_language']}"),
            "parties": Text(", ".join(f"{leg['speaker']} ({leg['state']})" for leg in legs)),
            "time": _duration(call, now),
            "lost": "" if lost is None else f"{lost:.1f} %",
            "mos": "" if mos is None else f"{mos:.2f}",
            "end": Text(standard.harmless(call["degraded"] or call["end_reason"] or "")),
        }
        result.add_row(*(shown[column] for column in columns))
    if len(calls) > MANY:
        result.caption = f"{sum(call['state'] != 'ended' for call in calls)} live"
    elif not calls:
        result.caption = "no calls"
    return result


def _lost(leg: dict[str, Any]) -> float:
    """Per cent; a packet that came too late is as lost to the ear as one that never came."""
    missed, received = int(leg["packets_lost"]) + int(leg["packets_late"]), int(leg["packets_received"])
    return 100 * missed / (received + int(leg["packets_lost"]))


def _duration(call: dict[str, Any], now: datetime) -> str:
    start = datetime.fromisoformat(call["answered_at"] or call["started_at"])
    end = datetime.fromisoformat(call["ended_at"]) if call["ended_at"] else now
    seconds = max(0, int((end - start).total_seconds()))
    return (
        f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        if seconds >= 3600
        else f"{seconds // 60}:{seconds % 60:02}"
    )
