"""The web server: which route there is, who may ask it, and how every answer looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from kallglot_ari import log
from kallglot_ari.calls.hub import Hub
from kallglot_ari.calls.interfaces import CallControl, CallStore
from kallglot_ari.clock import Clock
from kallglot_ari.door import ASK_WITHIN, Door, Port
from kallglot_ari.errors import KallglotAriError, cannot_listen_at
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import WebSettings
from kallglot_ari.web import tls
from kallglot_ari.web.api import CallsApi
from kallglot_ari.web.connection import HEADERS, LINGER, Connection
from kallglot_ari.web.events import HEARTBEAT_SECONDS, EventStreams
from kallglot_ari.web.guard import CHALLENGE, Access, Guard
from kallglot_ari.web.limits import RateLimit
from kallglot_ari.web.noise import ServerLog
from kallglot_ari.web.pbx import PbxApi
from kallglot_ari.web.ports import Health, PbxService, SessionEnded
from kallglot_ari.web.problem import Problem, json_response, of_http_error, of_service_error
from kallglot_ari.web.requests import WEBHOOK_MAX
from kallglot_ari.web.webhooks import Webhooks

STATIC = Path(__file__).parent / "static"
CHECK_SECONDS = 5.0
"""How long `/healthz` and `/readyz` wait for the service's own answer."""

_PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "dashboard.js": "text/javascript",
    "dashboard.css": "text/css",
    "subtitles.js": "text/javascript",
    "subtitles.css": "text/css",
    "icon.svg": "image/svg+xml",
}

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table of routes."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    access: Access
    limited: bool = False
    """Counts towards the client's rate limit."""
    query_token: bool = False
    """Takes the token as `?token=` too, for clients that can send no header."""


async def check(settings: WebSettings) -> None:
    """Whether a server could start: to be asked before anything is taken from another run that has the port.

    :raises ListenError: the address cannot be bound. :raises ConfigError: the certificate cannot be used.
    """
    tls.serving(settings)
    loop = asyncio.get_running_loop()
    try:
        tried = await loop.create_server(asyncio.Protocol, settings.bind, settings.port, start_serving=False)
    except OSError as error:
        raise cannot_listen_at("web", settings.bind, settings.port, error) from error
    tried.close()
    await tried.wait_closed()


class WebServer:
    """Everything over HTTP. Keyword arguments beyond the parts it serves:

    :param on_session_ended: told when Kallglot says that a session has ended.
    :param languages: source and target of a call that names none.
    :param keep_days: how long webhooks' data is kept; 0: for ever.
    :param rate: requests a second that one client may make to `/pbx` and `/webhooks`. :param burst: and how many at once.
    """

    def __init__(
        self,
        settings: WebSettings,
        *,
        control: CallControl,
        store: CallStore,
        hub: Hub,
        metrics: Metrics,
        health: Health,
        clock: Clock,
        pbx: PbxService | None = None,
        on_session_ended: SessionEnded | None = None,
        languages: tuple[str, str] = ("auto", "en"),
        rate: float = 100.0,
        burst: int = 200,
        heartbeat: float = HEARTBEAT_SECONDS,
        keep_days: float = 0,
        ask_within: float = ASK_WITHIN,
    ) -> None:
        self._settings = settings
        self._ask_within = ask_within
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._guard = Guard(settings)
        self._limit = RateLimit(rate, burst)
        self._streams = EventStreams(hub, heartbeat=heartbeat)
        self._calls = CallsApi(control, store, languages)
        self._pbx = PbxApi(pbx)
        self._webhooks = Webhooks(
            secret=settings.webhook_secret.get_secret_value(),
            control=control,
            store=store,
            hub=hub,
            pbx=self._pbx,
            clock=clock,
            counter=metrics.webhooks,
            keep_days=keep_days,
            on_session_ended=on_session_ended,
        )
        self._runner: web.AppRunner | None = None
        self._listening: Port | None = None
        self._port = settings.port
        self._table: dict[tuple[str, str], Route] = {}

    # --- life ---------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where this machine reaches the server; the port is known after the start."""
        return self._settings.url(self._port)

    async def start(self) -> None:
        """:raises ListenError: the address cannot be bound. :raises ConfigError: the certificate cannot be used."""
        tls_context = tls.serving(self._settings)
        runner = web.AppRunner(self.application(), shutdown_timeout=3)
        await runner.setup()
        loop, server = asyncio.get_running_loop(), runner.server
        assert server is not None
        options: dict[str, Any] = {
            "access_log": None, "keepalive_timeout": 30, "lingering_time": LINGER,
            "logger": ServerLog(self._metrics.http_malformed),
        }  # fmt: skip
        bind, port = self._settings.bind, self._settings.port
        door, listening = Door(full="web_connections_full", ask_within=self._ask_within), Port()
        try:
            await listening.open(
                lambda: Connection(server, loop=loop, door=door, **options), bind, port, tls=tls_context, backlog=128
            )
        except OSError as error:
            await runner.cleanup()
            raise cannot_listen_at("web", bind, port, error) from error
        self._runner, self._listening = runner, listening
        self._port = listening.number
        _log.info("web_listening", url=self.url)

    async def stop(self) -> None:
        """Close the streams, let requests under way finish, then close. Harmless when it does not run."""
        runner, self._runner = self._runner, None
        self._streams.close()
        if self._listening is not None:
            await self._listening.close()
        if runner is not None:
            await runner.cleanup()

    # --- routes -------------------------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        """Every route. What is not here does not exist, and is treated as `TOKEN`."""
        calls, pbx, hooks = self._calls, self._pbx, self._webhooks
        one = "/api/v1/calls/{id}"
        return [
            Route("GET", "/healthz", self._healthz, Access.OPEN),
            Route("GET", "/readyz", self._readyz, Access.PROBE),
            Route("GET", "/metrics", self._render_metrics, Access.PROBE),
            Route("GET", "/", self._page, Access.SHELL),
            Route("GET", "/subtitles", self._subtitles, Access.SHELL),
            Route("GET", "/static/{name}", self._file, Access.SHELL),
            Route("GET", "/api/v1/calls", calls.list_calls, Access.TOKEN),
            Route("POST", "/api/v1/calls", calls.originate, Access.TOKEN),
            Route("GET", one, calls.call, Access.TOKEN),
            Route("GET", f"{one}/transcript", calls.transcript, Access.TOKEN),
            Route("POST", f"{one}/hangup", calls.hangup, Access.TOKEN),
            Route("POST", f"{one}/transfer", calls.transfer, Access.TOKEN),
            Route("POST", f"{one}/dtmf", calls.dtmf, Access.TOKEN),
            Route("GET", f"{one}/pcap", calls.capture, Access.TOKEN),
            Route("POST", f"{one}/pcap", calls.start_capture, Access.TOKEN),
            Route("DELETE", f"{one}/pcap", calls.end_capture, Access.TOKEN),
            Route("POST", f"{one}/legs", calls.add_leg, Access.TOKEN),
            Route("POST", f"{one}/legs/{{speaker}}", calls.change_leg, Access.TOKEN),
            Route("DELETE", f"{one}/legs/{{speaker}}", calls.drop_leg, Access.TOKEN),
            Route("POST", f"{one}/supervise", calls.supervise, Access.SUPERVISOR),
            Route("POST", f"{one}/supervise/{{speaker}}", calls.change_supervision, Access.SUPERVISOR),
            Route("GET", "/api/v1/events", self._streams.events, Access.TOKEN),
            Route("POST", "/pbx/incoming", pbx.incoming, Access.TOKEN, limited=True),
            Route("POST", "/pbx/hangup", pbx.hangup, Access.TOKEN, limited=True),
            Route("POST", "/pbx/prepare", pbx.prepare, Access.TOKEN, limited=True),
            Route("POST", "/pbx/freeswitch", pbx.freeswitch, Access.TOKEN, limited=True),
            Route("POST", "/pbx/curri", pbx.curri, Access.TOKEN, limited=True, query_token=True),
            Route("HEAD", "/pbx/curri", pbx.curri_alive, Access.TOKEN, limited=True, query_token=True),
            Route("POST", "/webhooks/kallglot", hooks.kallglot, Access.SIGNED, limited=True),
            Route("POST", "/webhooks/sip/refer", hooks.refer, Access.SIGNED, limited=True),
        ]

    def application(self) -> web.Application:
        """The aiohttp application; for `start`, and for tests that look at its router."""
        app = web.Application(middlewares=[self._answers, self._admits], client_max_size=WEBHOOK_MAX)
        for route in self.routes():
            self._table[route.method, route.path] = route
            if route.method == "GET":
                self._table["HEAD", route.path] = route
                app.router.add_get(route.path, route.handler)
            else:
                app.router.add_route(route.method, route.path, route.handler)
        app.on_response_prepare.append(_add_headers)
        if self._settings.tls_certificate:
            app.on_response_prepare.append(_only_tls)
        return app

    # --- middleware ---------------------------------------------------------------------------------------------------

    @web.middleware
    async def _answers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every failure as JSON."""
        if isinstance(request.protocol, Connection):
            request.protocol.asked()
        try:
            return await handler(request)
        except Problem as problem:
            return problem.response()
        except web.HTTPException as error:
            return of_http_error(error, request.path).response()
        except LookupError as error:
            if request.match_info.get("id") is None:
                return self._failed(request, error)
            return Problem(404, "call_not_found", f"there is no call {request.match_info['id']!r}").response()
        except KallglotAriError as error:
            _log.warning("web_request_failed", path=request.path, error=str(error))
            return of_service_error(error).response()
        except Exception as error:  # noqa: BLE001 - the boundary: one bad request is no reason to be gone
            return self._failed(request, error)

    @staticmethod
    def _failed(request: web.Request, error: Exception) -> web.Response:
        _log.error("web_request_broke", method=request.method, path=request.path, exc_info=error)
        return Problem(500, "internal", "the service failed; its log says why").response()

    @web.middleware
    async def _admits(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Access and rate, before anything of the request is looked at."""
        resource = request.match_info.route.resource
        route = self._table.get((request.method, resource.canonical)) if resource is not None else None
        access = route.access if route else Access.TOKEN
        peer = request.remote or ""
        self._guard.admit(
            access,
            peer,
            request.headers,
            query_token=request.query.get("token", "") if route and route.query_token else "",
            unsafe=request.method not in ("GET", "HEAD"),
        )
        if isinstance(request.protocol, Connection) and access.known:
            request.protocol.known()
        # /pbx and /webhooks apart: a burst of notifications keeps no PBX of the same address waiting
        bucket = f"{peer} {request.path.split('/')[1]}"
        if route is not None and route.limited and (wait := self._limit.wait(bucket, self._clock.now())):
            raise Problem(
                429, "rate_limited", "too many requests", headers={"Retry-After": str(max(1, round(wait + 0.5)))}
            )
        return await handler(request)

    # --- handlers of the server itself --------------------------------------------------------------------------------

    async def _healthz(self, _: web.Request) -> web.Response:
        return await self._verdict(self._health.live(), "alive", "failing")

    async def _readyz(self, _: web.Request) -> web.Response:
        return await self._verdict(self._health.ready(), "ready", "not ready")

    @staticmethod
    async def _verdict(asking: Awaitable[list[str]], good: str, bad: str) -> web.Response:
        try:
            reasons = await asyncio.wait_for(asking, CHECK_SECONDS)
        except TimeoutError:
            reasons = [f"the service did not answer within {CHECK_SECONDS:g} s"]
        if reasons:
            return json_response({"status": bad, "reasons": reasons}, status=503)
        return json_response({"status": good})

    async def _render_metrics(self, _: web.Request) -> web.Response:
        body = self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _page(self, request: web.Request) -> web.StreamResponse:
        """The dashboard."""
        return self._html("dashboard.html", request)

    async def _subtitles(self, request: web.Request) -> web.StreamResponse:
        """What is said in one call, for an agent's desktop. Query, read by the page: `call`, `phone`, `speaker`."""
        return self._html("subtitles.html", request)

    def _html(self, name: str, request: web.Request) -> web.StreamResponse:
        """A page; with status 401 when it has to ask for the token, which every browser shows all the same."""
        known = not self._guard.needs_token or self._guard.knows_token(request.headers)
        response = web.Response(body=_read(name), content_type="text/html", charset="utf-8")
        response.headers["Content-Security-Policy"] = _PAGE_CSP
        if not known:
            response.set_status(401)
            response.headers["WWW-Authenticate"] = CHALLENGE
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in _FILES:
            raise Problem(404, "not_found", f"there is nothing at {request.path}")
        return web.Response(
            body=_read(name),
            headers={"Content-Type": f"{_FILES[name]}; charset=utf-8", "Cache-Control": "no-cache"},
        )


_files: dict[str, bytes] = {}


def _read(name: str) -> bytes:
    """A file of the dashboard, kept in memory from the first time on."""
    if name not in _files:
        _files[name] = (STATIC / name).read_bytes()
    return _files[name]


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        if name == "Server" or name not in response.headers:
            response.headers[name] = value


async def _only_tls(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Strict-Transport-Security"] = "max-age=31536000"
