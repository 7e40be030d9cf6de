"""The least of a phone that sends its calls on (302)."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kallglot_ari.lab.asterisk import LabAsterisk


class Redirecting(asyncio.DatagramProtocol):
    """The least of a phone: it registers, and answers each INVITE with 302 and where to go instead."""

    def __init__(self, name: str, password: str, port: int, target: str) -> None:
        self.name, self.password, self.target = name, password, target
        self.registrar = f"sip:127.0.0.1:{port}"
        self.registered = asyncio.Event()
        self.asked = 0
        self.call_id = secrets.token_hex(8)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport
        self.own = "{}:{}".format(*transport.get_extra_info("sockname"))
        self.register(1)

    def register(self, number: int, proof: str = "") -> None:
        who = f"<sip:{self.name}@127.0.0.1>"
        self.send(
            f"REGISTER {self.registrar} SIP/2.0", f"Via: SIP/2.0/UDP {self.own};branch=z9hG4bK{secrets.token_hex(6)}",
            f"From: {who};tag=1", f"To: {who}", f"Call-ID: {self.call_id}", f"CSeq: {number} REGISTER", "Max-Forwards: 70",
            f"Contact: <sip:{self.name}@{self.own}>", "Expires: 120", *([proof] if proof else []),
        )  # fmt: skip

    def send(self, *lines: str) -> None:
        self.transport.sendto("\r\n".join([*lines, "Content-Length: 0", "", ""]).encode())

    def datagram_received(self, data: bytes, _: object) -> None:
        first, *headers = data.decode().partition("\r\n\r\n")[0].split("\r\n")
        if first.startswith("SIP/2.0 401"):
            self.register(2, self.proof("\n".join(headers)))
        elif first.startswith("SIP/2.0 200"):
            self.registered.set()
        elif first.startswith(("INVITE", "OPTIONS")):
            status = "302 Moved Temporarily" if first.startswith("INVITE") else "200 OK"
            self.asked += first.startswith("INVITE")
            same = [line for line in headers if line.lower().startswith(("via:", "from:", "call-id:", "cseq:"))]
            to = next(line for line in headers if line.lower().startswith("to:"))
            self.send(f"SIP/2.0 {status}", *same, f"{to};tag=2", f"Contact: <{self.target}>")

    def proof(self, asked: str) -> str:
        def md5(text: str) -> str:
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        realm, nonce, opaque = (
            found[1] if (found := re.search(rf'\b{name}="([^"]*)"', asked)) else ""
            for name in ("realm", "nonce", "opaque")
        )
        user, request = md5(f"{self.name}:{realm}:{self.password}"), md5(f"REGISTER:{self.registrar}")
        response = md5(f"{user}:{nonce}:00000001:c:auth:{request}")
        return (
            f'Authorization: Digest username="{self.name}", realm="{realm}", nonce="{nonce}", opaque="{opaque}", algorithm=MD5,'
            f' uri="{self.registrar}", qop=auth, nc=00000001, cnonce="c", response="{response}"'
        )


@asynccontextmanager
async def redirecting(asterisk: LabAsterisk, name: str, extension: str) -> AsyncIterator[Redirecting]:
    """The phone `name`, whose calls go to `extension`."""
    port, password = asterisk.sip_port, asterisk.phone_password
    transport, phone = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Redirecting(name, password, port, f"sip:{extension}@127.0.0.1"), remote_addr=("127.0.0.1", port)
    )
    try:
        await asyncio.wait_for(phone.registered.wait(), 5)
        yield phone
    finally:
        transport.close()
