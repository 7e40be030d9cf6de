"""The embedded Kallglot: a server with Kallglot's REST interface, streams and webhooks, on this machine."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from kallglot_ari.calls.model import EndReason, TranscriptTurn
from kallglot_ari.clock import Clock, SystemClock
from kallglot_ari.errors import ListenError, cannot_listen
from kallglot_ari.log import get
from kallglot_ari.sandbox import hooks
from kallglot_ari.sandbox.engine import EngineFactory
from kallglot_ari.sandbox.frame import Frame, answer, new_request_id
from kallglot_ari.sandbox.live import MESSAGE_LIMIT, Live
from kallglot_ari.sandbox.sessions import Record, Sessions
from kallglot_ari.sandbox.validate import Problem, parse_create
from kallglot_ari.settings import reached_at
from kallglot_ari.tasks import Tasks

BODY_LIMIT = 256 * 1024
_SWEEP_EVERY = 30.0
_END_WITHIN = 0.5
"""Seconds that an ending waits for the engine and the stream; they go on after it."""
_STOP_WITHIN = 5.0

_log = get("kallglot_ari.sandbox")


class Sandbox:
    """A Kallglot-compatible server. Each session follows the contract in which it was asked for (`validate`).

    :param engine_factory: what hears and speaks. :param api_key: the key to accept; None makes one.
    :param port: 0 = any free one. :param webhook_url: where events go; empty: nowhere.
    :param credits: sessions that may be created. :param rate_limit: requests a minute.
    :param latency: every answer comes that many seconds later, to see how a slow API feels.
    """

    def __init__(
        self,
        engine_factory: EngineFactory,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        webhook_url: str = "",
        webhook_secret: str = "",
        clock: Clock | None = None,
        credits: int = 1_000_000,
        rate_limit: int = 600_000,
        latency: float = 0.0,
        webhook_schedule: Sequence[float] = hooks.SCHEDULE,
    ) -> None:
        self.api_key = api_key or f"sk_test_{secrets.token_hex(16)}"
        self.sessions = Sessions()
        self.clock: Clock = clock or SystemClock()
        self._factory = engine_factory
        self._host = host
        self._port = port
        self._frame = Frame(self.api_key, self.clock, credits=credits, rate_limit=rate_limit, latency=latency)
        self._live: dict[str, Live] = {}
        self._hooks = hooks.Hooks(webhook_url, webhook_secret, self.clock, schedule=webhook_schedule)
        self._tasks = Tasks("sandbox")
        self._winding_up = Tasks("sandbox.end")
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """:raises ListenError: when the address cannot be bound."""
        app = web.Application(middlewares=[self._frame.middleware], client_max_size=BODY_LIMIT)
        app.router.add_post("/v1/sessions", self._frame.keyed(self._create))
        app.router.add_get("/v1/sessions/{id}", self._get)
        app.router.add_post("/v1/sessions/{id}/end", self._frame.keyed(self._end))
        app.router.add_post("/v1/sessions/{id}/dial", self._frame.keyed(self._dial))
        app.router.add_get("/v1/sessions/{id}/transcript", self._transcript)
        app.router.add_get("/v1/sessions/{id}/recordings", self._recordings)
        app.router.add_get("/v1/sessions/{id}/connect", self._connect)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=120, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, backlog=1024).start()
        except OSError as error:
            await self._runner.cleanup()
            self._runner = None
            raise ListenError(f"sandbox: cannot listen on {self._host}:{self._port}: {cannot_listen(error)}") from None
        self._port = self._runner.addresses[0][1]
        self._tasks.spawn(self._sweep_often(), name="sweep")
        _log.info("sandbox_started", url=self.url)

    async def stop(self) -> None:
        """End every session and close. Harmless when not started."""
        await asyncio.gather(*(self.end(record, EndReason.ERROR) for record in self.sessions.live()))
        await self._winding_up.join(_STOP_WITHIN)
        await self._winding_up.close()
        await self._tasks.close()
        await self._hooks.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def notify(self, url: str, secret: str, kinds: Iterable[str], tls: ssl.SSLContext | bool = True) -> None:
        """Send webhooks of these `kinds` there from now on, as an account's settings would say; `tls` knows the endpoint's certificate."""
        self._hooks.aim(url, secret, kinds, tls)

    @property
    def url(self) -> str:
        """Base URL, ``http://host:port/v1``; the port is known after the start."""
        return f"http://{self._netloc}/v1"

    @property
    def _netloc(self) -> str:
        return reached_at(self._host, self._port)

    async def end(self, record: Record, reason: str) -> None:
        """End a session, whoever wants it. The second time nothing happens."""
        if not self.sessions.end(record, reason, now=self.clock.now(), wall=self.clock.wall()):
            return
        task = self._winding_up.spawn(self._wind_up(record, reason), name=record.id)
        await asyncio.wait([task], timeout=_END_WITHIN)

    async def _wind_up(self, record: Record, reason: str) -> None:
        """What follows from the end; a client that does not read must not hold up whoever ended the session."""
        if (live := self._live.pop(record.id, None)) is not None:
            await live.end(reason)
        self._hooks.post("session.ended", self._shown(record))
        if record.started is not None:
            if record.wanted.provider:
                self._hooks.post("session.provider.disconnected", {"session_id": record.id})
            self._hooks.post("transcript.ready", {"session_id": record.id, "turns": len(record.turns)})
        if record.wanted.recording:
            self._hooks.post("recording.failed", {"session_id": record.id, "reason": "the sandbox keeps no audio"})

    async def sweep(self) -> None:
        """End the sessions in which nothing happened for half an hour."""
        for record in self.sessions.idle(self.clock.now()):
            await self.end(record, EndReason.TIMEOUT)

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            await self.sweep()

    # --- the endpoints ---

    async def _create(self, request: web.Request, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        wanted = parse_create(body)
        self._frame.spend()
        record = self.sessions.create(wanted, now=self.clock.now(), wall=self.clock.wall())
        self._hooks.post("session.created", self._shown(record))
        return 201, self._shown(record) | {"stream": record.stream_json(f"ws://{request.host or self._netloc}/v1")}

    async def _get(self, request: web.Request) -> web.Response:
        return answer(200, self._shown(self._record(request)))

    async def _end(self, request: web.Request, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        record = self._record(request)
        reason = body.get("reason", EndReason.COMPLETED.value)
        if reason not in [item.value for item in EndReason]:
            expected = ", ".join(item.value for item in EndReason)
            raise Problem(422, "invalid_parameter", f"expected one of {expected}", param="reason")
        await self.end(record, str(reason))
        return 200, self._shown(record)

    async def _dial(self, request: web.Request, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self._record(request)
        if not isinstance(body.get("to"), str) or not body["to"]:
            raise Problem(400, "missing_parameter", "to is required", param="to")
        raise Problem(502, "sip_dial_failed", "the sandbox has no telephony of its own", kind="api_error")

    async def _transcript(self, request: web.Request) -> web.Response:
        record = self._record(request)
        return answer(
            200,
            {
                "id": record.id,
                "object": "transcript",
                "status": "in_progress" if record.ended is None else "completed",
                "turns": list(record.turns),
                "metadata": record.wanted.metadata,
            },
        )

    async def _recordings(self, request: web.Request) -> web.Response:
        record = self._record(request)
        found = []
        if record.wanted.recording and record.ended is not None:
            # No audio is kept here: the listing says so in the API's own way.
            found = [{"id": f"rec_{record.id[5:]}", "duration": 0, "format": "wav", "status": "failed"}]
        return answer(200, {"object": "list", "data": found})

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        record = self.sessions.get(request.match_info["id"])
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        token = bearer.strip() if scheme.lower() == "bearer" else request.query.get("token", "")
        record.check_token(token, self.clock.now())
        live = self._live.get(record.id)
        if record.ended is not None or (live is not None and live.over):
            raise Problem(409, "session_ended", "the session has ended")
        socket = web.WebSocketResponse(max_msg_size=MESSAGE_LIMIT, compress=False, timeout=2.0)
        if not socket.can_prepare(request).ok:
            raise Problem(426, "upgrade_required", "expected a WebSocket handshake")
        socket.headers.update(self._frame.headers(new_request_id()))
        await socket.prepare(request)
        await self._serve(record, socket)
        return socket

    async def _serve(self, record: Record, socket: web.WebSocketResponse) -> None:
        live = self._live.get(record.id)
        record.active = self.clock.now()
        if live is None:
            live = Live(record, self._factory, self.clock, lambda turn: self._keep(record, turn))
            self._live[record.id] = live
        if record.started is None:
            record.started = self.clock.now()
            self._hooks.post("session.started", self._shown(record))
            if record.wanted.provider:
                self._hooks.post("session.provider.connected", {"session_id": record.id})
        await live.serve(socket)

    def _keep(self, record: Record, turn: TranscriptTurn) -> None:
        entry = record.add_turn(turn, self.clock.wall())
        self._hooks.post("transcript.segment", {"session_id": record.id, **entry})

    def _record(self, request: web.Request) -> Record:
        record = self.sessions.get(request.match_info["id"])
        record.active = self.clock.now()
        return record

    def _shown(self, record: Record) -> dict[str, Any]:
        return record.as_json(self.clock.now())
