"""What the log says of a finished call."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.model import CallView, LegQuality


def line_of(view: CallView, quality: Mapping[str, LegQuality], finish: c.Finish, ended: datetime) -> dict[str, object]:
    """The fields of its one line. `quality` is each leg's."""
    line: dict[str, object] = {
        "session": view.session_id,
        "end_reason": finish.reason.value,
        "status": finish.status.value,
        "seconds": round((ended - view.started_at).total_seconds(), 2),
        "talked": round((ended - view.answered_at).total_seconds(), 2) if view.answered_at else 0.0,
        "mode": view.mode,
        "languages": f"{view.source_language}>{view.target_language}",
    }
    for leg, q in quality.items():
        line[f"{leg}_packets"] = q.packets_received
        line[f"{leg}_lost"] = q.packets_lost
        line[f"{leg}_mos"] = round(q.mos, 2)
    return line
