"""The double itself: REST and stream on loopback, as strict as the reference lets it be, and faults on demand.

async with KallglotDouble(contract="routing") as double:
    ... give double.url and double.api_key to what is tested ...
    session = await double.wait_session()
    await session.wait_audio("customer", 1.0)
    assert double.violations == []
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Literal, Self

from aiohttp import WSMsgType, web

from tests.double.messages import AudioIn, BadMessage, Control, End, Ping, StreamChecker
from tests.double.requests import Contract, Json, Refusal, check_create, check_end
from tests.double.session import Changed, Connection, DoubleSession

Operation = Literal["create", "get", "end", "transcript", "recordings", "dial", "connect"]
_TYPES = {401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
          409: "conflict_error", 429: "rate_limit_error"}  # fmt: skip


@dataclass
class Fault:
    """What one request meets: first the delay, then the answer's fate."""

    status: int = 0
    """Answer with this error instead of doing it; 0 = do it."""
    code: str = ""
    retry_after: float | None = None
    delay: float = 0.0
    """Seconds before anything happens."""
    lose_answer: bool = False
    """Do it, but cut the connection instead of answering."""
    hang: bool = False
    """Read the request and never answer (until the double stops)."""
    body: bytes | None = None
    """Answer with this body and `status` (200 if 0), whatever it is, instead of doing it."""


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    at: float
    operation: str
    path: str
    body: object
    idempotency_key: str | None
    status: int


@dataclass
class _Remembered:
    """What an Idempotency-Key stands for."""

    operation: str
    path: str
    body: object
    answer: tuple[int, Json] | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class KallglotDouble:
    """A Kallglot that forgives nothing.

    :param chunk_ms: lengths a chunk may have; None = any.
    :param token_life: seconds; default 5 minutes (routing) or 1 hour (provider).
    :param stream_port: where clients shall open streams, if that is not here: a proxy's.
    """

    def __init__(
        self,
        contract: Contract = "routing",
        *,
        port: int = 0,
        api_key: str = "sk_test_double",
        chunk_ms: tuple[float, float] | None = (100, 200),
        token_life: float | None = None,
        credits: int = 1000,
        stream_port: int = 0,
    ) -> None:
        self.contract = contract
        self.api_key = api_key
        self.port = port
        self.credits = credits
        self.stream_port = stream_port
        self.sessions: dict[str, DoubleSession] = {}
        self.violations: list[str] = []
        """Every breach of the contract by the client, in words; tests assert that there is none."""
        self.requests: list[Request] = []
        self.work_seconds = 0.0
        """How long every request takes to be carried out, so that a second one with the same key can meet the first."""
        self._chunk_ms = chunk_ms
        self._token_life = token_life if token_life is not None else 300.0 if contract == "routing" else 3600.0
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._standing: dict[str, Fault] = {}
        self._remembered: dict[str, _Remembered] = {}
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self._changed: Changed | None = None

    # --- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a stop on the same port, with the same sessions."""
        self._stopping.clear()
        self._changed = self._changed or Changed()
        app = web.Application(client_max_size=1 << 20)
        for method, path, operation in (
            ("POST", "", "create"), ("GET", "/{id}", "get"), ("POST", "/{id}/end", "end"),
            ("GET", "/{id}/transcript", "transcript"), ("GET", "/{id}/recordings", "recordings"),
            ("POST", "/{id}/dial", "dial"),
        ):  # fmt: skip
            app.router.add_route(method, "/v1/sessions" + path, self._rest, name=operation)
        app.router.add_get("/v1/sessions/{id}/connect", self._stream, name="connect")
        app.router.add_route("*", "/{anything:.*}", self._unknown)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection and stop listening; what it knows stays."""
        self._stopping.set()
        for connection in [c for session in self.sessions.values() for c in session.connections]:
            if connection.deaf.is_set():
                connection.transport.abort()
            elif connection.closed_at is None:
                await connection.socket.close(code=1001)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        """The API's base address."""
        return f"http://127.0.0.1:{self.port}/v1"

    # --- what a test sees

    @property
    def created(self) -> int:
        return len(self.sessions)

    @property
    def ended(self) -> int:
        """Sessions ended over REST (or by the server itself): nobody pays for them any more."""
        return sum(session.status == "ended" for session in self.sessions.values())

    @property
    def open_sessions(self) -> list[DoubleSession]:
        """Sessions that still cost money."""
        return [session for session in self.sessions.values() if session.status != "ended"]

    async def wait_session(self, index: int = 0, timeout: float = 10) -> DoubleSession:
        """The session created as the `index`-th, waited for."""
        assert self._changed is not None, "start first"
        await self._changed.wait(lambda: len(self.sessions) > index, timeout, f"session {index + 1}")
        return list(self.sessions.values())[index]

    async def wait_request(self, operation: Operation, times: int = 1, timeout: float = 10) -> Request:
        """The `times`-th answered request of `operation`."""
        assert self._changed is not None, "start first"

        def found() -> list[Request]:
            return [request for request in self.requests if request.operation == operation]

        await self._changed.wait(lambda: len(found()) >= times, timeout, f"{times} requests to {operation}")
        return found()[times - 1]

    def fault(self, operation: Operation, fault: Fault, *, times: int | None = 1) -> None:
        """Let the next `times` requests of `operation` meet `fault`; None = all, until `heal`."""
        if times is None:
            self._standing[operation] = fault
        else:
            self._faults[operation].extend([fault] * times)

    def refuse(
        self,
        operation: Operation,
        status: int,
        code: str = "",
        *,
        times: int | None = 1,
        retry_after: float | None = None,
    ) -> None:
        """Answer an error. The code is the reference's for that status when none is given."""
        code = code or {401: "invalid_api_key", 402: "insufficient_api_credits", 403: "organization_inactive",
                        404: "session_not_found", 429: "rate_limit_exceeded"}.get(status, "internal_error")  # fmt: skip
        self.fault(operation, Fault(status=status, code=code, retry_after=retry_after), times=times)

    def heal(self) -> None:
        """No faults from now on."""
        self._faults.clear()
        self._standing.clear()

    # --- REST

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        operation = request.match_info.route.name or ""
        raw = await request.read()
        body: object = None
        try:
            fault = await self._fault(operation)
            if fault.body is not None:
                self._record(request, operation, raw, fault.status or 200)
                return web.Response(body=fault.body, status=fault.status or 200, content_type="application/json")
            if fault.status:
                raise _Injected(fault)
            self._authorise(request)
            body = _parse(raw) if request.method == "POST" else None
            status, answer = await self._once(request, operation, body)
            headers: dict[str, str] = {}
        except (Refusal, _Injected) as error:
            status, answer, headers = self._error(request, operation, error)
            fault = Fault()
        self._record(request, operation, body, status)
        if self._changed:
            await self._changed.notify()
        if fault.lose_answer and request.transport is not None:
            request.transport.abort()
        return web.json_response(answer, status=status, headers=self._headers() | headers)

    async def _fault(self, operation: str) -> Fault:
        queue = self._faults[operation]
        fault = queue.popleft() if queue else self._standing.get(operation, Fault())
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.hang:
            await self._stopping.wait()
            return Fault(status=503, code="internal_error")
        return fault

    async def _once(self, request: web.Request, operation: str, body: object) -> tuple[int, Json]:
        """Idempotency-Key: the same request again gets the first one's answer; only successes are remembered."""
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return await self._do(request, operation, body)
        if operation not in ("create", "end", "dial"):
            raise Refusal(400, "invalid_request", f"Idempotency-Key: not taken by {operation}", param="Idempotency-Key")
        if not 0 < len(key) <= 255:
            raise Refusal(
                400, "invalid_request", "Idempotency-Key: expected 1 to 255 characters", param="Idempotency-Key"
            )
        known = self._remembered.get(key)
        if known is not None:
            if (known.operation, known.path, known.body) != (operation, request.path, body):
                raise Refusal(400, "idempotency_mismatch", "the key was used for another request")
            if known.answer is None:
                raise _Injected(Fault(status=409, code="idempotency_conflict", retry_after=1))
            return known.answer
        known = self._remembered[key] = _Remembered(operation, request.path, body)
        try:
            known.answer = await self._do(request, operation, body)
        finally:
            if known.answer is None:
                del self._remembered[key]
        return known.answer

    async def _do(self, request: web.Request, operation: str, body: object) -> tuple[int, Json]:
        await asyncio.sleep(self.work_seconds)
        if operation == "create":
            return 201, self._create(body)
        session = self.sessions.get(request.match_info["id"])
        if session is None:
            raise _Injected(Fault(status=404, code="session_not_found"))
        if operation == "end":
            return 200, await self._end(session, body)
        if operation == "transcript":
            status = "completed" if session.status == "ended" else "in_progress"
            metadata = session.request.get("metadata", {})
            return 200, {"id": session.id, "status": status, "turns": list(session.turns), "metadata": metadata}
        if operation == "recordings":
            if session.status != "ended":
                raise _Injected(Fault(status=409, code="session_not_ended"))
            return 200, {"data": []}
        if operation == "dial":
            return 200, {"id": session.id, "status": session.status}
        return 200, session.as_json()

    def _create(self, body: object) -> Json:
        table = check_create(body, self.contract)
        if self.credits <= 0:
            raise _Injected(Fault(status=402, code="insufficient_api_credits"))
        self.credits -= 1
        assert self._changed is not None
        session = DoubleSession(
            table,
            contract=self.contract,
            token_life=self._token_life,
            changed=self._changed,
            host=f"ws://127.0.0.1:{self.stream_port or self.port}",
        )
        self.sessions[session.id] = session
        return session.as_json(with_stream=True)

    async def _end(self, session: DoubleSession, body: object) -> Json:
        reason = check_end(body)
        session.ends.append((time.monotonic(), reason))
        first = session.status != "ended"
        session.finish(reason)
        if first:
            await session.goodbye(reason)
        return session.as_json()

    def _authorise(self, request: web.Request) -> None:
        bearer = request.headers.get("Authorization", "")
        given = bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else request.headers.get("X-API-Key", "")
        if given != self.api_key:
            raise _Injected(Fault(status=401, code="invalid_api_key"))

    def _error(
        self, request: web.Request, operation: str, error: Refusal | _Injected
    ) -> tuple[int, Json, dict[str, str]]:
        if isinstance(error, Refusal):
            self.violations.append(f"{request.method} {request.path}: {error.status} {error.code}: {error.message}")
            fault, message, param = Fault(status=error.status, code=error.code), error.message, error.param
        else:
            fault, message, param = error.fault, f"{operation}: {error.fault.code}", None
        kind = _TYPES.get(fault.status, "api_error" if fault.status >= 500 else "invalid_request_error")
        detail: Json = {"type": kind, "code": fault.code, "message": message}
        if param:
            detail["param"] = param
        headers: dict[str, str] = {}
        if fault.retry_after is not None:
            detail["retry_after"] = fault.retry_after
            headers["Retry-After"] = f"{fault.retry_after:g}"
        return fault.status, {"error": detail}, headers

    def _headers(self) -> dict[str, str]:
        return {
            "X-Request-ID": f"req_{secrets.token_hex(6)}",
            "X-RateLimit-Limit": "100",
            "X-RateLimit-Remaining": "99",
            "X-RateLimit-Reset": str(int(time.time()) + 60),
            "X-API-Credits-Remaining": str(self.credits),
            "X-API-Credits-Used": str(len(self.sessions)),
        }

    def _record(self, request: web.Request, operation: str, body: object, status: int) -> None:
        key = request.headers.get("Idempotency-Key")
        self.requests.append(Request(time.monotonic(), operation, request.path, body, key, status))

    async def _unknown(self, request: web.Request) -> web.Response:
        self.violations.append(f"{request.method} {request.path}: the API has no such call")
        error: Json = {"error": {"type": "not_found_error", "code": "not_found", "message": "no such call"}}
        return web.json_response(error, status=404, headers=self._headers())

    # --- stream

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        fault = await self._fault("connect")
        session = self.sessions.get(request.match_info["id"])
        tokens = request.query.getall("token", [])
        bearer = request.headers.get("Authorization", "")
        if self.contract == "provider" and bearer.startswith("Bearer "):
            tokens.append(bearer.removeprefix("Bearer "))
        status = fault.status
        if not status and session is None:
            status = 404
        elif not status and session is not None and (session.status == "ended" or session.stream_ended):
            status = 409
        elif (
            not status
            and session is not None
            and (not tokens or set(tokens) != {session.token} or time.time() > session.expires_at)
        ):
            status = 401
        if len(request.query.getall("token", [])) > 1:
            self.violations.append(f"connect: expected one token, found {len(tokens)}")
        self._record(request, "connect", None, status or 101)
        if status or session is None or request.transport is None:
            return web.json_response({"error": {"type": "invalid_request_error", "code": "stream_refused",
                                                "message": "the stream was not opened"}}, status=status or 404)  # fmt: skip
        return await self._converse(request, request.transport, session)

    async def _converse(
        self, request: web.Request, transport: asyncio.Transport, session: DoubleSession
    ) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=1 << 20, timeout=1)
        try:
            await socket.prepare(request)
        except ConnectionError:  # who asked is gone
            return socket
        connection = Connection(socket, transport, time.monotonic())
        session.connections.append(connection)
        if session.status == "created":
            session.status = "started"
        if self.contract == "routing":
            await socket.send_json({"type": "session.ready", "session_id": session.id})
        assert self._changed is not None
        await self._changed.notify()
        try:
            await self._read(connection, session, StreamChecker(self.contract, self._chunk_ms))
        finally:
            connection.closed_at, connection.close_code = time.monotonic(), socket.close_code
            await self._changed.notify()
        return socket

    async def _read(self, connection: Connection, session: DoubleSession, checker: StreamChecker) -> None:
        assert self._changed is not None
        async for frame in connection.socket:
            at = time.monotonic()
            if connection.deaf.is_set():
                connection.transport.pause_reading()
                await self._stopping.wait()
                return
            if frame.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            try:
                message = checker.check(frame.data)
            except BadMessage as error:
                self.violations.append(f"stream {session.id}: {error}")
                await connection.socket.send_json({"type": "session.error", "code": error.code, "message": str(error)})
                continue
            match message:
                case AudioIn():
                    session.hear(message, at)
                case Ping():
                    session.pings += 1
                    await connection.socket.send_json({"type": "pong", "session_id": session.id})
                case Control(action):
                    session.controls.append(action)
                case End():
                    session.stream_ended = True
                    await session.goodbye("explicit_end")
            await self._changed.notify()


class _Injected(Exception):
    """An error that is no breach of the contract: injected, or a matter of state (unknown id, no credits)."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.code)
        self.fault = fault


def _parse(raw: bytes) -> object:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError as error:
        raise Refusal(400, "invalid_request", f"body: not JSON: {error}") from None
