"""What aiohttp answers by itself, before a request is one that a handler sees: as JSON and with our headers, like all else."""

from __future__ import annotations

from aiohttp import web

from kallglot_ari.web.problem import of_http_error, of_status

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "kallglot-ari",
}
"""Of every answer; all but `Server` may be another's."""


class Connection(web.RequestHandler):
    """One client's connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP (400), and what failed outside of every handler."""
        super().handle_error(request, status, exc, message)  # logs it; its text would show the client aiohttp's words
        response = of_status(status).response()
        response.headers.update(HEADERS)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """An `Expect` that nobody knows is refused by the router, before the middlewares."""
        if isinstance(resp, web.HTTPException):
            resp = of_http_error(resp, request.path).response()
        return await super().finish_response(request, resp, start_time)
