"""What is fuzzed: every parser of what comes from outside, and what it may raise. Anything else it raises is a fault of ours."""

from __future__ import annotations

import copy
import heapq
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kallglot_ari.agi.protocol import HeaderParser, LineBuffer, ReplyParser
from kallglot_ari.ami import protocol as ami
from kallglot_ari.ari.decode import MalformedError, decode_event, read_many, read_one
from kallglot_ari.ari.models import Application, AsteriskInfo, Bridge, Channel
from kallglot_ari.calls import adopt
from kallglot_ari.errors import AgiError, ApiError, ConfigError, MediaError, StreamRefused, UsageError
from kallglot_ari.kallglot import rest, webhooks
from kallglot_ari.kallglot.downlink import ProviderDecoder, RoutingDecoder
from kallglot_ari.kallglot.socket import stream_request
from kallglot_ari.log import redact
from kallglot_ari.media import leg_socket
from kallglot_ari.modes import dialplan
from kallglot_ari.pbx import curri, hep, sip
from kallglot_ari.rtp.packet import RtpPacket
from kallglot_ari.sandbox import messages, validate
from kallglot_ari.settings import load
from kallglot_ari.web import fields
from kallglot_ari.web.problem import Problem
from kallglot_ari.web.requests import parse_json
from tests.media.simulated import Simulation
from tests.websocket.test_shortcut import Both, alone

SEEDS = Path(__file__).parent / "seeds"


@dataclass(frozen=True)
class Target:
    """`seeds/NAME/` holds inputs as they really come."""

    name: str
    parse: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = ()
    """How it says no."""

    @property
    def seeds(self) -> list[bytes]:
        return [file.read_bytes() for file in sorted((SEEDS / self.name).iterdir())]

    def try_(self, data: bytes) -> bool:
        """Whether it was taken. Raises what the parser must not."""
        try:
            self.parse(data)
        except self.refusals:
            return False
        return True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


class _Media:
    """Datagrams through the whole media tick, as if Asterisk had sent them; a new leg for each thousand."""

    def __init__(self) -> None:
        self._count = 0
        self._simulation = Simulation(1)

    def __call__(self, data: bytes) -> None:
        self._count += 1
        if self._count % 1000 == 0:
            self._simulation = Simulation(1)
        wire, now = self._simulation.wire, self._simulation.now
        heapq.heappush(wire.coming, (now + 0.005, self._count, 0, data[:1500]))
        self._simulation.run(now + 0.02)
        self._simulation.chunks.clear()
        wire.sent.clear()


def _agi(data: bytes) -> None:
    lines, header = LineBuffer(), HeaderParser()
    for line in lines.feed(data):
        if header.line(line) is not None:
            break


def _agi_reply(data: bytes) -> None:
    lines, replies = LineBuffer(), ReplyParser()
    for line in lines.feed(data):
        replies.line(line)


def _ami(data: bytes) -> None:
    pairs = (line.partition(":") for line in _text(data).splitlines())
    ami.parse({name.strip().lower(): value.strip() for name, _, value in pairs})


def _webhook(data: bytes) -> None:
    """As an event that Kallglot signed, and its first line as a signature."""
    header = _text(data.partition(b"\n")[0])
    for signature in (webhooks.sign(data, "secret", at=1000), header):
        try:
            webhooks.receive(data, {webhooks.SIGNATURE_HEADER: signature}, "secret", now=1000.0)
        except (webhooks.BadSignature, webhooks.BadEvent):
            continue


def _stream(data: bytes) -> None:
    for decoder in (RoutingDecoder("s"), ProviderDecoder()):
        for message in (data, _text(data)):
            for part in (message, message):
                decoder.decode(part, received_at=1.0)


def _rest(data: bytes) -> None:
    """An answer of Kallglot's: `Retry-After` in the first line, the body behind it; and the stream that it leads to."""
    header, _, body = data.partition(b"\n")
    rest.parse_error(429, body, retry_after=_text(header), now=datetime(2026, 11, 28, tzinfo=UTC))
    session = rest.parse_session(rest.parse_object(body), base_url="", streamed=True)
    for contract in ("routing", "provider"):
        try:
            stream_request(session, contract)
        except StreamRefused:
            continue


def _frames(data: bytes) -> None:
    """A stream's bytes, cut anywhere: what is heard must be what aiohttp alone would give."""
    both = Both()
    third = len(data) // 3 + 1
    for at in range(0, len(data), third):
        both.feed(data[at : at + third])
    both.receive()
    told, failed = alone(data)
    if not failed and not any(kind == "CLOSE" for kind, _ in told):
        assert both.told == told


def _ari_answer(data: bytes) -> None:
    for model in (Channel, Bridge, Application, AsteriskInfo):
        for read in (read_one, read_many):
            try:
                read(model, data)
            except MalformedError:
                continue


def _live_call(data: bytes) -> None:
    """What an earlier run wrote of a call."""
    written = adopt.read(parse_json(data))
    if written is None:
        return
    channels = {leg.channel_id: "PJSIP/a" for leg in written.legs}
    bridges = {leg.bridge_id: frozenset([leg.channel_id, leg.media_id]) for leg in written.legs}
    for there in (channels, {}):
        seen = adopt.Seen(there, frozenset(there), frozenset(there), bridges if there else {})
        adopt.resume(copy.deepcopy(written), seen, 100.0, datetime(2026, 11, 28, tzinfo=UTC))


def _sandbox(data: bytes) -> None:
    for contract in ("routing", "provider"):
        try:
            messages.codec(contract, "sess_1").parse(_text(data))
        except messages.Invalid:
            continue


def _create(data: bytes) -> None:
    body = parse_json(data)
    if isinstance(body, dict):
        validate.parse_create(body)


def _configuration(data: bytes) -> None:
    _file.write_bytes(data)
    load(str(_file), {})


def _environment(data: bytes) -> None:
    pairs = (line.partition("=") for line in _text(data).replace("\0", "").splitlines())
    load(None, {f"KALLGLOT__{name}".upper(): value for name, _, value in pairs})


def _stasis(data: bytes) -> None:
    dialplan.parse(tuple(_text(data).split(",")))


def _order(data: bytes) -> None:
    """A request of the API: every check on every value."""
    body = parse_json(data)
    checks: list[Callable[[str, Any], object]] = [
        fields.dial_string, fields.transfer_target, fields.sip_uri, fields.language, fields.mode, fields.speaker,
        fields.digits, fields.caller_id, fields.identifier, fields.address, fields.flag, fields.seconds(1, 300),
        fields.metadata, fields.gain, fields.transfer_mode, fields.supervision, fields.event_type,
    ]  # fmt: skip
    for value in body.values() if isinstance(body, dict) else [body]:
        for check in checks:
            try:
                check("field", value)
            except Problem:
                continue


def _sip(data: bytes) -> None:
    size = sip.complete(data)
    response = sip.parse(data[:size] or data)
    if response is not None:
        sip.authorization(_text(data), "INVITE", "sip:a@b", "user", "password", cnonce="c")


def _log(data: bytes) -> None:
    redact(_text(data))


_file = Path(tempfile.mkdtemp(prefix="kallglot-fuzz-")) / "kallglot-ari.toml"

TARGETS = [
    Target("rtp", RtpPacket.parse, (MediaError,)),
    Target("media", _Media()),
    Target("media-websocket", lambda data: leg_socket.parse_event(_text(data))),
    Target("agi", _agi, (AgiError,)),
    Target("agi-reply", _agi_reply, (AgiError,)),
    Target("ami", _ami),
    Target("ari", decode_event),
    Target("webhook", _webhook),
    Target("stream", _stream),
    Target("rest", _rest, (ApiError,)),
    Target("frames", _frames),
    Target("ari-answer", _ari_answer),
    Target("live-call", _live_call, (Problem,)),
    Target("sandbox-stream", _sandbox),
    Target("sandbox-create", _create, (validate.Problem, Problem)),
    Target("configuration", _configuration, (ConfigError,)),
    Target("environment", _environment, (ConfigError,)),
    Target("stasis", _stasis, (UsageError,)),
    Target("order", _order, (Problem,)),
    Target("curri", curri.parse, (UsageError,)),
    Target("hep", hep.parse),
    Target("sip", _sip, (ValueError,)),
    Target("log", _log),
]
