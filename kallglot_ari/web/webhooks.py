"""`/webhooks`: signed notifications from Kallglot. Each event is handled once, however often it is delivered."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import Counter

from kallglot_ari.calls.hub import Hub
from kallglot_ari.calls.interfaces import CallControl, CallStore
from kallglot_ari.clock import Clock
from kallglot_ari.kallglot.webhooks import SIGNATURE_HEADER, BadEvent, BadSignature, WebhookEvent, parse_event, verify
from kallglot_ari.web import fields
from kallglot_ari.web.pbx import PbxApi
from kallglot_ari.web.ports import SessionEnded
from kallglot_ari.web.problem import Problem, json_response
from kallglot_ari.web.requests import WEBHOOK_MAX, body_bytes, parse_json

KEPT = ("transcript.ready", "recording.ready")
"""Events whose data is stored as long as calls are, as mappings of kind ``webhook:TYPE`` by session id."""


class Webhooks:
    """Handlers. Without a `secret` nothing is accepted."""

    def __init__(
        self,
        *,
        secret: str,
        control: CallControl,
        store: CallStore,
        hub: Hub,
        pbx: PbxApi,
        clock: Clock,
        counter: Counter,
        keep_days: float,
        on_session_ended: SessionEnded | None,
    ) -> None:
        self._secret = secret
        self._control = control
        self._store = store
        self._hub = hub
        self._pbx = pbx
        self._clock = clock
        self._counter = counter
        self._keep_days = keep_days
        self._on_session_ended = on_session_ended

    async def kallglot(self, request: web.Request) -> web.Response:
        """``{id, type, api_version, created_at, data}`` → ``{received: true}``, also for an event seen before."""
        body = await self._signed(request)
        try:
            event = parse_event(body)
            fields.identifier("id", event.id)
            fields.event_type("type", event.type)
        except (BadEvent, Problem) as error:
            self._counter.labels("malformed").inc()
            raise Problem(400, "invalid_request", str(error)) from None
        # Kept first: were the database to go away in between, the event would count as seen and its data be lost.
        keep = f"webhook:{event.type}" if event.type in KEPT and event.session_id else ""
        until = self._clock.wall().timestamp() + self._keep_days * 86400 if self._keep_days else None
        kept = keep and await self._store.put_mapping(keep, event.session_id, dict(event.data), expires_at=until)
        if not await self._store.seen_once(event.id, self._clock.wall().timestamp()):
            self._counter.labels("duplicate").inc()
            return json_response({"received": True, "duplicate": True})
        self._counter.labels("accepted").inc()
        if keep and not kept:
            await self._store.update_mapping(keep, event.session_id, dict(event.data))
        self._handle(event)
        return json_response({"received": True})

    async def refer(self, request: web.Request) -> web.Response:
        """``{session_id, refer_to, referred_by}`` → ``{accept, new_session_id}``."""
        body = await self._signed(request)
        try:
            notification = self._pbx.referral(parse_json(body))
        except Problem:
            self._counter.labels("malformed").inc()
            raise
        self._counter.labels("accepted").inc()
        return json_response(await self._pbx.refer(notification))

    async def _signed(self, request: web.Request) -> bytes:
        """The body, once its signature was found right.

        :raises Problem: 401 when it is not, 403 when no secret is set.
        """
        header = request.headers.get(SIGNATURE_HEADER)
        if not self._secret:
            self._counter.labels("off").inc()
            raise Problem(403, "webhooks_off", "web.webhook_secret is not set: no webhook is accepted")
        # Without the header nobody is worth reading a megabyte of.
        body = await body_bytes(request, WEBHOOK_MAX) if header else b""
        try:
            verify(body, header, self._secret, now=self._clock.wall().timestamp())
        except BadSignature as error:
            self._counter.labels(error.reason).inc()
            raise Problem(401, "bad_signature", str(error)) from None
        return body

    def _handle(self, event: WebhookEvent) -> None:
        kind, data, session_id = event.type, dict(event.data), event.session_id
        call = next((call for call in self._control.calls() if session_id and call.session_id == session_id), None)
        self._hub.publish(
            f"webhook.{kind}", call.id if call else "", {**data, "session_id": session_id, "event_id": event.id}
        )
        if kind == "session.ended" and session_id and self._on_session_ended is not None:
            reason = data.get("reason")
            self._on_session_ended(session_id, reason if isinstance(reason, str) else "")
