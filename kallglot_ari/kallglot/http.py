"""One request to Kallglot's REST interface: bounded in time and size, typed errors, a pool of warm connections."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from kallglot_ari import __version__
from kallglot_ari.clock import Clock
from kallglot_ari.errors import ApiError, ApiUnavailable, ConfigError
from kallglot_ari.kallglot import rest
from kallglot_ari.log import get, redact
from kallglot_ari.websocket.socket import Socket

BODY_LIMIT = 8 * 1024 * 1024
"""The longest answer that is read: a transcript of a very long call."""
_KEEP_ALIVE = 30.0
_CONNECTIONS = 2000
_CONNECT_SHARE = 0.8
"""Of the time for a request, what connecting may take: so a server that is not there is told from one that does not answer."""

_log = get("kallglot_ari.kallglot.client")


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer."""

    status: int
    data: dict[str, Any]
    request_id: str
    credits_remaining: int | None


class NotSent(ApiUnavailable):
    """No connection came about, so that nothing can have happened at the server."""

    sent = False


def tls_context(ca_file: str) -> ssl.SSLContext:
    """The system's CAs and `ca_file`; TLS 1.2 or newer, certificates always verified.

    :raises ConfigError: when the file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        try:
            context.load_verify_locations(cadata=Path(ca_file).read_text(encoding="ascii"))
        except (ssl.SSLError, ValueError):
            raise ConfigError(f"kallglot.ca_file: expected certificates in PEM, found none in {ca_file}") from None
        except OSError as error:
            raise ConfigError(f"kallglot.ca_file: {ca_file} cannot be read: {error.strerror or error}") from None
    return context


class Http:
    """The connections to all addresses. To be made on the running event loop."""

    def __init__(self, api_key: str, *, ca_file: str, clock: Clock) -> None:
        self._clock = clock
        self._key = api_key
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=tls_context(ca_file), limit=_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE, ttl_dns_cache=60
            ),
            headers={"User-Agent": f"kallglot-ari/{__version__}", "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            ws_response_class=Socket,
            trace_configs=[_staying()],
            trust_env=False,
        )

    async def close(self) -> None:
        await self.session.close()

    async def request(
        self, method: str, url: str, *, timeout: float, body: dict[str, Any] | None = None, idempotency_key: str = ""
    ) -> Answer:
        """Ask once.

        :param timeout: seconds for everything, connecting included.
        :raises ApiError: typed by status and code. `NotSent` when the request cannot have reached the server.
        """
        headers = {"Authorization": f"Bearer {self._key}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        data = None if body is None else orjson.dumps(body)
        try:
            return await self._once(method, url, data, headers, timeout)
        except aiohttp.ServerDisconnectedError:
            # Usually a warm connection that the server gave up in this very moment. The request may be made twice: it
            # has a key, or changes nothing.
            _log.debug("api_connection_stale", url=url)
        try:
            return await self._once(method, url, data, headers, timeout)
        except aiohttp.ServerDisconnectedError:
            raise ApiUnavailable(f"{url}: the server closed the connection instead of answering") from None
        except NotSent as error:  # but the first time it may have been
            raise ApiUnavailable(str(error)) from None

    async def _once(self, method: str, url: str, data: bytes | None, headers: dict[str, str], timeout: float) -> Answer:
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=_CONNECT_SHARE * timeout)
        try:
            async with self.session.request(
                method, url, data=data, headers=headers, timeout=limits, allow_redirects=False
            ) as response:
                return self._answer(response, await _read(response))
        except aiohttp.ServerDisconnectedError:
            raise
        except aiohttp.ClientConnectorCertificateError as error:
            raise NotSent(f"{url}: the server's certificate is not accepted: {error.certificate_error}") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(f"{url}: no connection: {redact(str(error))}") from None
        except TimeoutError:
            raise ApiUnavailable(f"{url}: expected an answer within {timeout:.1f} s, found none") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ApiUnavailable(f"{url}: no answer: {type(error).__name__}: {redact(str(error))[:200]}") from None

    def _answer(self, response: aiohttp.ClientResponse, raw: bytes) -> Answer:
        request_id = response.headers.get("X-Request-ID", "")[:128]
        if not 200 <= response.status < 300:
            error = rest.parse_error(
                response.status,
                raw,
                request_id=request_id,
                retry_after=response.headers.get("Retry-After"),
                now=self._clock.wall(),
            )
            raise self._safe(error)
        try:
            data = rest.parse_object(raw, content_type=response.headers.get("Content-Type", "")[:64]) if raw else {}
        except ApiError as error:
            error.status, error.request_id = response.status, request_id
            raise
        return Answer(response.status, data, request_id, _credits(response.headers.get("X-API-Credits-Remaining", "")))

    def _safe(self, error: ApiError) -> ApiError:
        """An answer may quote what it was sent: the key never gets into a message."""
        text = str(redact(str(error)))
        if self._key:
            text = text.replace(self._key, "[hidden]")
        error.args = (text,)
        return error


def _staying() -> aiohttp.TraceConfig:
    """No redirect is followed, as aiohttp does when it opens a WebSocket: the audio would go, perhaps in clear, to a host that nobody chose."""

    async def refuse(_: object, __: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
        response = redirect.response
        response.close()
        raise aiohttp.WSServerHandshakeError(
            response.request_info, response.history, status=response.status, message="redirects are not followed"
        )

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(refuse)
    return tracing


def _credits(header: str) -> int | None:
    return int(header) if header.isascii() and header.isdigit() and len(header) <= 18 else None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to `BODY_LIMIT`. :raises ApiUnavailable: when it is longer."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(65536):
        size += len(part)
        if size > BODY_LIMIT:
            response.close()
            raise ApiUnavailable(
                f"expected an answer of at most {BODY_LIMIT} bytes, found more", code=rest.INVALID_RESPONSE
            )
        parts.append(part)
    return b"".join(parts)
