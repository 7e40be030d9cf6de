"""Opening the WebSocket of a session: where the token goes, what counts as refused, and how little may wait unsent."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket as sockets
import struct
from collections.abc import Callable
from random import getrandbits
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import aiohttp

from kallglot_ari.calls.model import Session
from kallglot_ari.errors import StreamClosed, StreamRefused
from kallglot_ari.kallglot.shortcut import Shortcut
from kallglot_ari.log import redact
from kallglot_ari.settings import KallglotSettings


def _mask_slowly(mask: bytes, data: bytearray) -> None:
    size = len(data)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    data[:] = (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")


try:
    from aiohttp._websocket.helpers import websocket_mask as _mask
except ImportError:  # it is no part of aiohttp's interface
    _mask = _mask_slowly

MESSAGE_LIMIT = 2 * 1024 * 1024
"""The longest message that is taken, in bytes: half a minute of 16-bit PCM at 24 kHz."""
PING_EVERY = 4.0
"""Seconds between pings, and how long an answer may take."""
CLOSE_WITHIN = 1.0
"""Seconds that the closing handshake may take."""

# The header of a client's text message by its length: two bytes, the rest of the length, the mask.
_TINY, _SHORT, _LONG = (struct.Struct(form).pack for form in ("!BBL", "!BBHL", "!BBQL"))


def text_frame(text: bytes) -> bytes:
    """A client's text message, UTF-8, as one frame."""
    size = len(text)
    mask = getrandbits(32)
    if size < 126:
        header = _TINY(0x81, 0x80 | size, mask)
    elif size < 1 << 16:
        header = _SHORT(0x81, 0x80 | 126, size, mask)
    else:
        header = _LONG(0x81, 0x80 | 127, size, mask)
    payload = bytearray(text)
    _mask(header[-4:], payload)
    return header + payload


class Socket(aiohttp.ClientWebSocketResponse):
    """aiohttp's WebSocket, which also hears text messages at once, and says how much of what was sent still waits."""

    transport: asyncio.Transport | None = None
    _shortcut: Shortcut | None = None
    _bare = False
    """Whether a message is sent as it is: nothing was agreed that would change it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        response = next(a for a in (*args, *kwargs.values()) if isinstance(a, aiohttp.ClientResponse))
        connection = response.connection
        if connection is None or connection.transport is None or connection.protocol is None:
            return
        self.transport = connection.transport
        self._bare = not self.compress
        seen = getattr(connection.protocol, "_tail", None)  # it came with the answer to the handshake
        if self._bare and isinstance(seen, bytes):
            heartbeat = kwargs.get("heartbeat") is not None
            self._shortcut = Shortcut(connection.protocol, seen, heartbeat=heartbeat)
            self.transport.set_protocol(self._shortcut)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Tell `hear` what text messages can be told as they come in; `receive` has the others, and everything else."""
        if self._shortcut is not None:
            self._shortcut.listen(hear)

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        message = await super().receive(timeout)
        if self._shortcut is not None and message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            self._shortcut.owed -= 1
        return message

    @property
    def plain(self) -> asyncio.Transport | None:
        """The transport, if whole frames may be written to it; None where something was agreed that would change them."""
        return self.transport if self._bare else None

    @property
    def backlog(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def keep_short(self, size: int) -> None:
        """Let the kernel take no more than about `size` bytes that the network has not."""
        raw = self.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, size)


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
