"""ARI over HTTP: one warm pool of connections, typed errors, and no request sent twice but a GET."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from kallglot_ari.ari.operation import Operation, Param
from kallglot_ari.ari.versions import UNKNOWN, Version, has, written
from kallglot_ari.errors import (
    AriBadRequest,
    AriConflict,
    AriError,
    AriNotFound,
    AriNotInStasis,
    AriUnauthorized,
    AriUnavailable,
    AriUnsupported,
    ConfigError,
)
from kallglot_ari.settings import AriSettings

TIMEOUT = 5.0
"""Seconds for a whole request."""
CONNECT_TIMEOUT = 2.0
POOL = 32
"""Connections at most; Asterisk's http.conf takes 100 by default (`sessionlimit`)."""
KEEPALIVE = 12.0
"""Seconds an idle connection is kept: less than the 15 after which Asterisk closes it (`session_keep_alive`)."""
GET_ATTEMPTS = 2
GET_PAUSE = 0.05
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer; the longest, a stored recording, may be some megabytes."""

_GONE = ((400, "Channel not found"), (403, "Unsupported channel type"))
"""404 by another number: a bridge's unknown channel, and the RTP statistics Asterisk 16 does not have of a channel."""
_EXISTS = (500, "Supplying a bridge type when updating a bridge is not allowed.")
"""409 of a bridge by another number (Asterisk 16)."""


class Rest:
    """Sends operations. Made and closed on the event loop."""

    def __init__(self, settings: AriSettings) -> None:
        """:raises ConfigError: when `ari.ca_file` cannot be used."""
        self._settings = settings
        self.version: Version = UNKNOWN
        """Of the Asterisk last connected to; operations it is too old for are refused here."""
        user = f"{settings.username}:{settings.password.get_secret_value()}".encode()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=POOL, keepalive_timeout=KEEPALIVE, ssl=_tls(settings)),
            headers={"Authorization": "Basic " + base64.b64encode(user).decode()},
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # aiohttp would send a DELETE or PUT again on its own, and has no public switch for it (tests/ari/test_rest.py watches this)
        self._session._retry_connection = False
        self._turns = asyncio.Semaphore(POOL)
        """Requests wait here, not in aiohttp for a connection: there each takes 7 kB, and while Asterisk is silent there are hundreds."""

    async def close(self) -> None:
        """Close the connections; requests after that raise `AriUnavailable`."""
        await self._session.close()

    async def request(
        self,
        operation: Operation,
        *,
        path: Mapping[str, str],
        query: Mapping[str, Param],
        body: Mapping[str, object] | None,
    ) -> bytes:
        """Send one operation; the body of a 2xx answer. Only a GET is sent a second time, after a lost connection or a 5xx.

        :raises AriError: the subclass says what went wrong.
        """
        if self.version != UNKNOWN and not has(self.version, operation.since):
            raise AriUnsupported(
                f"{operation.name}: needs Asterisk {written(operation.since)}, "
                f"found {'.'.join(map(str, self.version))}",
                operation=operation.name,
            )
        url = self._url(operation, path, query)
        attempts = GET_ATTEMPTS if operation.method == "GET" else 1
        for attempt in range(1, attempts + 1):
            try:
                return await self._once(operation, url, body)
            except AriUnavailable:
                if attempt == attempts or self._session.closed:
                    raise
            await asyncio.sleep(GET_PAUSE)
        raise AssertionError("unreachable")

    async def event_socket(self, app: str, *, heartbeat: float) -> aiohttp.ClientWebSocketResponse:
        """Open the event socket of `app`; the credentials go in a header.

        :raises AriError: the subclass says what went wrong.
        """
        operation = Operation("events.eventWebsocket", "events.event_websocket", "GET", "/events")
        url = self._url(operation, {}, {"app": app, "subscribeAll": False})
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._session.ws_connect(url, heartbeat=heartbeat, max_msg_size=4 * 1024 * 1024)
        except aiohttp.WSServerHandshakeError as error:
            raise refusal(operation.name, error.status, error.message, self._settings) from None
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise self._unreachable(operation, error) from None

    async def warm(self, connections: int) -> None:
        """Keep `connections` of the pool open, so that a call need not wait for TCP and TLS; failures show elsewhere."""
        ping = Operation("asterisk.ping", "asterisk.ping", "GET", "/asterisk/ping")
        url = self._url(ping, {}, {})
        await asyncio.gather(*(self._once(ping, url, None) for _ in range(connections)), return_exceptions=True)

    def _url(self, operation: Operation, path: Mapping[str, str], query: Mapping[str, Param]) -> URL:
        where = operation.path
        for name, value in path.items():
            if not value or value in (".", ".."):
                raise AriBadRequest(
                    f"{operation.name}: {name}: expected an id, found {value!r}", operation=operation.name
                )
            where = where.replace(f"{{{name}}}", _encode(value))
        given = "&".join(f"{name}={_encode(_text(value))}" for name, value in query.items() if value is not None)
        text = f"{self._settings.url}/ari{where}" + (f"?{given}" if given else "")
        return URL(text, encoded=True)

    async def _once(self, operation: Operation, url: URL, body: Mapping[str, object] | None) -> bytes:
        data = None if body is None else orjson.dumps(body)
        headers = None if data is None else {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._turns,
                self._session.request(
                    operation.method, url, data=data, headers=headers, allow_redirects=False
                ) as answer,
            ):
                content = await _read(operation, answer)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # RuntimeError: the session is closed
            raise self._unreachable(operation, error) from None
        if 200 <= answer.status < 300:
            return content
        raise refusal(operation.name, answer.status, _message(content, answer.content_type), self._settings)

    def _unreachable(self, operation: Operation, error: Exception) -> AriUnavailable:
        url = self._settings.url
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = f"the certificate of {url} is not trusted ({error.certificate_error}); set ari.ca_file to its CA"
        elif isinstance(error, TimeoutError):
            why = f"no answer from {url} within {TIMEOUT:g} s"
        elif isinstance(error, aiohttp.ClientConnectorError):
            why = (
                f"no connection to {url} ({error.os_error.strerror or error.os_error}); "
                "is Asterisk running, and enabled and bound there in http.conf?"
            )
        elif self._session.closed:
            why = "the client is closed"
        else:
            why = f"the connection to {url} was lost ({type(error).__name__})"
        return AriUnavailable(f"{operation.name}: {why}", operation=operation.name)


def refusal(operation: str, status: int, message: str, settings: AriSettings) -> AriError:
    """The error for an answer that is not 2xx; `message` is Asterisk's own, empty when it was not ARI that answered."""
    kind: type[AriError]
    says = message or f"HTTP {status}"
    if status == 401:
        kind = AriUnauthorized
        says = (
            f"Asterisk does not take user {settings.username!r} with this password; "
            "ari.username and ari.password must be those of a user in ari.conf"
        )
    elif status == 403 and message in ("", "Write access denied"):
        kind = AriUnauthorized
        says = f"user {settings.username!r} may only read ({says}); set read_only = no for it in ari.conf"
    elif status == 404 or (status, message) in _GONE:
        kind = AriNotFound
        if not message:
            says = (
                f"there is no ARI at {settings.url}; set enabled = yes in ari.conf, and compare ari.url with http.conf"
            )
    elif status in (409, 412, 422) and "not in stasis" in message.lower():
        kind = AriNotInStasis
    elif status in (409, 412) or (status, message) == _EXISTS:
        kind = AriConflict
    elif status >= 500 or status < 400:
        kind = AriUnavailable
    else:
        kind = AriBadRequest
    return kind(f"{operation}: {says}", status=status, operation=operation)


async def _read(operation: Operation, answer: aiohttp.ClientResponse) -> bytes:
    """The body. :raises AriError: it is longer than `MAX_ANSWER`, whatever its headers say."""
    parts: list[bytes] = []
    size, stated = 0, answer.content_length or 0
    if stated <= MAX_ANSWER:
        async for part in answer.content.iter_any():
            size += len(part)
            if size > MAX_ANSWER:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    answer.close()
    raise AriError(
        f"{operation.name}: expected at most {MAX_ANSWER} bytes, found {max(size, stated)} or more",
        status=answer.status,
        operation=operation.name,
    )


def _message(content: bytes, content_type: str) -> str:
    if content_type != "application/json":
        return ""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return ""
    found = (document.get("message") or document.get("error")) if isinstance(document, dict) else None
    return str(found)[:500] if found else ""


def _tls(settings: AriSettings) -> ssl.SSLContext | bool:
    if not settings.url.startswith("https"):
        return True
    try:
        return ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"ari.ca_file: expected a PEM file of certificates, found {settings.ca_file}: {error}"
        ) from None


def _text(value: Param) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else ",".join(value or ())


def _encode(value: str) -> str:
    return quote(value, safe="", errors="replace")
