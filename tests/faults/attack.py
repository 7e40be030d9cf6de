"""`python -m tests.faults.attack --web PORT --agi PORT --rtp PORT …`: hostile HTTP, FastAGI and RTP from a process of its own.

Prints as JSON how much of each was sent and what came of it. Nothing it sends may be taken: requests without the token or with a wrong one,
requests with the token whose fields would reach the dialplan or SIP, AGI that is none or asks for what there is not, RTP from elsewhere
than the call's Asterisk. Half of all are what the service usually gets, with a few octets changed (`tests.fuzz.mutate`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from kallglot_ari.audio.codecs.g711 import ulaw_encoder
from tests.audio_checks import tone
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import SEEDS

SHARES = {"http": 0.4, "agi": 0.2, "rtp": 0.4}
HERTZ = 2000.0
"""What the attacker would be heard with."""
ADDRESSES = [f"127.0.0.{n}" for n in range(1, 9)]
WORKERS = 24
PATIENCE = 0.25
"""Seconds to wait for an answer to what may be half a request."""
ONE = "/api/v1/calls/{call}"
ROUTES = (
    "GET /api/v1/calls", "POST /api/v1/calls", f"GET {ONE}", f"GET {ONE}/transcript", f"POST {ONE}/hangup", f"POST {ONE}/transfer",
    f"POST {ONE}/dtmf", f"POST {ONE}/pcap", f"DELETE {ONE}/pcap", f"POST {ONE}/legs", f"DELETE {ONE}/legs/agent",
    f"POST {ONE}/supervise", "GET /api/v1/events", "POST /pbx/incoming", "POST /pbx/hangup", "POST /pbx/prepare",
    "POST /pbx/freeswitch", "POST /pbx/curri", "POST /webhooks/kallglot", "POST /webhooks/sip/refer",
    "GET /static/../server.py", "GET /static/%2e%2e/%2e%2e/etc/passwd", "PUT /api/v1/calls", "GET /nothing",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"[" * 300, b"\0\xff", b'{"customer": "PJSIP/a", "agent": "PJSIP/b", "source": "de", "target": "en"}',
    b'{"party": "agent", "target": "100"}', b'{"id": "evt_1", "type": "session.ended", "data": {"session_id": "s"}}',
    b'{"session_id": "s", "refer_to": "sip:1@example.com"}', b'{"callId": "1", "from": "1", "to": "2"}',
)  # fmt: skip
WRONG = (
    "", "Authorization: Bearer", "Authorization: Bearer wrong", "Authorization: Basic a2FsbGdsb3Q6d3Jvbmc=", "Cookie: token=wrong",
    "Authorization: Bearer wrong\r\nX-Forwarded-For: 127.0.0.1", "Origin: https://evil.example", "Host: evil.example",
    "Kallglot-Signature: t=1,v1=00", "Transfer-Encoding: chunked\r\nContent-Length: 5", "Kallglot-Signature: t=9e9,v1=" + "0" * 64,
)  # fmt: skip
INJECTED: tuple[Any, ...] = (
    "", "PJSIP/1,30,g", "PJSIP/1)\r\nHangup(", "PJSIP/${SHELL(id)}", "PJSIP/a b", 'PJSIP/"x"', "PJSIP/1|Local/2", "100\0", "é" * 300,
    "sip:1@x\r\nContact: <sip:evil>", "1;2", "$[1+1]", "../" * 20, "A" * 9000, None, 7.5, [], {}, True,
)  # fmt: skip
CONTROLS: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("/api/v1/calls", {"customer": "PJSIP/a", "agent": "PJSIP/b"}, ("customer", "agent")),
    (f"{ONE}/transfer", {"party": "agent", "target": "100"}, ("party", "target")),
    (f"{ONE}/dtmf", {"party": "agent", "digits": "1"}, ("party", "digits")),
    (f"{ONE}/legs", {"endpoint": "PJSIP/a"}, ("endpoint",)),
)
"""Path, a body that would be taken, and its fields of which one is spoilt."""
PUBLIC = re.compile(rb"^[A-Za-z]+ +(?:https?://[^/ ]*)?/(?:healthz|readyz|metrics|subtitles|static/\w+\.\w+)?(?:[?#]\S*)?(?:\s|$)", re.MULTILINE)  # fmt: skip
ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) [A-Z]")


class Attacker:
    """What is sent, and what came of it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.given = arguments
        self.rng = random.Random(arguments.seed)
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.accepted: list[str] = []
        self.held: list[asyncio.StreamWriter] = []
        self.agi = [
            file.read_bytes().replace(b"session", b"nothing").replace(b"/end", b"/nothing")
            for file in sorted((SEEDS / "agi").iterdir())
        ]
        self.rtp = [file.read_bytes() for name in ("rtp", "media") for file in sorted((SEEDS / name).iterdir())]
        loud = ulaw_encoder().encode(tone(HERTZ, 0.02, 8000, level_dbfs=-3))
        self.sockets = [self._socket(address) for address in ADDRESSES]
        self.loud, self.sequences = bytes(loud), [0] * len(self.sockets)

    @staticmethod
    def _socket(address: str) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 0))
        return made

    # --- HTTP

    def forged(self) -> bytes:
        """A request that is well-formed, but nobody may make."""
        method, path = self.rng.choice(ROUTES).replace("{call}", self.given.call).split()
        return self._request(method, path, self.rng.choice(WRONG), self.rng.choice(BODIES))

    def injected(self) -> bytes:
        """With the token; but one field would end an argument, call a function of the dialplan or begin a header of SIP."""
        path, good, fields = self.rng.choice(CONTROLS)
        body = json.dumps(good | {self.rng.choice(fields): self.rng.choice(INJECTED)}).encode()
        return self._request(
            "POST", path.replace("{call}", self.given.call), f"Authorization: Bearer {self.given.token}", body
        )

    def _request(self, method: str, path: str, headers: str, body: bytes) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Connection: close", "Content-Type: application/json"]
        lines += [] if headers.startswith("Host:") else ["Host: 127.0.0.1"]
        lines += [headers] if headers else []
        lines += [f"Content-Length: {len(body)}"] if body and "Length" not in headers else []
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def http(self) -> None:
        kind = self.rng.choices(("forged", "mutated", "injected", "long", "held"), (40, 45, 10, 4, 1))[0]
        if kind == "held":
            await self._hold(self.given.web, self.forged()[:-3])
            return
        if kind == "injected":
            data = self.injected()
        elif kind == "long":
            header = "X-Long: " + "a" * self.rng.choice((7000, 9000, 70_000))
            body = b"x" * self.rng.choice((0, 70_000, 1_100_000))
            data = self._request("POST", "/pbx/incoming", header, body)
        else:
            data = self.forged()
            data = mutated([data], self.rng) if kind == "mutated" else data
        answer = await self._exchange(self.given.web, data)
        statuses = [int(status) for status in ANSWER.findall(answer)]
        self.answers.update(f"http {status}" for status in statuses)
        self.answers["http none"] += not statuses
        if any(not 400 <= status < 500 for status in statuses) and not PUBLIC.search(data):
            self.accepted.append(f"{statuses}: {data[:300]!r}")

    # --- FastAGI

    async def fast_agi(self) -> None:
        kind = self.rng.choices(("mutated", "noise", "cut", "endless", "argument", "held"), (50, 10, 15, 4, 20, 1))[0]
        seed = self.rng.choice(self.agi)
        if kind == "held":
            await self._hold(self.given.agi, seed[: len(seed) // 2])
            return
        if kind == "argument":
            wrong = self.rng.choice(
                ('source=de"}', "mode=${SHELL(id)}", "tech=Local", "participants=1e9", "timeout=nan", "agent=a b")
            )
            data = f"agi_network_script: session\nagi_channel: PJSIP/a-1\nagi_uniqueid: 1.1\nagi_arg_1: {wrong}\n\n".encode()
            data += self.rng.choice((b"", b"200 result=\n" * 50, b"510\n", self.rng.randbytes(50)))
        else:
            data = {
                "mutated": lambda: mutated(self.agi, self.rng),
                "noise": lambda: self.rng.randbytes(self.rng.randrange(1, 3000)),
                "cut": lambda: seed[: self.rng.randrange(1, len(seed))],
                "endless": lambda: b"agi_network_script: " + b"a" * 70_000,
            }[kind]()
        await self._exchange(self.given.agi, data, wait=kind == "argument")

    # --- both

    async def _exchange(self, port: int, data: bytes, *, wait: bool = True) -> bytes:
        """Send, and what comes back; the connection is reset."""
        answer = bytearray()
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(self.rng.choice(ADDRESSES), 0)
            )
        except OSError as error:
            self.answers[f"refused: {error.strerror}"] += 1
            return b""
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            writer.write(data)
            async with asyncio.timeout(PATIENCE if wait else 0.02):
                while piece := await reader.read(65536):
                    answer += piece
        except (OSError, TimeoutError):
            pass
        finally:
            writer.transport.abort()
        return bytes(answer)

    async def _hold(self, port: int, data: bytes) -> None:
        """Half a request, whose rest never comes; the last 200 stay open."""
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        self.held.append(writer)
        if len(self.held) > 200:
            self.held.pop(0).transport.abort()

    # --- RTP

    async def datagram(self) -> None:
        which = self.rng.randrange(len(self.sockets))
        kind = self.rng.choices(("mutated", "loud", "noise", "long"), (45, 40, 10, 5))[0]
        if kind == "loud":
            self.sequences[which] += 1
            sequence = self.sequences[which]
            data = struct.pack("!BBHII", 0x80, 0, sequence & 0xFFFF, sequence * 160, which + 1) + self.loud
        elif kind == "mutated":
            data = mutated(self.rtp, self.rng)[:9000]
        else:
            data = self.rng.randbytes(self.rng.randrange(*((0, 400) if kind == "noise" else (1500, 9000))))
        self.sockets[which].sendto(data, ("127.0.0.1", self.given.rtp))

    # --- all of it

    async def run(self) -> None:
        kinds: dict[str, Callable[[], Coroutine[Any, Any, None]]]
        kinds = {"http": self.http, "agi": self.fast_agi, "rtp": self.datagram}
        await asyncio.gather(*(self._paced(name, send) for name, send in kinds.items()))
        for writer in self.held:
            writer.transport.abort()

    async def _paced(self, name: str, send: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Its share of the inputs, evenly spread over the time that the rate gives."""
        number, rate = round(self.given.inputs * SHARES[name]), self.given.rate * SHARES[name]
        began = time.monotonic()

        async def work() -> None:
            while self.sent[name] < number:
                self.sent[name] += 1
                early = began + self.sent[name] / rate - time.monotonic()
                if early > 0:
                    await asyncio.sleep(early)
                await send()

        await asyncio.gather(*(work() for _ in range(1 if name == "rtp" else WORKERS)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for port in ("web", "agi", "rtp"):
        parser.add_argument(f"--{port}", type=int, required=True, metavar="PORT")
    parser.add_argument("--token", required=True, help="the right one, for requests whose fields are wrong")
    parser.add_argument("--call", required=True, help="the id of a live call")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1000.0, help="inputs a second")
    parser.add_argument("--seed", type=int, default=1)
    attacker = Attacker(parser.parse_args())
    began = time.monotonic()
    asyncio.run(attacker.run())
    said = {"sent": attacker.sent, "answers": attacker.answers, "accepted": attacker.accepted[:10]}
    print(json.dumps(said | {"seconds": round(time.monotonic() - began, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
