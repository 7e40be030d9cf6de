"""Asks a SIP endpoint how it is, as `sipsak` does, and says what is wrong in words that help: TLS, OPTIONS, log-in, offer."""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from kallglot_ari.errors import SipProbeError
from kallglot_ari.pbx import sip
from kallglot_ari.pbx.addresses import sip_uri, split_port
from kallglot_ari.pbx.sip import Dialog, Response
from kallglot_ari.settings import Endpoint, TrunkSettings

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 4.0
EXPIRES_SOON_DAYS = 14
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(slots=True)
class Probe:
    """What was found of an endpoint that is well."""

    tls: str = ""
    """Version of TLS, and until when the certificate is good."""
    options_ms: float = 0.0
    server: str = ""
    invite: str = ""
    """What an INVITE to a session that does not exist was answered: that far the log-in and the address are accepted."""


class _Line(Protocol):
    local: str

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes: ...


class _Stream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        host, port = writer.get_extra_info("sockname")[:2]
        self.local = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._data = b""

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        while not (size := sip.complete(self._data)):
            more = await self._reader.read(sip.MAX_MESSAGE)
            if not more:
                raise ConnectionError("the connection was closed before an answer")
            self._data = (self._data + more).lstrip(b"\r\n")
        message, self._data = self._data[:size], self._data[size:]
        return message


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self._received: asyncio.Queue[bytes] = asyncio.Queue(100)
        self.local = ""
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        host, port = transport.get_extra_info("sockname")[:2]
        self.local = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def datagram_received(self, data: bytes, _: Any) -> None:
        if not self._received.full():
            self._received.put_nowait(data)

    async def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.sendto(data)

    async def receive(self) -> bytes:
        return await self._received.get()


def tls_context(trunk: TrunkSettings) -> ssl.SSLContext:
    """As strict as the PBX is told to be. :raises SipProbeError: the CA file cannot be read here."""
    try:
        context = ssl.create_default_context(cafile=trunk.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SipProbeError(
            f"trunk.ca_file {trunk.ca_file}: {getattr(error, 'strerror', None) or error}",
            "it is a path on the PBX: run doctor there, and see that Asterisk's user can read it; without it Asterisk drops "
            "the transport kallglot-tls, and no call is dialled",
        ) from None
    context.minimum_version = _VERSIONS[trunk.tls_min_version]
    if not trunk.tls_verify_certificate:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@asynccontextmanager
async def _connected(endpoint: Endpoint, trunk: TrunkSettings, found: Probe) -> AsyncIterator[_Line]:
    host, port = split_port(endpoint.uri, trunk.transport)
    host = host.strip("[]")
    if trunk.transport == "udp":
        loop = asyncio.get_running_loop()
        transport, line = await loop.create_datagram_endpoint(_Datagrams, remote_addr=(host, port))
        try:
            yield line
        finally:
            transport.close()
        return
    context = tls_context(trunk) if trunk.transport == "tls" else None
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=host if context else None, ssl_handshake_timeout=None
        )
    try:
        if context is not None:
            found.tls = _tls(writer, endpoint)
        yield _Stream(reader, writer)
    finally:
        writer.transport.abort()


def _tls(writer: asyncio.StreamWriter, endpoint: Endpoint) -> str:
    version = writer.get_extra_info("ssl_object").version()
    certificate = writer.get_extra_info("peercert") or {}
    if "notAfter" not in certificate:
        return f"{version}, certificate not verified"
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    days = (until - datetime.now(UTC)).days
    if days < EXPIRES_SOON_DAYS:
        raise SipProbeError(
            f"{endpoint.uri}: its certificate ends on {until:%Y-%m-%d}", "tell Kallglot, or who runs the endpoint"
        )
    return f"{version}, certificate good until {until:%Y-%m-%d}"


async def probe(endpoint: Endpoint, trunk: TrunkSettings) -> Probe:
    """Everything that can be learnt without a session. :raises SipProbeError: says what to do."""
    found = Probe()
    try:
        async with _connected(endpoint, trunk, found) as line:
            await _options(endpoint, trunk, line, found)
            await _invite(endpoint, trunk, line, found)
    except ssl.SSLCertVerificationError as error:
        raise SipProbeError(
            f"{endpoint.uri}: its certificate is refused: {error.verify_message}",
            "set trunk.ca_file to the CA that signed it, or name the endpoint as its certificate does; "
            "do not switch tls_verify_certificate off",
        ) from None
    except ssl.SSLError as error:
        old = "VERSION" in (error.reason or "") or "PROTOCOL" in (error.reason or "")
        raise SipProbeError(
            f"{endpoint.uri}: no TLS connection: {(error.reason or str(error)).replace('_', ' ').lower()}",
            f"it does not speak {trunk.tls_min_version} or later: lower trunk.tls_min_version, or have it brought up to date"
            if old
            else "is this the port for TLS (5061), and not the one for TCP and UDP (5060)?",
        ) from None
    except TimeoutError:
        raise SipProbeError(
            f"{endpoint.uri}: no answer",
            "a firewall that swallows packets, or a port that is not SIP's: nc -zv HOST PORT, and ask whether this address is in "
            "Kallglot's Allowed IPs",
        ) from None
    except (OSError, ValueError) as error:
        raise SipProbeError(
            f"{endpoint.uri}: {getattr(error, 'strerror', None) or error}",
            "check trunk.endpoints, and that the firewall lets this machine out to it",
        ) from None
    return found


async def _options(endpoint: Endpoint, trunk: TrunkSettings, line: _Line, found: Probe) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    dialog = _dialog(f"sip:{split_port(endpoint.uri, trunk.transport)[0]}", trunk, line)
    response = await _ask(line, dialog.request("OPTIONS"))
    found.options_ms = (loop.time() - began) * 1000
    found.server = response.header("server") or response.header("user-agent")


async def _invite(endpoint: Endpoint, trunk: TrunkSettings, line: _Line, found: Probe) -> None:
    """An INVITE to a session that does not exist: everything but that should be right with it."""
    dialog = _dialog(sip_uri(f"doctor-{secrets.token_hex(8)}", endpoint, trunk.transport), trunk, line)
    host, _, port = line.local.rpartition(":")
    body = sip.offer(trunk, host.strip("[]"), int(port), base64.b64encode(secrets.token_bytes(30)).decode())
    response = await _call(line, dialog, [], body)
    challenge = response.header("www-authenticate") or response.header("proxy-authenticate")
    if response.status in (401, 407):
        if not trunk.username:
            raise SipProbeError(f"{endpoint.uri}: it wants a log-in", "set trunk.username and trunk.password")
        answer = sip.authorization(
            challenge,
            "INVITE",
            dialog.uri,
            trunk.username,
            trunk.password.get_secret_value(),
            cnonce=secrets.token_hex(8),
        )
        if answer is None:
            raise SipProbeError(f"{endpoint.uri}: it wants a log-in that is not digest", "ask Kallglot what it expects")
        name = "Authorization" if response.status == 401 else "Proxy-Authorization"
        response = await _call(line, dialog, [(name, answer)], body)
    _judge(endpoint, response)
    found.invite = f"{response.status} {response.reason}".strip()


def _judge(endpoint: Endpoint, response: Response) -> None:
    said = f"{endpoint.uri}: an INVITE was answered {response.status} {response.reason}".strip()
    if response.status in (401, 407):
        raise SipProbeError(
            f"{said}: the log-in is refused", "check trunk.username and trunk.password with Kallglot's SIP credentials"
        )
    if response.status == 403:
        raise SipProbeError(
            f"{said}: this address or account is not allowed", "add the PBX's public address to Kallglot's Allowed IPs"
        )
    if response.status in (415, 488, 606):
        raise SipProbeError(
            f"{said}: it takes nothing of what is offered",
            "trunk.codecs has none of its codecs, or trunk.srtp and trunk.srtp_suites do not fit: Kallglot wants SRTP",
        )
    if response.status >= 500:
        raise SipProbeError(
            f"{said}: it cannot take calls now", "the other trunk.endpoints are tried; ask Kallglot's status page"
        )


async def _call(line: _Line, dialog: Dialog, headers: list[tuple[str, str]], body: str) -> Response:
    """The final response to an INVITE, acknowledged; a call that is answered all the same is hung up."""
    dialog.to_tag = ""
    response = await _ask(line, dialog.request("INVITE", headers, body))
    _, _, tag = response.header("to").rpartition("tag=")
    dialog.to_tag = tag.partition(";")[0]
    await line.send(dialog.request("ACK"))
    if response.status < 300:
        await _ask(line, dialog.request("BYE"))
    return response


async def _ask(line: _Line, request: bytes) -> Response:
    async with asyncio.timeout(ANSWER_SECONDS):
        await line.send(request)
        while True:
            response = sip.parse(await line.receive())
            if response is not None and response.status >= 200:
                return response


def _dialog(uri: str, trunk: TrunkSettings, line: _Line) -> Dialog:
    return Dialog(
        uri, f"sip:{trunk.username or 'doctor'}@{trunk.domain}", line.local, trunk.transport,
        f"{secrets.token_hex(12)}@kallglot-ari", secrets.token_hex(4),
    )  # fmt: skip
