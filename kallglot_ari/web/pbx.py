"""`/pbx`: any PBX asks where to route a call. The logic is behind `ports.PbxService`; here requests are checked."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from kallglot_ari.web import fields
from kallglot_ari.web.ports import PbxService, Waits
from kallglot_ari.web.problem import Problem, json_response
from kallglot_ari.web.requests import body_json, body_text

_EXTRA = {
    "source": fields.language,
    "target": fields.language,
    "mode": fields.mode,
    "metadata": fields.metadata,
}


def _waits(request: web.Request) -> Waits:
    """Whether the client's connection still stands: without it nobody gets the answer."""
    return lambda: request.transport is not None and not request.transport.is_closing()


class PbxApi:
    """Handlers. Fields that a PBX sends beside those we know are left out: many send all they have."""

    def __init__(self, pbx: PbxService | None) -> None:
        self._pbx = pbx

    @property
    def _service(self) -> PbxService:
        if self._pbx is None:
            raise Problem(503, "pbx_off", "this service does not route calls for a PBX")
        return self._pbx

    async def incoming(self, request: web.Request) -> web.Response:
        body = fields.take(
            await body_json(request),
            {"callId": fields.identifier, "from": fields.address, "to": fields.address},
            _EXTRA,
            strict=False,
        )
        call_id, from_, to = body.pop("callId"), body.pop("from"), body.pop("to")
        return json_response(await self._service.incoming(call_id, from_, to, waits=_waits(request), **body))

    async def hangup(self, request: web.Request) -> web.Response:
        """Late, double and unknown hangups are harmless: ``{"ended": false}``."""
        body = fields.take(await body_json(request), {"callId": fields.identifier}, strict=False)
        return json_response({"ended": await self._service.hangup(body["callId"])})

    async def prepare(self, request: web.Request) -> web.Response:
        body = fields.take(
            await body_json(request, optional=True),
            {},
            {**_EXTRA, "from": fields.address, "expires_in": fields.seconds(1, 3600)},
        )
        if "from" in body:
            body["from_"] = body.pop("from")
        return json_response(await self._service.prepare(**body), status=201)

    async def freeswitch(self, request: web.Request) -> web.Response:
        """A mod_xml_curl request: a form with `section` and the channel's variables."""
        text = await body_text(request, ("application/x-www-form-urlencoded",))
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=2000, errors="strict")
        except ValueError:
            raise Problem(400, "invalid_request", "expected a form of at most 2000 fields in UTF-8") from None
        xml = await self._service.freeswitch_dialplan(dict(pairs), waits=_waits(request))
        return web.Response(text=xml, content_type="text/xml", charset="utf-8")

    async def curri(self, request: web.Request) -> web.Response:
        """A CURRI request of Cisco CUCM: XACML in, XACML out."""
        body = await body_text(request, ("text/xml", "application/xml", "application/xacml+xml"))
        if "<!DOCTYPE" in body or "<!ENTITY" in body:
            raise Problem(400, "invalid_request", "expected XML without a document type")
        xml = await self._service.cucm_curri(body, waits=_waits(request))
        return web.Response(text=xml, content_type="text/xml", charset="utf-8")

    async def curri_alive(self, _: web.Request) -> web.Response:
        """CUCM asks with HEAD whether the route server is there. :raises Problem: 503 where there is none."""
        assert self._service is not None
        return web.Response(content_type="text/xml", charset="utf-8")

    @staticmethod
    def referral(body: object) -> tuple[str, str, str]:
        """Session id, refer-to and referred-by of a REFER notification. :raises Problem: 400 that names the field."""
        found = fields.take(
            body,
            {"session_id": fields.identifier, "refer_to": fields.sip_uri},
            {"referred_by": fields.sip_uri},
            strict=False,
        )
        return found["session_id"], found["refer_to"], found.get("referred_by", "")

    async def refer(self, referral: tuple[str, str, str]) -> dict[str, Any]:
        """Answer a REFER notification whose signature was found right."""
        return await self._service.refer(*referral)
