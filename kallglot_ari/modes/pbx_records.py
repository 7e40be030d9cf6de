"""What is written down of a PBX's call, and what is read out of it again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kallglot_ari.calls.model import CallView, Session, SessionRequest
from kallglot_ari.modes.trunk_call import Opened
from kallglot_ari.pbx.addresses import ordered, public_uri, sip_uri
from kallglot_ari.settings import TrunkSettings

Record = dict[str, Any]


def wanted(record: Record) -> list[str]:
    """What a session made ahead has to fit."""
    return [record["source"], record["target"], record["mode"]]


def request_for(record: Record, call_id: str, **more: str) -> SessionRequest:
    """:param more: further metadata."""
    known = {"call_id": record["call"], "internal_call_id": call_id, "caller_id": record["from"], **more}
    metadata = {**record["metadata"], **{k: v for k, v in known.items() if v}}
    return SessionRequest(record["mode"], record["source"], record["target"], metadata, trunk=True)


def append(record: Record, opened: Opened) -> None:
    """One more session of the call."""
    session = opened.session
    record["sessions"] = [*record["sessions"], {"key": opened.key, "id": session.id, "base_url": session.base_url}]


def stored(session_id: str, value: Mapping[str, Any]) -> Opened:
    """A session as it was written down."""
    return Opened(value["key"], Session(session_id, "", "", "", None, base_url=value["base_url"]))


def opened_of(record: Record) -> list[Opened]:
    """All sessions of the call."""
    return [stored(session["id"], session) for session in record["sessions"]]


def view_of(record: Record) -> CallView:
    """What the API shows of a call that is up."""
    return CallView(
        record["call"], record["sessions"][-1]["id"], "active", record["mode"], record["source"], record["target"],
        datetime.fromtimestamp(record["started"], UTC), kind="pbx", caller=record["from"], metadata=dict(record["metadata"]),
    )  # fmt: skip


def answer_of(record: Record, trunk: TrunkSettings) -> dict[str, Any]:
    """Where a call is to be routed."""
    session_id = record["sessions"][-1]["id"]
    return {
        "action": "route",
        "destination": public_uri(session_id, trunk),
        "destinations": [sip_uri(session_id, endpoint, trunk.transport) for endpoint in ordered(trunk)],
        "failover_timeout_ms": trunk.failover_timeout_ms,
        "session_id": session_id,
        "call_id": record["call"],
    }
