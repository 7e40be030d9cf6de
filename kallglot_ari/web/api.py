"""`/api/v1/calls`: the calls, and control of those that are up."""

from __future__ import annotations

from aiohttp import web

from kallglot_ari.calls.interfaces import CallControl, CallStore
from kallglot_ari.calls.model import CallState, CallView
from kallglot_ari.calls.orders import Invitation, Outbound, Supervision, Supervisor, Transfer
from kallglot_ari.web import fields
from kallglot_ari.web.problem import Problem, json_response, unknown_call
from kallglot_ari.web.requests import body_json, query_bool, query_int

_SUPERVISION = {"hear": fields.speaker, "translated": fields.flag}


class CallsApi:
    """Handlers; `defaults` are the source and target language of a call that names none."""

    def __init__(self, control: CallControl, store: CallStore, defaults: tuple[str, str]) -> None:
        self._control = control
        self._store = store
        self._defaults = defaults

    async def list_calls(self, request: web.Request) -> web.Response:
        """``{"calls": […]}``, the newest first. Query: `active` (true: only live ones, false: only ended), `limit` (100)."""
        active = query_bool(request, "active")
        limit = query_int(request, "limit", 100, 1, 1000)
        found: dict[str, CallView] = {}
        if active is not True:
            found = {call.id: call for call in await self._store.list_calls(limit=limit, active=active)}
        live = {call.id: call for call in self._control.calls()}
        for call in live.values():
            if active is None or active is (call.state != CallState.ENDED):
                found[call.id] = call
            else:
                found.pop(call.id, None)
        calls = sorted(found.values(), key=lambda call: (call.started_at, call.id), reverse=True)[:limit]
        return json_response({"calls": [call.as_json() for call in calls]})

    async def call(self, request: web.Request) -> web.Response:
        return json_response((await self._any_call(request)).as_json())

    async def transcript(self, request: web.Request) -> web.Response:
        """``{id, session_id, status: in_progress|completed, turns: […]}``."""
        call = await self._any_call(request)
        return json_response(
            {
                "id": call.id,
                "session_id": call.session_id,
                "status": "completed" if call.state == CallState.ENDED else "in_progress",
                "turns": await self._store.turns(call.id),
            }
        )

    async def originate(self, request: web.Request) -> web.Response:
        body = fields.take(
            await body_json(request),
            {"customer": fields.dial_string, "agent": fields.dial_strings},
            {
                "source": fields.language,
                "target": fields.language,
                "caller_id": fields.caller_id,
                "timeout": fields.seconds(1, 300),
                "only_humans": fields.flag,
            },
        )
        source, target = self._defaults
        call = await self._control.originate(Outbound(**{"source": source, "target": target, **body}))
        return json_response(call.as_json(), status=201, headers={"Location": f"/api/v1/calls/{call.id}"})

    async def hangup(self, request: web.Request) -> web.Response:
        fields.take(await body_json(request, optional=True), {})
        call = await self._live_call(request)
        await self._control.hangup(call.id)
        return self._accepted(call)

    async def transfer(self, request: web.Request) -> web.Response:
        """`mode`: ``cold`` (default): the target comes in the party's place; ``warm``: the two talk first, the others wait."""
        body = fields.take(
            await body_json(request),
            {"party": fields.speaker, "target": fields.transfer_target},
            {"mode": fields.transfer_mode, "language": fields.language, "timeout": fields.seconds(1, 300)},
        )
        call = await self._live_call(request)
        self._party(call, body["party"])
        await self._control.transfer(call.id, Transfer(**body))
        return self._accepted(call)

    async def change_leg(self, request: web.Request) -> web.Response:
        """`original_gain_db`: how loud this party hears the others' own voices under the translation."""
        body = fields.take(await body_json(request), {"original_gain_db": fields.gain})
        call = await self._live_call(request)
        party = request.match_info["speaker"]
        self._party(call, party)
        await self._control.original(call.id, party=party, gain_db=body["original_gain_db"])
        return self._accepted(call)

    async def drop_leg(self, request: web.Request) -> web.Response:
        call = await self._live_call(request)
        self._party(call, request.match_info["speaker"])
        await self._control.drop(call.id, party=request.match_info["speaker"])
        return self._accepted(call)

    async def dtmf(self, request: web.Request) -> web.Response:
        body = fields.take(await body_json(request), {"party": fields.speaker, "digits": fields.digits})
        call = await self._live_call(request)
        self._party(call, body["party"])
        await self._control.dtmf(call.id, party=body["party"], digits=body["digits"])
        return self._accepted(call)

    async def start_capture(self, request: web.Request) -> web.Response:
        fields.take(await body_json(request, optional=True), {})
        path = await self._control.capture((await self._live_call(request)).id, on=True)
        return json_response({"path": str(path), "running": True}, status=201)

    async def end_capture(self, request: web.Request) -> web.Response:
        path = await self._control.capture((await self._live_call(request)).id, on=False)
        return json_response({"path": str(path), "running": False})

    async def capture(self, request: web.Request) -> web.StreamResponse:
        """The last capture's file, as far as it is written."""
        call = await self._any_call(request)
        path = await self._control.captured(call.id)
        if path is None:
            raise Problem(404, "not_found", f"there is no capture of the call {call.id!r}")
        return web.FileResponse(
            path,
            headers={
                "Content-Type": "application/vnd.tcpdump.pcap",
                "Content-Disposition": f'attachment; filename="{path.name}"',
            },
        )

    async def add_leg(self, request: web.Request) -> web.Response:
        body = fields.take(
            await body_json(request),
            {"endpoint": fields.dial_string},
            {"language": fields.language, "speaker": fields.speaker},
        )
        call = await self._live_call(request)
        if any(leg.speaker == body.get("speaker") and leg.state != "gone" for leg in call.legs):
            raise Problem(409, "speaker_taken", f"the call has a party {body['speaker']!r} already", param="speaker")
        return json_response((await self._control.add_leg(call.id, Invitation(**body))).as_json(), status=201)

    async def supervise(self, request: web.Request) -> web.Response:
        """`mode`: listen, whisper (to the agent, or to `hear`) or barge; `hear`: a speaker, or both; `translated`: not the originals."""
        body = fields.take(
            await body_json(request),
            {"endpoint": fields.dial_string, "mode": fields.supervision},
            {**_SUPERVISION, "language": fields.language, "speaker": fields.speaker},
        )
        call = await self._live_call(request)
        return json_response((await self._control.supervise(call.id, Supervisor(**body))).as_json(), status=201)

    async def change_supervision(self, request: web.Request) -> web.Response:
        body = fields.take(await body_json(request), {"mode": fields.supervision}, _SUPERVISION)
        call = await self._live_call(request)
        await self._control.change_supervision(call.id, request.match_info["speaker"], Supervision(**body))
        return self._accepted(call)

    def _accepted(self, call: CallView) -> web.Response:
        return json_response((self._control.call(call.id) or call).as_json(), status=202)

    @staticmethod
    def _party(call: CallView, party: str) -> None:
        speakers = [leg.speaker for leg in call.legs if leg.state != "gone"]
        if speakers and party not in speakers:  # of a call without legs its mode knows better what is wrong
            raise Problem(
                400,
                "invalid_request",
                f"party: expected one of {', '.join(speakers)}, found {party!r}",
                param="party",
            )

    async def _live_call(self, request: web.Request) -> CallView:
        """:raises Problem: 404 for a call that there never was, 409 for one that has ended."""
        call_id = request.match_info["id"]
        call = self._control.call(call_id)
        if call is None and await self._store.get_call(call_id) is None:
            raise unknown_call(call_id)
        if call is None or call.state == CallState.ENDED:
            raise Problem(409, "call_ended", f"the call {call_id!r} has ended")
        return call

    async def _any_call(self, request: web.Request) -> CallView:
        call_id = request.match_info["id"]
        call = self._control.call(call_id) or await self._store.get_call(call_id)
        if call is None:
            raise unknown_call(call_id)
        return call
