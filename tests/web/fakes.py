"""Stand-ins for the parts that the web server serves, so that its tests see what was asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kallglot_ari.calls.model import CallView, LegQuality, LegView
from kallglot_ari.calls.orders import Invitation, Outbound, Supervision, Supervisor, Transfer
from kallglot_ari.errors import KallglotAriError
from kallglot_ari.web.ports import Waits

STARTED = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def a_call(call_id: str = "c1", state: str = "active", **changes: Any) -> CallView:
    """A call between a customer and an agent."""
    call = CallView(
        id=call_id,
        session_id=f"sess_{call_id}",
        state=state,
        mode="bidirectional_translation",
        source_language="de",
        target_language="en",
        started_at=STARTED,
        legs=[
            LegView(
                "customer", f"{call_id}-a", "PJSIP/carrier-00000001", "up", "de", quality=LegQuality(1500, 1490, 3)
            ),
            LegView("agent", f"{call_id}-b", "PJSIP/1001-00000002", "up", "en"),
        ],
    )
    for name, value in changes.items():
        setattr(call, name, value)
    return call


@dataclass
class FakeControl:
    """Keeps calls in memory and writes down what it was told to do."""

    live: dict[str, CallView] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fails: Exception | None = None
    captures: dict[str, Path] = field(default_factory=dict)

    def _note(self, what: str, **arguments: Any) -> None:
        self.asked.append((what, arguments))
        if self.fails is not None:
            raise self.fails

    def calls(self) -> list[CallView]:
        return list(self.live.values())

    def call(self, call_id: str) -> CallView | None:
        return self.live.get(call_id)

    async def originate(self, order: Outbound) -> CallView:
        self._note("originate", **asdict(order))
        call = self.live["c9"] = a_call("c9", "ringing", source_language=order.source, target_language=order.target)
        return call

    async def hangup(self, call_id: str) -> None:
        self._note("hangup", call_id=call_id)
        self.live[call_id].state = "ending"

    async def transfer(self, call_id: str, order: Transfer) -> None:
        self._note("transfer", call_id=call_id, **asdict(order))

    async def drop(self, call_id: str, *, party: str) -> None:
        self._note("drop", call_id=call_id, party=party)

    async def supervise(self, call_id: str, order: Supervisor) -> CallView:
        self._note("supervise", call_id=call_id, **asdict(order))
        return self.live[call_id]

    async def change_supervision(self, call_id: str, speaker: str, order: Supervision) -> None:
        self._note("change_supervision", call_id=call_id, speaker=speaker, **asdict(order))

    async def dtmf(self, call_id: str, *, party: str, digits: str) -> None:
        self._note("dtmf", call_id=call_id, party=party, digits=digits)

    async def original(self, call_id: str, *, party: str, gain_db: float | None) -> None:
        self._note("original", call_id=call_id, party=party, gain_db=gain_db)

    async def capture(self, call_id: str, *, on: bool) -> Path:
        self._note("capture", call_id=call_id, on=on)
        return Path("captures") / f"{call_id}.pcap"

    async def captured(self, call_id: str) -> Path | None:
        return self.captures.get(call_id)

    async def add_leg(self, call_id: str, order: Invitation) -> CallView:
        self._note("add_leg", call_id=call_id, **asdict(order))
        call = self.live[call_id]
        call.legs.append(LegView(order.speaker or "party-3", "x", order.endpoint, language=order.language))
        return call


@dataclass
class FakeHealth:
    """Answers what it is given."""

    alive: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)

    async def live(self) -> list[str]:
        return self.alive

    async def ready(self) -> list[str]:
        return self.not_ready


@dataclass
class FakePbx:
    """Routes every call to one session and writes down what it was asked."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fails: KallglotAriError | None = None
    gate: asyncio.Event | None = None
    """`incoming` answers when it is set."""
    waited: list[bool] = field(default_factory=list)
    """Whether who asked `incoming` still waited in the end."""

    def _note(self, what: str, **arguments: Any) -> None:
        self.asked.append((what, arguments))
        if self.fails is not None:
            raise self.fails

    async def incoming(self, call_id: str, from_: str, to: str, *, waits: Waits, **extra: Any) -> dict[str, Any]:
        self._note("incoming", call_id=call_id, from_=from_, to=to, **extra)
        if self.gate is not None:
            await self.gate.wait()
        self.waited.append(waits())
        return {"action": "route", "destination": "sip:sess_1@sip.kallglot.com", "session_id": "sess_1"}

    async def hangup(self, call_id: str) -> bool:
        self._note("hangup", call_id=call_id)
        return call_id == "known"

    async def prepare(self, **parameters: Any) -> dict[str, Any]:
        self._note("prepare", **parameters)
        return {"session_id": "sess_2"}

    async def refer(self, session_id: str, refer_to: str, referred_by: str) -> dict[str, Any]:
        self._note("refer", session_id=session_id, refer_to=refer_to, referred_by=referred_by)
        return {"accept": True, "new_session_id": "sess_3"}

    async def freeswitch_dialplan(self, form: Mapping[str, str], *, waits: Waits) -> str:
        self._note("freeswitch", form=dict(form))
        return '<document type="freeswitch/xml"/>'

    async def cucm_curri(self, body: str, *, waits: Waits) -> str:
        self._note("curri", body=body)
        return "<Response/>"
