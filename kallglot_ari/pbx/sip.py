"""As much SIP as it takes to ask an endpoint how it is: requests, responses, digest log-in (RFC 3261, 7616, 4568). Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kallglot_ari.settings import TrunkSettings

MAX_MESSAGE = 64 * 1024
_PAYLOADS = {
    "opus": (107, "opus/48000/2"),
    "G722": (9, "G722/8000"),
    "PCMU": (0, "PCMU/8000"),
    "PCMA": (8, "PCMA/8000"),
}
MAX_CHALLENGE = 4096
"""Characters of a challenge: what is longer is none."""
_PARAMETER = re.compile(r'(?<!\w)(\w{1,64})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Response:
    """A response; header names in lower case, of repeated ones all."""

    status: int
    reason: str
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: str = ""

    def header(self, name: str) -> str:
        """The first of that name, or empty."""
        return next(iter(self.headers.get(name, [])), "")


@dataclass(slots=True)
class Dialog:
    """Who asks whom; the same for all requests of one dialog."""

    uri: str
    """Request-URI and To."""
    caller: str
    """URI in From."""
    local: str
    """Our host:port, in Via and Contact."""
    transport: str
    call_id: str
    tag: str
    cseq: int = 0
    to_tag: str = ""

    def request(self, method: str, headers: Sequence[tuple[str, str]] = (), body: str = "") -> bytes:
        """A request with the next CSeq; an ACK takes that of the INVITE before it."""
        if method != "ACK":
            self.cseq += 1
        to = f"<{self.uri}>" + (f";tag={self.to_tag}" if self.to_tag else "")
        content = [("Content-Type", "application/sdp")] if body else []
        lines = [f"{method} {self.uri} SIP/2.0"]
        lines += [
            f"{name}: {value}"
            for name, value in (
                ("Via", f"SIP/2.0/{self.transport.upper()} {self.local};rport;branch=z9hG4bK{self.tag}{self.cseq}"),
                ("Max-Forwards", "70"), ("From", f"<{self.caller}>;tag={self.tag}"), ("To", to),
                ("Call-ID", self.call_id), ("CSeq", f"{self.cseq} {method}"),
                ("Contact", f"<sip:{self.local};transport={self.transport}>"), ("User-Agent", "kallglot-ari doctor"),
                *headers, *content, ("Content-Length", str(len(body.encode()))),
            )
        ]  # fmt: skip
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def complete(data: bytes) -> int:
    """Octets of the first whole message in `data`, 0 when it is not whole yet. :raises ValueError: it cannot be SIP."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MAX_MESSAGE:
            raise ValueError("expected a SIP message, found 64 kB without an end of its headers")
        return 0
    match = re.search(
        rb"^(?:content-length|l)[ \t]*:[ \t]*(\d{1,6})[ \t]*\r?$", data[: end + 2], re.IGNORECASE | re.MULTILINE
    )
    size = end + 4 + (int(match[1]) if match else 0)
    if size > MAX_MESSAGE:
        raise ValueError(f"expected a SIP message of at most {MAX_MESSAGE} octets, found {size}")
    return size if len(data) >= size else 0


def parse(data: bytes) -> Response | None:
    """The response in `data`; None for a request. :raises ValueError: neither."""
    head, _, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
    first, *lines = re.sub(r"\r\n[ \t]+", " ", head).split("\r\n")
    if re.fullmatch(r"[A-Z]+ \S+ SIP/2\.0", first):
        return None
    match = re.fullmatch(r"SIP/2\.0 ([1-6]\d\d) ?(.*)", first)
    if match is None:
        raise ValueError(f"expected a SIP response, found {first[:60]!r}")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    return Response(int(match[1]), match[2], headers, body)


def authorization(challenge: str, method: str, uri: str, user: str, password: str, *, cnonce: str) -> str | None:
    """What answers a digest challenge; None for one that cannot be answered (no digest, an unknown algorithm)."""
    if len(challenge) > MAX_CHALLENGE:
        return None
    scheme, _, rest = challenge.strip().partition(" ")
    asked = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(rest)}
    algorithm = asked.get("algorithm", "MD5").upper()
    if scheme.lower() != "digest" or algorithm not in ("MD5", "SHA-256") or "nonce" not in asked:
        return None

    def digest(text: str) -> str:
        data = text.encode()
        return (
            hashlib.md5(data, usedforsecurity=False).hexdigest()
            if algorithm == "MD5"
            else hashlib.sha256(data).hexdigest()
        )

    realm, nonce = asked.get("realm", ""), asked["nonce"]
    first, second = digest(f"{user}:{realm}:{password}"), digest(f"{method}:{uri}")
    parts = [f'username="{user}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{uri}"', f"algorithm={algorithm}"]
    if "auth" in [item.strip() for item in asked.get("qop", "").split(",")]:
        response = digest(f"{first}:{nonce}:00000001:{cnonce}:auth:{second}")
        parts += ["qop=auth", "nc=00000001", f'cnonce="{cnonce}"']
    else:
        response = digest(f"{first}:{nonce}:{second}")
    if "opaque" in asked:
        parts.append(f'opaque="{asked["opaque"]}"')
    return "Digest " + ", ".join([*parts, f'response="{response}"'])


def offer(trunk: TrunkSettings, host: str, port: int, key: str) -> str:
    """The SDP that this trunk's PBX would offer. :param key: 30 octets in base64 (RFC 4568 §6.1), for nobody's use."""
    payloads = [_PAYLOADS[codec] for codec in trunk.codecs]
    lines = [
        "v=0", f"o=- 1 1 IN IP4 {host}", "s=-", f"c=IN IP4 {host}", "t=0 0",
        f"m=audio {port} RTP/{'S' if trunk.srtp else ''}AVP {' '.join(str(number) for number, _ in payloads)}",
        *(f"a=rtpmap:{number} {name}" for number, name in payloads),
    ]  # fmt: skip
    if trunk.srtp:
        lines += [f"a=crypto:{n} {suite} inline:{key}" for n, suite in enumerate(trunk.srtp_suites, 1)]
    return "\r\n".join([*lines, "a=ptime:20", "a=sendrecv", ""])
