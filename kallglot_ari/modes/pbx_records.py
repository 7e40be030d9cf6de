"""What is written down of a PBX's call, and what is read out of it again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kallglot_ari.calls.model import Session, SessionRequest
from kallglot_ari.modes.trunk_call import Opened

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
