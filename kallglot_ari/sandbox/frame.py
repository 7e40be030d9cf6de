"""What is around every request to the sandbox: key, rate limit, credits, idempotency, headers, and errors in the API's shape."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from kallglot_ari.clock import Clock
from kallglot_ari.log import get
from kallglot_ari.sandbox.sessions import IdempotencyKeys
from kallglot_ari.sandbox.validate import Problem

_WINDOW = 60.0
_KEY_LIMIT = 255
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}

Run = Callable[[web.Request, dict[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]
"""An endpoint: takes the JSON body, returns status and answer."""

_log = get("kallglot_ari.sandbox")


class Frame:
    """One account.

    :param credits: sessions that may be created. :param rate_limit: requests a minute.
    :param latency: seconds by which every answer comes later.
    """

    def __init__(self, api_key: str, clock: Clock, *, credits: int, rate_limit: int, latency: float) -> None:
        self._api_key = api_key
        self._clock = clock
        self._credits = credits
        self._spent = 0
        self._rate_limit = rate_limit
        self._latency = latency
        self._window = (clock.now(), 0)
        self._keys = IdempotencyKeys()

    def spend(self) -> None:
        """Take a credit. :raises Problem: 402 when there is none."""
        if self._credits <= 0:
            raise Problem(
                402, "insufficient_api_credits", "there are no credits left", kind="insufficient_credits_error"
            )
        self._credits -= 1
        self._spent += 1

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Rate limit, key, request id, headers, and errors in the API's shape."""
        request_id = new_request_id()
        if self._latency:
            await asyncio.sleep(self._latency)
        try:
            self._count()
            if request.match_info.get("id") is None or not request.path.endswith("/connect"):
                self._check_key(request)
            response = await handler(request)
        except Problem as problem:
            response = _error(problem, request_id)
        except web.HTTPException as error:
            code = _CODES.get(error.status, "invalid_request")
            response = _error(Problem(error.status, code, error.reason), request_id)
        except ConnectionError:  # the client has gone meanwhile: a caller who hangs up as the stream is being opened
            _log.debug("sandbox_client_gone", path=request.path)
            response = _error(Problem(408, "client_gone", "nobody waits for this answer"), request_id)
        except Exception:  # noqa: BLE001 - boundary: whatever breaks, the client gets an answer in the API's shape
            _log.exception("sandbox_request_failed", path=request.path)
            response = _error(Problem(500, "internal_error", "the sandbox failed", kind="api_error"), request_id)
        if not response.prepared:
            response.headers.update(self.headers(request_id))
        return response

    def _count(self) -> None:
        started, count = self._window
        now = self._clock.now()
        if now - started >= _WINDOW:
            started, count = now, 0
        self._window = (started, count + 1)
        if count >= self._rate_limit:
            wait = max(1, round(started + _WINDOW - now + 0.5))
            raise Problem(429, "rate_limit_exceeded", "too many requests", kind="rate_limit_error", retry_after=wait)

    def headers(self, request_id: str) -> dict[str, str]:
        """What every answer carries."""
        started, count = self._window
        reset = self._clock.wall().timestamp() + started + _WINDOW - self._clock.now()
        return {
            "X-Request-ID": request_id,
            "X-RateLimit-Limit": str(self._rate_limit),
            "X-RateLimit-Remaining": str(max(0, self._rate_limit - count)),
            "X-RateLimit-Reset": str(int(reset)),
            "X-API-Credits-Remaining": str(self._credits),
            "X-API-Credits-Used": str(self._spent),
        }

    def _check_key(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = request.headers.get("X-API-Key", "")
        if not hmac.compare_digest(key.strip().encode(errors="replace"), self._api_key.encode()):
            what = "the API key is not known" if key else "expected Authorization: Bearer or X-API-Key, found neither"
            raise Problem(401, "invalid_api_key", what, kind="authentication_error")

    def keyed(self, run: Run) -> Callable[[web.Request], Awaitable[web.Response]]:
        """`run` as a handler that reads a JSON body and honours `Idempotency-Key`."""

        async def handler(request: web.Request) -> web.Response:
            raw = await request.read()
            key = request.headers.get("Idempotency-Key", "")
            if len(key) > _KEY_LIMIT:
                raise Problem(400, "invalid_idempotency_key", f"expected at most {_KEY_LIMIT} characters")
            if key and (kept := self._keys.begin(request.path, key, raw, self._clock.now())) is not None:
                return answer(*kept)
            try:
                status, data = await run(request, _body(raw))
            except BaseException:
                if key:
                    self._keys.failed(request.path, key)
                raise
            if key:
                self._keys.done(request.path, key, 200 if status == 201 else status, data)
            return answer(status, data)

        return handler


def _body(raw: bytes) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Problem(400, "invalid_json", "expected a JSON object") from None
    if not isinstance(body, dict):
        raise Problem(400, "invalid_json", "expected a JSON object")
    return body


def new_request_id() -> str:
    """An `X-Request-ID`."""
    return f"req_{secrets.token_hex(8)}"


def answer(status: int, data: dict[str, Any]) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=orjson.dumps(data), content_type="application/json")


def _error(problem: Problem, request_id: str) -> web.Response:
    error: dict[str, Any] = {
        "type": problem.kind,
        "code": problem.code,
        "message": problem.message,
        "request_id": request_id,
    }
    if problem.param is not None:
        error["param"] = problem.param
    if problem.retry_after is not None:
        error["retry_after"] = problem.retry_after
    response = answer(problem.status, {"error": error})
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    return response
