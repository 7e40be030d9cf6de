"""Any PBX asks where to route a call, and says when it is over: the logic behind `/pbx` and the REFER notification.

The PBX's own call id is the key. Asked twice it gets the same answer; told twice that a call is over, nothing happens the
second time. What is known of a call is in the store, so the answers are the same after a restart.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from kallglot_ari import log
from kallglot_ari.calls.interfaces import CallStore, Hub
from kallglot_ari.calls.model import CallView, EndReason
from kallglot_ari.clock import Clock
from kallglot_ari.errors import ApiError, KallglotAriError, ServiceBusy, StoreError
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.pbx_lost import LOOK_AT_ONCE, LOOK_SECONDS, Api, LostCalls, Turns
from kallglot_ari.modes.pbx_records import Record, answer_of, append, opened_of, request_for, stored, view_of, wanted
from kallglot_ari.modes.summary import line_of_another, tell
from kallglot_ari.modes.trunk import TrunkMode
from kallglot_ari.modes.trunk_call import Opened
from kallglot_ari.modes.trunk_sessions import Sessions
from kallglot_ari.pbx import curri, freeswitch
from kallglot_ari.pbx.addresses import public_uri
from kallglot_ari.settings import KallglotSettings, TrunkSettings, WebSettings
from kallglot_ari.tasks import Tasks

_log = log.get(__name__)

CALLS, PREPARED, REFERRED = "pbx", "prepared", "refer"
REMEMBER_SECONDS = 600.0
"""How long an ended call id is remembered, for late repetitions."""
PREPARED_SECONDS = 300.0
"""Life of an unused prepared session, unless said otherwise."""
SWEEP_SECONDS = 5.0
REFERS_KEPT = 1000


def _always() -> bool:
    return True


class PbxService:
    """What `kallglot_ari.web` calls; every method is harmless when repeated."""

    def __init__(
        self,
        translator: Api,
        store: CallStore,
        hub: Hub,
        *,
        kallglot: KallglotSettings,
        trunk: TrunkSettings,
        web: WebSettings,
        metrics: Metrics,
        clock: Clock,
        load: Load,
        instance: str = "",
        trunk_mode: TrunkMode | None = None,
    ) -> None:
        self._sessions = Sessions(translator, store, clock)
        self._lost = LostCalls(translator)
        self._store, self._hub, self._metrics, self._clock = store, hub, metrics, clock
        self._kallglot, self._trunk, self._web = kallglot, trunk, web
        self._instance = instance or "local"
        self._trunk_mode = trunk_mode
        self._tasks = Tasks("pbx")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._views: dict[str, CallView] = {}
        self._elsewhere = Turns(LOOK_SECONDS, LOOK_AT_ONCE)
        self._keys: dict[str, set[str]] = {}
        """Outbox keys by call id."""
        self._prepared: dict[str, str] = {}
        """Outbox keys by the ids of prepared sessions."""
        self._refers: OrderedDict[str, str] = OrderedDict()
        """What became of the last REFERs, also where the store did not take it."""
        self._by_session: dict[str, str] = {}
        self._asking: Counter[str] = Counter()
        """How many requests for a call id are being answered."""
        self._unheard: set[str] = set()
        """Calls whose answer nobody is known to have got."""
        self._unended: dict[str, str] = {}
        """Calls that are over, and why, where the store was away: the PBX need not tell it again."""
        self._arriving: set[str] = set()
        """Call ids that are being routed: they count before their sessions are there."""
        self._draining = False
        self._load = load
        load.add(lambda: len(self._views) + len(self._arriving))

    async def start(self) -> None:
        """Take up what the process before this one left. :raises StoreError: the store cannot be read."""
        for call_id, record in (await self._store.mappings(CALLS)).items():
            if record.get("state") == "open":
                view = await self._store.get_call(record["call"])
                self._known(call_id, record, view or view_of(record))
        for session_id, record in (await self._store.mappings(PREPARED)).items():
            self._prepared[session_id] = record["key"]
        self._tasks.spawn(self._sweep_now_and_then(), name="sweep")

    async def stop(self, grace: float = 5.0) -> None:
        """Stop sweeping. Calls stay: the PBX carries them, and tells the next process when they end."""
        await self._tasks.close()
        await self._sessions.stop(grace)

    def calls(self) -> list[CallView]:
        """The calls that have not been reported as over."""
        return list(self._views.values())

    def call(self, call_id: str) -> CallView | None:
        """A live call, by the id that the API shows."""
        return next((view for view in self._views.values() if view.id == call_id), None)

    async def end(self, call_id: str) -> None:
        """End a live call's sessions, by the id that the API shows; the PBX hangs up."""
        for theirs, view in list(self._views.items()):
            if view.id == call_id:
                await self.hangup(theirs)

    def live_keys(self) -> set[str]:
        """Outbox rows of live calls and prepared sessions, and those being worked on: the sweeper leaves them alone."""
        of_calls = {key for keys in self._keys.values() for key in keys}
        return of_calls.union(self._prepared.values(), self._sessions.in_hand)

    # --- calls -------------------------------------------------------------------------------------------------------

    async def incoming(
        self, call_id: str, from_: str, to: str, *, waits: Callable[[], bool] = _always, **extra: Any
    ) -> dict[str, Any]:
        """Where to route a call; the same answer for the same call id.

        :param waits: whether who asks still waits. A PBX that has given up routes the call without us, and tells no end: the
            session is ended, unless it asks again. :param extra: `source`, `target`, `mode`, `metadata`.
        :raises ApiError: no session could be had. :raises StoreError: nothing could be written, so none was asked for.
        :raises ServiceBusy: no new calls are taken.
        """
        self._asking[call_id] += 1
        try:
            async with self._lock(call_id):
                answer = await self._routed(call_id, from_, to, extra)
                if waits():
                    self._unheard.discard(call_id)
                elif self._asking[call_id] == 1:
                    await self._gave_up(call_id)
                return answer
        finally:
            self._asking[call_id] -= 1
            if not self._asking[call_id]:
                del self._asking[call_id]

    async def _gave_up(self, call_id: str) -> bool:
        """End a call whose answer nobody got; what the store does not take is left to the sweep."""
        if call_id not in self._unheard:
            return False
        _log.warning("pbx_gave_up", call=call_id, effect="its session is ended")
        return await self._over(call_id, EndReason.ERROR, forget=True)

    async def _routed(self, call_id: str, from_: str, to: str, extra: Mapping[str, Any]) -> dict[str, Any]:
        record = await self._store.get_mapping(CALLS, call_id)
        if record is not None and record["state"] == "ended":
            if record["until"] > self._now():
                return {"action": "reject", "reason": "this call id has ended", "session_id": record["session"]}
            await self._store.delete_mapping(CALLS, call_id)
        if record is not None and record["state"] == "open":
            return answer_of(record, self._trunk)
        self._must_be_open()
        self._arriving.add(call_id)
        try:
            return await self._route(call_id, self._record(from_, to, extra))
        finally:
            self._arriving.discard(call_id)

    async def _route(self, call_id: str, fresh: Record) -> dict[str, Any]:
        opened = await self._claim(fresh) or await self._sessions.open(fresh["call"], request_for(fresh, call_id))
        append(fresh, opened)
        try:
            if not await self._store.put_mapping(CALLS, call_id, fresh):
                return await self._other_was_first(call_id, opened)
        except StoreError:
            await self._sessions.close(opened, EndReason.ERROR)
            raise
        self._prepared.pop(opened.session.id, None)
        view = view_of(fresh)
        self._known(call_id, fresh, view)
        self._unheard.add(call_id)
        await self._save(view, "call.created")
        return answer_of(fresh, self._trunk)

    def drain(self) -> None:
        """From now on no new call is routed; those that are known still get their answer."""
        self._draining = True

    def _must_be_open(self) -> None:
        if self._draining:
            raise ServiceBusy("this service is being stopped and takes no more calls")
        if self._load.full:
            raise ServiceBusy("this service has as many calls as it may have")

    async def _other_was_first(self, call_id: str, opened: Opened) -> dict[str, Any]:
        """Another instance of the service had the same question at the same time."""
        await self._sessions.close(opened, EndReason.ERROR)
        record = await self._store.get_mapping(CALLS, call_id)
        if record is None or record["state"] != "open":
            return {"action": "reject", "reason": "this call id has ended", "session_id": ""}
        return answer_of(record, self._trunk)

    async def hangup(self, call_id: str, reason: str = EndReason.COMPLETED) -> bool:
        """A call is over: end its sessions. False when it is unknown, or was over before.

        :raises StoreError: it counts as up until the store is back.
        """
        async with self._lock(call_id):
            try:
                return await self._over(call_id, reason)
            except StoreError:
                if call_id in self._views:
                    self._unended[call_id] = str(reason)
                raise

    async def _over(self, call_id: str, reason: str, *, forget: bool = False) -> bool:
        """:param forget: asked for again, the id is a new call's."""
        record = await self._store.get_mapping(CALLS, call_id)
        if record is None or record["state"] != "open":
            self._settled(call_id)
            return False
        until = self._now() + REMEMBER_SECONDS
        ended = {"state": "ended", "until": until, "session": record["sessions"][-1]["id"]}
        try:
            await self._store.write_mappings(CALLS, {call_id: None if forget else ended}, expires_at=until)
        finally:
            for opened in opened_of(record):
                await self._sessions.close(opened, reason)
            self._keys.pop(call_id, None)
        self._settled(call_id)
        for opened in opened_of(record):
            self._by_session.pop(opened.session.id, None)
        view = self._views.pop(call_id, None) or view_of(record)
        view.state, view.end_reason, view.ended_at = "ended", str(reason), self._clock.wall()
        self._metrics.calls.labels(str(reason)).inc()
        await self._save(view, "call.ended")
        return True

    def _settled(self, call_id: str) -> None:
        self._unheard.discard(call_id)
        self._unended.pop(call_id, None)

    async def session_ended(self, session_id: str, data: Mapping[str, Any] | None = None) -> bool:
        """Kallglot says that a session has ended; False for a session of somebody else."""
        call_id = self._by_session.get(session_id)
        if call_id is None:
            return False
        record = await self._store.get_mapping(CALLS, call_id)
        if record is not None and record["state"] == "open" and record["sessions"][-1]["id"] != session_id:
            return True  # after a REFER the call goes on in its second session
        reason = str((data or {}).get("reason", ""))
        return await self.hangup(call_id, reason if reason in {r.value for r in EndReason} else EndReason.COMPLETED)

    # --- sessions ahead of their calls -------------------------------------------------------------------------------

    async def prepare(self, **parameters: Any) -> dict[str, Any]:
        """Create a session ahead; the next `incoming` with the same languages and mode takes it. Unused, it is ended.

        :param parameters: `source`, `target`, `mode`, `metadata`, `from_`, and `expires_in` in seconds.
        """
        self._must_be_open()
        expires_in = float(parameters.pop("expires_in", PREPARED_SECONDS))
        record = self._record(parameters.pop("from_", ""), "", parameters)
        opened = await self._sessions.open(record["call"], request_for(record, ""))
        session, at = opened.session, self._now() + expires_in
        value = {"key": opened.key, "base_url": session.base_url, "wanted": wanted(record), "expires_at": at}
        try:
            await self._store.put_mapping(PREPARED, session.id, value, expires_at=at)
        except StoreError:
            await self._sessions.close(opened, EndReason.ERROR)
            raise
        self._prepared[session.id] = opened.key
        return {
            "session_id": session.id,
            "destination": public_uri(session.id, self._trunk),
            "expires_at": int(at),
        }

    async def _claim(self, record: Record) -> Opened | None:
        """A prepared session that fits, taken by deleting its row: only one can."""
        if record["metadata"]:
            return None
        for session_id, value in (await self._store.mappings(PREPARED)).items():
            fits = value["wanted"] == wanted(record) and value["expires_at"] > self._now()
            if fits and await self._store.delete_mapping(PREPARED, session_id):
                return stored(session_id, value)
        return None

    async def sweep(self) -> int:
        """End prepared sessions that nobody used and calls whose end nobody told, forget calls that ended long ago; how many
        were ended."""
        ended = 0
        for call_id, reason in list(self._unended.items()):
            ended += await self.hangup(call_id, reason)
        for call_id in list(self._unheard):
            async with self._lock(call_id):
                ended += not self._asking[call_id] and await self._gave_up(call_id)
        for session_id, value in (await self._store.expired_mappings(PREPARED, self._now())).items():
            if await self._store.delete_mapping(PREPARED, session_id):
                await self._sessions.close(stored(session_id, value), EndReason.TIMEOUT)
                self._prepared.pop(session_id, None)
                ended += 1
        if known := set(self._prepared):  # what another instance has claimed is that one's business
            for session_id in known.difference(await self._store.mappings(PREPARED)):
                self._prepared.pop(session_id, None)
        for kind in (CALLS, REFERRED):
            for key in await self._store.expired_mappings(kind, self._now()):
                await self._store.delete_mapping(kind, key)
        started = {call_id: view.started_at.timestamp() for call_id, view in self._views.items()}
        for call_id in self._lost.due(started, self._now()):
            record = await self._store.get_mapping(CALLS, call_id)
            if record is not None and record["state"] == "open":
                session = record["sessions"][-1]
                if await self._lost.over(session["id"], session["base_url"]):
                    ended += await self.hangup(call_id, EndReason.TIMEOUT)
        for call_id in self._elsewhere.due(started, self._now()):
            record = await self._store.get_mapping(CALLS, call_id)
            if record is None or record["state"] != "open":  # another instance was told of its end
                self._forget(call_id)
        return ended

    async def _sweep_now_and_then(self) -> None:
        postponed = log.Lasting(_log, "pbx_sweep_postponed")
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
                postponed.worked()
            except KallglotAriError as error:
                postponed.failed(str(error))

    # --- transfers ---------------------------------------------------------------------------------------------------

    async def refer(self, session_id: str, refer_to: str, referred_by: str) -> dict[str, Any]:
        """A party of `session_id` is transferred: a session for the new party, which ends with the call."""
        key = f"{session_id}|{refer_to}"
        async with self._lock(f"refer|{key}"):
            if (known := await self._known_refer(key)) is not None:
                return {"accept": True, "new_session_id": known}
            try:
                new = await self._referred(session_id, refer_to)
            except (ApiError, StoreError) as error:
                _log.error("refer_refused", session=session_id, error=str(error))
                return {"accept": False, "reason": "no session could be created"}
            if new is None:
                return {"accept": False, "reason": "unknown session"}
            await self._note_refer(key, new)
            call_id = self._by_session.get(session_id, "")
            data = {"refer_to": refer_to, "referred_by": referred_by, "new_session_id": new}
            self._hub.publish("call.transferred", call_id, data)
            return {"accept": True, "new_session_id": new}

    async def _known_refer(self, key: str) -> str | None:
        """The session that this REFER was given before."""
        if key in self._refers:
            return self._refers[key]
        known = await self._store.get_mapping(REFERRED, key)
        return None if known is None else str(known["session"])

    async def _note_refer(self, key: str, session_id: str) -> None:
        self._refers[key] = session_id
        if len(self._refers) > REFERS_KEPT:
            self._refers.popitem(last=False)
        try:
            await self._store.put_mapping(REFERRED, key, {"session": session_id}, expires_at=self._now() + 3600)
        except StoreError as error:  # refused, Kallglot would ask again, and would be given one more session
            _log.warning("refer_not_noted", session=session_id, error=str(error))

    async def _referred(self, session_id: str, refer_to: str) -> str | None:
        if self._trunk_mode is not None and (new := await self._trunk_mode.refer(session_id, refer_to)) is not None:
            return new
        call_id = self._by_session.get(session_id)
        if call_id is None:
            return None
        async with self._lock(call_id):
            record = await self._store.get_mapping(CALLS, call_id)
            if record is None or record["state"] != "open":
                return None
            request = request_for(record, call_id, referred_from=session_id, refer_to=refer_to)
            opened = await self._sessions.open(record["call"], request)
            append(record, opened)
            try:
                await self._store.update_mapping(CALLS, call_id, record)
            except StoreError:
                await self._sessions.close(opened, EndReason.ERROR)
                raise
            self._known(call_id, record, self._views.get(call_id) or view_of(record))
            return opened.session.id

    # --- two PBXs that ask in their own words ------------------------------------------------------------------------

    async def freeswitch_dialplan(self, form: Mapping[str, str], *, waits: Callable[[], bool] = _always) -> str:
        """The document for a mod_xml_curl request; *not found* (use your own files) when there is nothing for it."""
        call_id = form.get("Unique-ID") or form.get("variable_uuid") or form.get("Channel-Call-UUID", "")
        if form.get("section") != "dialplan" or not call_id:
            return freeswitch.NOT_FOUND
        if form.get(f"variable_{freeswitch.STATUS}"):  # no endpoint took it: it goes on untranslated, and nobody pays
            try:
                await self.hangup(call_id, EndReason.ERROR)
            except StoreError as error:
                _log.error("freeswitch_session_not_ended", call=call_id, error=str(error))
            return freeswitch.NOT_FOUND
        context = form.get("Hunt-Context") or form.get("Caller-Context") or "default"
        if self._trunk.freeswitch_contexts and context not in self._trunk.freeswitch_contexts:
            return freeswitch.NOT_FOUND
        to = form.get("Hunt-Destination-Number") or form.get("Caller-Destination-Number", "")
        extra = {
            name: form[f"variable_kallglot_{name}"]
            for name in ("source", "target", "mode")
            if form.get(f"variable_kallglot_{name}")
        }
        try:
            answer = await self.incoming(call_id, form.get("Caller-Caller-ID-Number", ""), to, waits=waits, **extra)
        except (ApiError, ServiceBusy, StoreError) as error:
            _log.error("freeswitch_not_routed", call=call_id, error=str(error))
            return freeswitch.NOT_FOUND
        if answer["action"] != "route":
            return freeswitch.NOT_FOUND
        hook = freeswitch.hangup_hook(self._web, call_id)
        return freeswitch.dialplan_answer(answer["session_id"], self._trunk, context=context, hangup_hook=hook)

    async def cucm_curri(self, body: bytes | str, *, waits: Callable[[], bool] = _always) -> str:
        """Divert the call to its session. When none is to be had it goes on undiverted.

        :raises UsageError: this is not a CURRI request.
        """
        asked = curri.parse(body)
        if self._trunk.domain in asked.called:
            return curri.carry_on()  # it is on its way to Kallglot already
        call_id = asked.call_id or f"curri-{uuid.uuid4().hex}"
        until = self._clock.now() + curri.LONGEST_WAIT
        try:
            answer = await self.incoming(
                call_id, asked.calling, asked.called, waits=lambda: waits() and self._clock.now() < until
            )
        except (ApiError, ServiceBusy, StoreError) as error:
            _log.error("cucm_not_diverted", call=call_id, error=str(error))
            return curri.carry_on()
        return curri.divert(answer["destination"]) if answer["action"] == "route" else curri.carry_on()

    # --- the small print ---------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.wall().timestamp()

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def _record(self, from_: str, to: str, extra: Mapping[str, Any]) -> Record:
        return {
            "state": "open",
            "call": f"{self._instance}-p-{uuid.uuid4().hex[:16]}",
            "from": from_,
            "to": to,
            "source": extra.get("source") or self._kallglot.source_language,
            "target": extra.get("target") or self._kallglot.target_language,
            "mode": extra.get("mode") or self._kallglot.mode,
            "metadata": {str(k): str(v) for k, v in (extra.get("metadata") or {}).items()},
            "started": self._now(),
            "sessions": [],
        }

    def _known(self, call_id: str, record: Record, view: CallView) -> None:
        self._keys[call_id] = {session["key"] for session in record["sessions"]}
        self._by_session.update({session["id"]: call_id for session in record["sessions"]})
        view.session_id = record["sessions"][-1]["id"]
        self._views[call_id] = view
        self._arriving.discard(call_id)

    def _forget(self, call_id: str) -> None:
        self._keys.pop(call_id, None)
        self._views.pop(call_id, None)
        self._settled(call_id)
        self._by_session = {session: theirs for session, theirs in self._by_session.items() if theirs != call_id}

    async def _save(self, view: CallView, event: str) -> None:
        if event == "call.ended":
            tell(_log, view.id, line_of_another(view))
        else:
            _log.info(event, call=view.id, caller=view.caller, session_id=view.session_id, mode=view.mode)
        self._hub.publish(event, view.id, view.as_json())
        try:
            await self._store.save_call(view)
        except StoreError as error:
            _log.warning("pbx_call_not_saved", call=view.id, error=str(error))
