"""Manager events as Asterisk 16 and 22 send them, and what is none of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.ami import protocol as ami

CHANNEL = {"uniqueid": "1.2", "channel": "PJSIP/a-00000001", "linkedid": "1.1"}
WHO = ("1.2", "PJSIP/a-00000001", "1.1")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"event": "Newchannel", **CHANNEL}, ami.ChannelNew(*WHO)),
        ({"event": "Newstate", "channelstate": "6", **CHANNEL}, ami.ChannelUp(*WHO)),
        ({"event": "Newstate", "channelstate": "5", **CHANNEL}, None),
        ({"event": "DTMFEnd", "digit": "#", "direction": "Received", **CHANNEL}, ami.Digit(*WHO, "#")),
        ({"event": "DTMFEnd", "digit": "#", "direction": "Sent", **CHANNEL}, None),
        ({"event": "DTMFEnd", "digit": "", "direction": "Received", **CHANNEL}, None),
        ({"event": "Hold", **CHANNEL}, ami.Held(*WHO, True)),
        ({"event": "Unhold", **CHANNEL}, ami.Held(*WHO, False)),
        ({"event": "HangupRequest", **CHANNEL}, ami.HangupAsked(*WHO)),
        ({"event": "Hangup", "cause": "16", "cause-txt": "Normal", **CHANNEL}, ami.ChannelGone(*WHO, 16, "Normal")),
        ({"event": "Hangup", "cause": "what", **CHANNEL}, ami.ChannelGone(*WHO, 0, "")),
        ({"event": "Hangup"}, None),
        ({"event": "VarSet", **CHANNEL}, None),
        ({}, None),
        (
            {"event": "DialBegin", **CHANNEL, "destuniqueid": "1.3", "destchannel": "PJSIP/k-1", "dialstring": "k/s"},
            ami.DialBegun(*WHO, "1.3", "PJSIP/k-1", "k/s"),
        ),
        (
            {"event": "DialBegin", "destuniqueid": "1.3", "destlinkedid": "1.3", "dialstring": "a"},
            ami.DialBegun("", "", "1.3", "1.3", "", "a"),
        ),
        ({"event": "DialEnd", **CHANNEL, "destuniqueid": "1.3", "dialstatus": "BUSY"}, ami.DialEnded(*WHO, "1.3", "BUSY")),
        ({"event": "DialBegin", **CHANNEL}, None),
        (
            {
                "event": "BlindTransfer", "result": "Success", "transfereruniqueid": "1.2",
                "transfererchannel": "PJSIP/a-00000001", "transfererlinkedid": "1.1", "extension": "1002",
            },
            ami.Transferred(*WHO, "blind", True, "1002"),
        ),
        (
            {
                "event": "AttendedTransfer", "result": "Fail", "origtransfereruniqueid": "1.2",
                "origtransfererchannel": "PJSIP/a-00000001", "origtransfererlinkedid": "1.1", "transfertargetchannel": "x",
            },
            ami.Transferred(*WHO, "attended", False, "x"),
        ),
        ({"event": "BlindTransfer"}, None),
        (
            {"event": "ContactStatus", "endpointname": "kallglot", "contactstatus": "Unreachable"},
            ami.EndpointState("kallglot", False, "Unreachable"),
        ),
        (
            {"event": "ContactStatus", "aor": "kallglot", "contactstatus": "Reachable"},
            ami.EndpointState("kallglot", True, "Reachable"),
        ),
        ({"event": "PeerStatus", "peer": "SIP/kallglot", "peerstatus": "Lagged"}, ami.EndpointState("kallglot", True, "Lagged")),
        ({"event": "PeerStatus"}, None),
        ({"event": "OriginateResponse", "actionid": "i", "response": "Failure", "reason": "5"}, ami.OriginateDone("i", False, 5)),
        ({"event": "FullyBooted", "uptime": "17", "lastreload": "17"}, ami.Booted(17)),
        ({"event": "FullyBooted"}, None),
        (
            {
                "event": "RTCPSent", **CHANNEL, "sentpackets": "100", "report0cumulativelost": "4",
                "report0fractionlost": "64", "report0iajitter": "80", "rtt": "0.5",
            },
            ami.Rtcp(*WHO, "sent", 100, 4, 0.25, 80, 0.5),
        ),
        ({"event": "RTCPReceived", **CHANNEL, "rtt": "nan?"}, ami.Rtcp(*WHO, "received", 0, 0, 0.0, 0, 0.0)),
    ],
)  # fmt: skip
def test_event(fields: dict[str, str], expected: ami.Event | None) -> None:
    assert ami.parse(fields) == expected


NAMES = [
    "Newchannel",
    "Newstate",
    "DTMFEnd",
    "Hangup",
    "RTCPSent",
    "DialBegin",
    "BlindTransfer",
    "ContactStatus",
    "OriginateResponse",
]


@given(
    st.sampled_from(NAMES),
    st.dictionaries(
        st.sampled_from([
            "uniqueid", "channel", "cause", "rtt", "reason", "destuniqueid", "transfereruniqueid", "report0iajitter",
            "report0fractionlost", "sentpackets", "aor",
        ]),
        st.text(max_size=12) | st.integers(-(10**6), 10**6).map(str),
    ),
)  # fmt: skip
def test_any_fields_are_an_event_or_nothing(name: str, fields: dict[str, str]) -> None:
    event = ami.parse({**fields, "event": name})
    if isinstance(event, ami.Rtcp):
        assert 0.0 <= event.fraction_lost < 1.0


def test_an_action_holds_one_line() -> None:
    assert ami.plain("PJSIP/1001") == "PJSIP/1001"
    for bad in ("a\r\nAction: Logoff", "a\n", "a\0"):
        with pytest.raises(ValueError, match="without line ends"):
            ami.plain(bad)
