"""Every failure of the web server in one form: ``{"error": {"code", "message", "param"?}}``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from kallglot_ari.errors import (
    AriConflict,
    AriNotFound,
    ConfigError,
    KallglotAriError,
    UsageError,
)


class Problem(Exception):
    """Raised by a handler to answer with an error. `param` names the field at fault."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        error = {"code": self.code, "message": self.message}
        if self.param is not None:
            error["param"] = self.param
        return json_response({"error": error}, status=self.status, headers=self.headers)


def invalid(param: str, message: str) -> Problem:
    """400: the field `param` cannot be used."""
    return Problem(400, "invalid_request", message, param=param)


def unknown_call(call_id: str) -> Problem:
    return Problem(404, "call_not_found", f"there is no call {call_id!r}")


def json_response(data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(data, default=str), status=status, content_type="application/json", headers=headers
    )


def of_service_error(error: KallglotAriError) -> Problem:
    """What an error of the service is over HTTP. Only the message goes out; nothing internal."""
    if isinstance(error, UsageError):
        named = re.match(r"([a-z_]+): ", str(error))
        return Problem(400, "invalid_request", str(error), param=named[1] if named else None)
    if isinstance(error, AriNotFound | AriConflict):
        return Problem(409, "call_changed", f"the call is no longer in a state for this: {error}")
    if error.retryable:
        return Problem(503, "unavailable", str(error), headers={"Retry-After": "2"})
    if isinstance(error, ConfigError):
        return Problem(500, "misconfigured", str(error))
    return Problem(502, "upstream_failed", str(error))


_HTTP = {
    400: ("bad_request", "expected HTTP/1.1 with a path and header fields of at most 8190 bytes each"),
    404: ("not_found", "there is nothing at {path}"),
    408: ("timeout", "the request did not arrive in time"),
    413: ("too_large", "the body is too large"),
    415: ("unsupported_media_type", "the content type is not one this route takes"),
    417: ("expectation_failed", "only Expect: 100-continue is known"),
    500: ("internal", "the service failed; its log says why"),
}


def of_http_error(error: web.HTTPException, path: str) -> Problem:
    """The JSON form of what aiohttp itself refuses."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(
            405, "method_not_allowed", f"expected {allowed}, found {error.method}", headers={"Allow": allowed}
        )
    return of_status(error.status, path, error.reason)


def of_status(status: int, path: str = "", reason: str = "") -> Problem:
    """The JSON form of a status that no handler gave."""
    code, message = _HTTP.get(status, ("http_error", reason or "the request failed"))
    return Problem(status, code, message.format(path=path))
