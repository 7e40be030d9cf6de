"""Thousands of requests that must not be taken: forged, stale, replayed, malformed."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from kallglot_ari.kallglot.webhooks import sign
from tests.web.conftest import SECRET, TOKEN, Make, Site

REQUESTS = int(os.environ.get("KALLGLOT_FORGED_REQUESTS", "10000"))
"""About 8 s."""
Request = tuple[str, str, dict[str, str], bytes]

PATHS = ("/webhooks/kallglot", "/webhooks/sip/refer")
PBX = ("/pbx/incoming", "/pbx/hangup", "/pbx/prepare", "/pbx/freeswitch", "/pbx/curri")
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}
GOOD = {
    "/webhooks/kallglot": b'{"id": "evt_good", "type": "session.ended", "data": {"session_id": "sess_c1"}}',
    "/webhooks/sip/refer": b'{"session_id": "sess_c1", "refer_to": "sip:1002@example.com"}',
    "/pbx/incoming": b'{"callId": "c-1", "from": "+49301", "to": "100"}',
    "/pbx/hangup": b'{"callId": "known"}',
    "/pbx/prepare": b"{}",
    "/pbx/freeswitch": b"section=dialplan&Unique-ID=1",
    "/pbx/curri": b"<Request/>",
}
TYPES = {"/pbx/freeswitch": "application/x-www-form-urlencoded", "/pbx/curri": "text/xml"}


class Forger:
    """Makes requests of every wrong kind."""

    def __init__(self, seed: int, now: int) -> None:
        self.rng = random.Random(seed)
        self.now = now

    def junk(self, longest: int = 60) -> bytes:
        return self.rng.randbytes(self.rng.randrange(longest))

    def word(self) -> str:
        return "".join(self.rng.choice("abct=,v1 0123;\"'") for _ in range(self.rng.randrange(80))).strip()

    # --- webhooks: `path` is one of PATHS ------------------------------------------------------------------------------

    def signed(self, path: str, body: bytes, *, secret: str = SECRET, at: int = 0) -> Request:
        return "POST", path, {"Kallglot-Signature": sign(body, secret, at=at or self.now)}, body

    def unsigned(self, path: str) -> Request:
        return "POST", path, {}, GOOD[path]

    def other_secret(self, path: str) -> Request:
        return self.signed(
            path, GOOD[path], secret=self.rng.choice(["", SECRET[:-1], SECRET + "x", SECRET.upper(), self.word()])
        )

    def stale(self, path: str) -> Request:
        off = self.rng.choice([-1, 1]) * self.rng.choice([302, 1000, 86_400, 10**9])
        return self.signed(path, GOOD[path], at=max(1, self.now + off))

    def altered(self, path: str) -> Request:
        method, path, headers, body = self.signed(path, GOOD[path])
        at = self.rng.randrange(len(body))
        return method, path, headers, body[:at] + bytes([body[at] ^ (1 << self.rng.randrange(8))]) + body[at + 1 :]

    def cut_or_grown(self, path: str) -> Request:
        method, path, headers, body = self.signed(path, GOOD[path])
        return method, path, headers, body[: self.rng.randrange(len(body))] if self.rng.random() < 0.5 else body + b" "

    def no_signature(self, path: str) -> Request:
        good = sign(GOOD[path], SECRET, at=self.now)
        spoilt = [
            self.word(),
            good[:-1],
            good.replace("v1", "v0"),
            good.replace("t=", "t=-"),
            f"t={self.now}," + good,
            good[:20],
            "t=,v1=",
        ]
        return "POST", path, {"Kallglot-Signature": self.rng.choice(spoilt)}, GOOD[path]

    def signed_for_yesterday(self, path: str) -> Request:
        header = sign(GOOD[path], SECRET, at=self.now - 86_400).replace(str(self.now - 86_400), str(self.now))
        return "POST", path, {"Kallglot-Signature": header}, GOOD[path]

    def signed_but_no_event(self, path: str) -> Request:
        good = orjson.loads(GOOD[path])
        key = self.rng.choice(["id", "type"] if path.endswith("kallglot") else ["session_id", "refer_to"])
        wrong: Any = self.rng.choice([None, 7.5, [], {}, True, "", "a b", "x" * 5000, "é\x00", "sip:a b@c\r\nX: y"])
        bodies = [self.junk(), b"", b"[" * 400, b"null", b'"x"', orjson.dumps({**good, key: wrong})]
        return self.signed(path, self.rng.choice([*bodies, orjson.dumps({k: v for k, v in good.items() if k != key})]))

    def too_long(self, path: str) -> Request:
        return self.signed(path, GOOD[path] + b" " * 1_100_000) if self.rng.random() < 0.02 else self.unsigned(path)

    # --- /pbx ----------------------------------------------------------------------------------------------------------

    def pbx(self, path: str, headers: dict[str, str], body: bytes) -> Request:
        return "POST", path, {"Content-Type": TYPES.get(path, "application/json"), **headers}, body

    def no_token(self, path: str) -> Request:
        return self.pbx(path, {}, GOOD[path])

    def other_token(self, path: str) -> Request:
        wrong = [
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Token {TOKEN}",
            f"Basic {TOKEN}",
            TOKEN,
            "Basic ????",
            self.word(),
        ]
        return self.pbx(path, {"Authorization": self.rng.choice(wrong)}, GOOD[path])

    def token_elsewhere(self, path: str) -> Request:
        where = "" if path == "/pbx/curri" else f"?token={TOKEN}"
        return self.pbx(path + where, {"Cookie": f"token={TOKEN}"}, GOOD[path])

    def other_site(self, path: str) -> Request:
        return self.pbx(path, {**AUTHORIZED, "Origin": "https://evil.example"}, GOOD[path])

    def other_type(self, path: str) -> Request:
        found = self.rng.choice(["text/plain", "multipart/form-data", "application/octet-stream", "x", ""])
        return self.pbx(path, {**AUTHORIZED, "Content-Type": found}, GOOD[path])

    def no_fields(self, path: str) -> Request:
        if path in TYPES:
            return self.pbx(path, AUTHORIZED, b"\xff" + self.junk() if path.endswith("curri") else b"a=%ff")
        good = orjson.loads(GOOD[path])
        wrong: Any = self.rng.choice([None, 7.5, [], {"a": 1}, True, "a b", "x" * 600, "\x00", "a\r\nb"])
        field = self.rng.choice([*good, "expires_in" if path.endswith("prepare") else "callId"])
        if wrong is None and path.endswith("prepare"):
            wrong = "soon"
        if field in ("from", "to") and wrong in (None, "a b"):  # a withheld number, and a name
            wrong = []
        return self.pbx(path, AUTHORIZED, orjson.dumps({**good, "callId": "c-1", field: wrong}))

    def no_json(self, path: str) -> Request:
        if path in TYPES:
            return self.no_token(path)
        body = self.rng.choice(
            [b"{", b"[]", b"7", b"nul", b'{"callId": ', b"[" * 5000, b"\xff" + self.junk(), b'{"a": 1e999']
        )
        return self.pbx(path, AUTHORIZED, body)

    def one(self) -> Request:
        webhooks: list[Callable[[str], Request]] = [
            self.unsigned, self.other_secret, self.stale, self.altered, self.cut_or_grown, self.no_signature,
            self.signed_for_yesterday, self.signed_but_no_event, self.too_long,
        ]  # fmt: skip
        pbx: list[Callable[[str], Request]] = [
            self.no_token, self.other_token, self.token_elsewhere, self.other_site, self.other_type, self.no_fields, self.no_json,
        ]  # fmt: skip
        if self.rng.random() < 0.55:
            return self.rng.choice(webhooks)(self.rng.choice(PATHS))
        return self.rng.choice(pbx)(self.rng.choice(PBX))


async def sent(site: Site, request: Request) -> int:
    method, path, headers, body = request
    try:
        return (await site.ask(method, path, data=body, headers=headers, skip_auto_headers=["Content-Type"]))[0]
    except ValueError:
        return 0  # a header that no client can send


async def test_none_is_accepted_and_none_breaks_it(make_site: Make) -> None:
    site = await make_site(token=TOKEN, rate=1e9, burst=10**9)
    forger = Forger(11, int(site.clock.wall().timestamp()))
    once = forger.signed("/webhooks/kallglot", GOOD["/webhooks/kallglot"])
    assert await sent(site, once) == 200
    statuses: Counter[int] = Counter()
    for start in range(0, REQUESTS, 50):
        requests = [forger.one() for _ in range(min(50, REQUESTS - start))]
        found = await asyncio.gather(*(sent(site, request) for request in requests))
        wrong = [
            (status, request[:3])
            for status, request in zip(found, requests, strict=True)
            if not (status == 0 or 400 <= status < 500)
        ]
        assert wrong == []
        statuses.update(found)
        assert await sent(site, once) == 200, "a replay is acknowledged"
    assert statuses[0] < REQUESTS / 50
    assert {400, 401, 403, 415} <= set(statuses)
    assert site.ended == [("sess_c1", "")], "and does nothing"
    assert site.counted("accepted") == 1
    assert site.counted("duplicate") >= REQUESTS // 50
    assert site.pbx.asked == []
    for path in PBX:
        assert await sent(site, forger.pbx(path, AUTHORIZED, GOOD[path])) in (200, 201), path
    assert len(site.pbx.asked) == len(PBX)
