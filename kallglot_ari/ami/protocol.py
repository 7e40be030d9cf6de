"""The manager events that trunk mode follows, from Asterisk's headers into values. Pure.

Field names are those of Asterisk 16 to 22 (`manager show event NAME`). Everything else is not an error: it is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Fields = Mapping[str, str]
"""An event's headers; the names in lower case, of repeated ones the last."""


@dataclass(frozen=True, slots=True)
class ChannelEvent:
    """What all events of a channel have."""

    uniqueid: str
    channel: str
    linkedid: str


@dataclass(frozen=True, slots=True)
class ChannelNew(ChannelEvent):
    """``Newchannel``."""


@dataclass(frozen=True, slots=True)
class ChannelUp(ChannelEvent):
    """``Newstate`` with state 6: answered."""


@dataclass(frozen=True, slots=True)
class DialBegun(ChannelEvent):
    """``DialBegin``: `channel` dials `dial_string`; the other channel is `dest_…`. An originated one has no dialling channel."""

    dest_uniqueid: str
    dest_channel: str
    dial_string: str


@dataclass(frozen=True, slots=True)
class DialEnded(ChannelEvent):
    """``DialEnd``."""

    dest_uniqueid: str
    status: str
    """ANSWER, BUSY, CANCEL, CHANUNAVAIL, CONGESTION, NOANSWER, …"""


@dataclass(frozen=True, slots=True)
class Digit(ChannelEvent):
    """``DTMFEnd`` of a digit that came in from the channel."""

    digit: str


@dataclass(frozen=True, slots=True)
class Held(ChannelEvent):
    """``Hold`` or ``Unhold``."""

    on: bool


@dataclass(frozen=True, slots=True)
class HangupAsked(ChannelEvent):
    """``HangupRequest``: the far end of this channel hung up, and so began the end."""


@dataclass(frozen=True, slots=True)
class ChannelGone(ChannelEvent):
    """``Hangup``."""

    cause: int
    cause_text: str


@dataclass(frozen=True, slots=True)
class Transferred(ChannelEvent):
    """``BlindTransfer`` or ``AttendedTransfer``; the channel is the one that transferred."""

    kind: Literal["blind", "attended"]
    success: bool
    target: str
    """Extension of a blind transfer; channel name of an attended one."""


@dataclass(frozen=True, slots=True)
class Rtcp(ChannelEvent):
    """``RTCPSent`` (how we hear the far end) or ``RTCPReceived`` (how it hears us), RFC 3550 §6.4."""

    direction: Literal["sent", "received"]
    packets: int
    """Of the sender of the report, since its start."""
    lost: int
    fraction_lost: float
    """0 to 1, since the report before."""
    jitter: int
    """In units of the RTP clock."""
    rtt: float
    """Round trip in seconds; 0 when not known."""


@dataclass(frozen=True, slots=True)
class EndpointState:
    """``ContactStatus`` or ``PeerStatus``: what qualify found."""

    name: str
    reachable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class OriginateDone:
    """``OriginateResponse`` to an asynchronous originate."""

    action_id: str
    success: bool
    reason: int
    """0 failed, 1 hung up, 3 no answer, 4 answered, 5 busy, 8 congestion."""


@dataclass(frozen=True, slots=True)
class Booted:
    """``FullyBooted``, after each log-in."""

    uptime: int
    """Seconds since Asterisk was started."""


Event = ChannelEvent | EndpointState | OriginateDone | Booted

_GOOD_STATES = frozenset({"reachable", "registered", "nonqualified", "created", "lagged", "updated"})


def parse(fields: Fields) -> Event | None:
    """The event in `fields`, or None when it is none of ours, or lacks what makes it one."""
    name = fields.get("event", "").lower()
    if name in ("contactstatus", "peerstatus"):
        return _endpoint(name, fields)
    if name == "originateresponse":
        done = fields.get("response", "").lower() == "success"
        return OriginateDone(fields.get("actionid", ""), done, _number(fields.get("reason")))
    if name == "fullybooted":
        return Booted(_number(fields["uptime"])) if "uptime" in fields else None
    if name in ("blindtransfer", "attendedtransfer"):
        return _transfer(name, fields)
    if name in ("dialbegin", "dialend"):
        return _dial(name, fields)
    who = fields.get("uniqueid", ""), fields.get("channel", ""), fields.get("linkedid", "")
    return _of_channel(name, who, fields) if who[0] else None


def _of_channel(name: str, who: tuple[str, str, str], fields: Fields) -> ChannelEvent | None:
    match name:
        case "newchannel":
            return ChannelNew(*who)
        case "newstate":
            return ChannelUp(*who) if fields.get("channelstate") == "6" else None
        case "dtmfend":
            digit, received = fields.get("digit", ""), fields.get("direction", "").lower() == "received"
            return Digit(*who, digit) if received and digit else None
        case "hold" | "unhold":
            return Held(*who, name == "hold")
        case "hanguprequest":
            return HangupAsked(*who)
        case "hangup":
            return ChannelGone(*who, _number(fields.get("cause")), fields.get("cause-txt", ""))
        case "rtcpsent" | "rtcpreceived":
            return Rtcp(
                *who,
                "sent" if name == "rtcpsent" else "received",
                _number(fields.get("sentpackets")),
                _number(fields.get("report0cumulativelost")),
                min(max(_number(fields.get("report0fractionlost")), 0), 255) / 256,
                _number(fields.get("report0iajitter")),
                _real(fields.get("rtt")),
            )
    return None


def _dial(name: str, fields: Fields) -> ChannelEvent | None:
    dest = fields.get("destuniqueid", "")
    linkedid = fields.get("linkedid") or fields.get("destlinkedid", "")
    who = fields.get("uniqueid", ""), fields.get("channel", ""), linkedid
    if not dest:
        return None
    if name == "dialend":
        return DialEnded(*who, dest, fields.get("dialstatus", ""))
    return DialBegun(*who, dest, fields.get("destchannel", ""), fields.get("dialstring", ""))


def _transfer(name: str, fields: Fields) -> Transferred | None:
    blind = name == "blindtransfer"
    side = "transferer" if blind else "origtransferer"
    uniqueid = fields.get(f"{side}uniqueid", "")
    if not uniqueid:
        return None
    target = fields.get("extension", "") if blind else fields.get("transfertargetchannel", "")
    return Transferred(
        uniqueid,
        fields.get(f"{side}channel", ""),
        fields.get(f"{side}linkedid", ""),
        "blind" if blind else "attended",
        fields.get("result", "").lower() == "success",
        target,
    )


def _endpoint(name: str, fields: Fields) -> EndpointState | None:
    if name == "contactstatus":
        endpoint, state = fields.get("endpointname") or fields.get("aor", ""), fields.get("contactstatus", "")
    else:
        endpoint, state = fields.get("peer", "").partition("/")[2], fields.get("peerstatus", "")
    return EndpointState(endpoint, state.lower() in _GOOD_STATES, state) if endpoint else None


def _number(text: str | None) -> int:
    return int(_real(text))


def _real(text: str | None) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if abs(value) < 1e15 else 0.0


def plain(value: str) -> str:
    """`value` as it may stand in an action's header.

    :raises ValueError: it has a line end, which would begin another header.
    """
    if any(c in value for c in "\r\n\0"):
        raise ValueError("manager action: expected text without line ends and NUL, found one")
    return value
