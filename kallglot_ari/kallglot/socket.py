"""Opening the WebSocket of a session: where the token goes, and what counts as refused."""

from __future__ import annotations

import asyncio
import ipaddress
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import aiohttp

from kallglot_ari.calls.model import Session
from kallglot_ari.errors import StreamClosed, StreamRefused
from kallglot_ari.log import redact
from kallglot_ari.settings import KallglotSettings

MESSAGE_LIMIT = 2 * 1024 * 1024
"""The longest message that is taken, in bytes: half a minute of 16-bit PCM at 24 kHz."""
PING_EVERY = 4.0
"""Seconds between pings, and how long an answer may take."""
CLOSE_WITHIN = 1.0
"""Seconds that the closing handshake may take."""


def stream_request(session: Session, contract: str) -> tuple[str, dict[str, str]]:
    """URL and headers that open `session`'s stream: the token goes where the contract has it.

    :raises StreamRefused: when the URL is none, or would send the token in clear over a network.
    """
    try:
        parts = urlsplit(session.stream_url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("ws", "wss") or not host:
        raise StreamRefused(
            f"stream of {session.id}: expected a ws:// or wss:// URL, found {redact(session.stream_url)!r}"
        )
    if parts.scheme == "ws" and not _loopback(host):
        raise StreamRefused(f"stream of {session.id}: expected wss:// for anything but loopback, found ws://{host}")
    headers = {}
    if session.stream_token:
        if contract == "provider":
            headers["Authorization"] = f"Bearer {session.stream_token}"
        elif "token" not in parse_qs(parts.query):
            query = "&".join(filter(None, (parts.query, urlencode({"token": session.stream_token}))))
            parts = parts._replace(query=query)
    return urlunsplit(parts), headers


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def connect(
    http: aiohttp.ClientSession, session: Session, settings: KallglotSettings, *, timeout: float
) -> aiohttp.ClientWebSocketResponse:
    """Open the WebSocket, once.

    :raises StreamRefused: the server does not want it. :raises StreamClosed: it could not be reached, or has trouble.
    """
    url, headers = stream_request(session, settings.contract)
    where = f"stream of {session.id}"
    try:
        async with asyncio.timeout(timeout):
            return await http.ws_connect(
                url,
                headers=headers,
                max_msg_size=MESSAGE_LIMIT,
                autoping=False,
                heartbeat=None if settings.contract == "routing" else 2 * PING_EVERY,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_WITHIN),
            )
    except aiohttp.WSServerHandshakeError as error:
        if error.status >= 500 or error.status in (408, 429):
            raise StreamClosed(f"{where}: the server answered {error.status}") from None
        raise StreamRefused(f"{where}: expected 101, found {error.status} {redact(error.message)[:100]}") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise StreamRefused(f"{where}: the server's certificate is not accepted: {error.certificate_error}") from None
    except TimeoutError:
        raise StreamClosed(f"{where}: expected it to open within {timeout:.1f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise StreamClosed(f"{where}: no connection: {redact(str(error))[:200]}") from None
    except ValueError as error:  # a host, a token or a user that no request can be made with
        raise StreamRefused(f"{where}: expected a URL that can be asked, found {redact(str(error))[:100]}") from None
