"""What the log says of a finished call: one line that explains it, also to whoever has only its number and the time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from structlog.stdlib import BoundLogger

from kallglot_ari.calls import commands as c
from kallglot_ari.calls.model import CallView, DialplanStatus, EndReason, LegQuality, LegView

NOT_REACHED = "not reached: is there such an endpoint or extension, and is its phone registered?"
_CAUSES = {
    0: NOT_REACHED,
    1: "no such number",
    16: "it hung up",
    17: "busy",
    18: "no answer",
    19: "no answer",
    20: "not registered",
    21: "rejected",
    23: "its phone sent the call on to where nobody can be reached",
    26: "answered elsewhere",
    27: "out of order",
    28: "no such number",
    34: "congestion",
    38: "not reached",
    58: "no codec in common",
    88: "no codec in common",
    102: "no answer",
}
"""Why a phone did not come, by Q.850."""


class Course:
    """What became of a call's translation, from what the call publishes. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.problem = ""
        """Why it was not translated, the last time that it was not."""
        self.lost = 0
        """How often the stream was opened again, or a new session made."""
        self._did_not_come: dict[str, int] = {}
        self._untranslated = 0.0
        self._since: float | None = None

    def take(self, event: str, data: Mapping[str, Any], now: float) -> None:
        """Something was published."""
        if event == "call.degraded":
            self.begin(str(data["reason"]), now)
        elif event == "call.restored" and self._since is not None:
            self._untranslated += now - self._since
            self._since = None
        elif event == "leg.failed":
            self._did_not_come[data["endpoint"]] = data["cause"]
        elif event == "leg.joined":
            self._did_not_come.clear()
        elif event == "ladder" and data["step"] in ("reconnect", "new_session"):
            self.lost += 1

    def begin(self, problem: str, now: float) -> None:
        """From now on the parties are connected without translation."""
        self.problem = problem
        self._since = now if self._since is None else self._since

    def nobody_came(self) -> str:
        """Who was dialled since the last one answered and will not come, and why; empty when there is nobody."""
        whys = (
            (endpoint, _CAUSES.get(cause, f"Q.850 cause {cause}")) for endpoint, cause in self._did_not_come.items()
        )
        return "; ".join(f"{endpoint}: {why}" for endpoint, why in whys)

    def untranslated(self, now: float) -> float:
        """Seconds without translation, so far."""
        return self._untranslated + (now - self._since if self._since is not None else 0.0)


def tell(logger: BoundLogger, call_id: str, line: Mapping[str, object]) -> None:
    """Log a call's one line; one that ended with an error is worth a look."""
    write = logger.warning if line["end_reason"] == EndReason.ERROR else logger.info
    write("call_finished", call=call_id, **line)


def line_of(
    view: CallView,
    legs: Mapping[str, tuple[LegQuality, LegView | None]],
    course: Course,
    now: float,
    finish: c.Finish,
    ended: datetime,
    problem: str = "",
) -> dict[str, object]:
    """The fields of its one line. `legs`: the quality of all that there were, and the view of those there were in the end.

    :param problem: what was wrong in the end.
    """
    line = _of_any(view, finish.reason.value, finish.status.value, ended)
    line["untranslated"] = round(course.untranslated(now), 2)
    line["stream_losses"] = course.lost
    why = problem or course.problem
    if finish.status is not DialplanStatus.COMPLETED:
        why = why or course.nobody_came()
    if why:
        line["problem"] = why
    for leg, (q, shown) in legs.items():
        if shown is not None:
            line[f"{leg}_channel"] = shown.channel_name
        line[f"{leg}_packets"] = q.packets_received
        line[f"{leg}_lost"] = q.packets_lost
        line[f"{leg}_late"] = q.packets_late
        if q.packets_received:  # what never came has no quality, least of all a good one
            line[f"{leg}_jitter_ms"] = round(q.jitter_ms, 1)
            line[f"{leg}_mos"] = round(q.mos, 2)
        if shown is not None and shown.sip is not None:
            line[f"{leg}_sip_lost"] = shown.sip.packets_lost
            line[f"{leg}_sip_lost_there"] = shown.sip.packets_lost_there
            line[f"{leg}_sip_mos"] = round(shown.sip.mos, 2)
    return line


def line_of_another(view: CallView) -> dict[str, object]:
    """The same of a call in trunk mode or of `/pbx`, whose sound is not ours: what was reported of it."""
    ended = view.ended_at or view.started_at
    line = _of_any(view, view.end_reason or "", view.status or "", ended)
    for leg in view.legs:
        line[f"{leg.speaker}_channel"] = leg.channel_name
        if leg.quality != LegQuality():
            line[f"{leg.speaker}_lost"] = leg.quality.packets_lost
            line[f"{leg.speaker}_jitter_ms"] = round(leg.quality.jitter_ms, 1)
            line[f"{leg.speaker}_mos"] = round(leg.quality.mos, 2)
    return line


def _of_any(view: CallView, reason: str, status: str, ended: datetime) -> dict[str, object]:
    return {
        "kind": view.kind,
        "session": view.session_id,
        "caller": view.caller,
        "end_reason": reason,
        "status": status,
        "seconds": round((ended - view.started_at).total_seconds(), 2),
        "talked": round((ended - view.answered_at).total_seconds(), 2) if view.answered_at else 0.0,
        "mode": view.mode,
        "languages": f"{view.source_language}>{view.target_language}",
    }
