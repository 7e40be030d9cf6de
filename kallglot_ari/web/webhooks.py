"""`/webhooks`: signed notifications from Kallglot. Each event is handled once, however often it is delivered."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from prometheus_client import Counter

from kallglot_ari import log
from kallglot_ari.calls.hub import Hub
from kallglot_ari.calls.interfaces import CallControl, CallStore
from kallglot_ari.clock import Clock
from kallglot_ari.tasks import Tasks
from kallglot_ari.web import fields
from kallglot_ari.web.pbx import PbxApi
from kallglot_ari.web.ports import SessionEnded, Verify, WebhookError
from kallglot_ari.web.problem import Problem, json_response
from kallglot_ari.web.requests import WEBHOOK_MAX, body_bytes, parse_json

KEPT = ("transcript.ready", "recording.ready")
"""Events whose data is stored, as mappings of kind ``webhook:TYPE`` by session id."""

_log = log.get(__name__)


class Webhooks:
    """Handlers; `verify` is None when no secret is set, and then nothing is accepted."""

    def __init__(
        self,
        *,
        verify: Verify | None,
        control: CallControl,
        store: CallStore,
        hub: Hub,
        pbx: PbxApi,
        clock: Clock,
        counter: Counter,
        on_session_ended: SessionEnded | None,
    ) -> None:
        self._verify = verify
        self._control = control
        self._store = store
        self._hub = hub
        self._pbx = pbx
        self._clock = clock
        self._counter = counter
        self._on_session_ended = on_session_ended
        self._tasks = Tasks("webhooks")

    async def kallglot(self, request: web.Request) -> web.Response:
        """``{id, type, api_version, created_at, data}`` → ``{received: true}``, also for an event seen before."""
        event = parse_event(await self._signed(request))
        if not await self._store.seen_once(event["id"], self._clock.wall().timestamp()):
            self._counter.labels("duplicate").inc()
            return json_response({"received": True, "duplicate": True})
        self._counter.labels("accepted").inc()
        await self._handle(event)
        return json_response({"received": True})

    async def refer(self, request: web.Request) -> web.Response:
        body = await self._signed(request)
        self._counter.labels("accepted").inc()
        return await self._pbx.refer(body)

    async def _signed(self, request: web.Request) -> Any:
        if self._verify is None:
            self._counter.labels("off").inc()
            raise Problem(403, "webhooks_off", "web.webhook_secret is not set: no webhook is accepted")
        if "Kallglot-Signature" not in request.headers:
            self._counter.labels("unsigned").inc()
            raise Problem(401, "bad_signature", "expected the header Kallglot-Signature")
        body = await body_bytes(request, WEBHOOK_MAX)
        try:
            self._verify(request.headers["Kallglot-Signature"], body)
        except WebhookError as error:
            self._counter.labels(error.reason).inc()
            raise Problem(401, "bad_signature", str(error)) from None
        try:
            return parse_json(body)
        except Problem:
            self._counter.labels("malformed").inc()
            raise

    async def _handle(self, event: dict[str, Any]) -> None:
        kind, data, session_id = event["type"], event["data"], event["session_id"]
        call = next((call for call in self._control.calls() if session_id and call.session_id == session_id), None)
        if kind in KEPT and session_id and not await self._store.put_mapping(f"webhook:{kind}", session_id, data):
            await self._store.update_mapping(f"webhook:{kind}", session_id, data)
        self._hub.publish(
            f"webhook.{kind}", call.id if call else "", {"session_id": session_id, "event_id": event["id"], **data}
        )
        if kind == "session.ended" and session_id and self._on_session_ended is not None:
            # Not awaited: Kallglot wants its answer at once, and hanging up takes its time.
            self._tasks.spawn(self._on_session_ended(session_id, data), name="session_ended")

    async def close(self) -> None:
        await self._tasks.join(5)
        await self._tasks.close()


def parse_event(body: Any) -> dict[str, Any]:
    """``{id, type, data, session_id}`` of an event's body; `session_id` is empty when the event names none.

    :raises Problem: 400 that names the field.
    """
    found = fields.take(
        body, {"id": fields.identifier, "type": fields.event_type}, {"data": fields.json_object}, strict=False
    )
    found.setdefault("data", {})
    session = found["data"].get("session_id")
    if session is None and found["type"].startswith("session."):
        session = found["data"].get("id")
    found["session_id"] = session if isinstance(session, str) else ""
    return found
