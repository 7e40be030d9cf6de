"""The trunk calls there are, each found by whatever is known of it, and the one place where they end."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from math import inf
from typing import Any, TypeVar

from kallglot_ari import log
from kallglot_ari.calls.interfaces import CallStore, Hub
from kallglot_ari.calls.model import CallView, DialplanStatus, EndReason, Session
from kallglot_ari.clock import Clock
from kallglot_ari.errors import StoreError
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.summary import line_of_another, tell
from kallglot_ari.modes.trunk_call import Opened, TrunkCall, TrunkLeg
from kallglot_ari.modes.trunk_sessions import Sessions
from kallglot_ari.tasks import Tasks, happens

T = TypeVar("T")

_log = log.get(__name__)

MAPPING = "trunk"
AGAIN = 5.0
"""Seconds between two attempts to write a call that the store refuses."""
UNLOGGED = frozenset({"call.updated", "call.ended", "leg.quality", "dtmf"})
"""What is told elsewhere, too often, or to nobody: digits are card numbers and PINs."""
YOUNG_SECONDS = 3.0
"""A list of channels is no older than this when it is compared with what is known."""
_SPLIT = re.compile(r"[/:@;?&]")

Cleaner = Callable[[TrunkCall], Awaitable[None]]


class TrunkBook:
    """All live trunk calls. Durable: what is needed to take a call up again after a restart is in the store."""

    def __init__(
        self,
        sessions: Sessions,
        store: CallStore,
        hub: Hub,
        metrics: Metrics,
        clock: Clock,
        *,
        instance: str = "",
        earlier: str = "",
    ) -> None:
        """:param earlier: the name before names were unique: calls with it are taken up too."""
        self.sessions = sessions
        self._store = store
        self._hub = hub
        self._metrics = metrics
        self.clock = clock
        self._instance = instance or "local"
        self._ours = tuple(f"{name}-t-" for name in (self._instance, earlier) if name)
        self._tasks = Tasks("trunk")
        self._calls: dict[str, TrunkCall] = {}
        self._by_linkedid: dict[str, TrunkCall] = {}
        self._by_channel: dict[str, TrunkCall] = {}
        self._by_session: dict[str, TrunkCall] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self.cleaners: list[Cleaner] = []
        """Awaited when a call ends, before its session is ended: hang up what is still up."""
        self.watchers: list[Callable[[TrunkCall], None]] = []
        """Told when a call has a channel more."""
        self._saving: set[str] = set()
        self._unsaved: set[str] = set()
        """Calls that are being written, and those of which something is still to be."""
        self.in_script: set[str] = set()
        """Uniqueids of the channels that a script of ours is talking with."""

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[TrunkCall]:
        return iter(list(self._calls.values()))

    def new_id(self) -> str:
        return f"{self._instance}-t-{uuid.uuid4().hex[:16]}"

    def get(self, call_id: str) -> TrunkCall | None:
        return self._calls.get(call_id)

    def of_session(self, session_id: str) -> TrunkCall | None:
        """The call that has, or had, this session."""
        return self._by_session.get(session_id)

    def of_channel(self, uniqueid: str, linkedid: str = "") -> TrunkCall | None:
        """The call that has this channel, else the one whose Linkedid it has."""
        found = self._by_channel.get(uniqueid)
        if found is None:
            return self._by_linkedid.get(linkedid) if linkedid else None
        if linkedid and found.linkedid != linkedid:
            # a bridge or an attended transfer gave the channel another call's Linkedid
            self._by_linkedid.pop(found.linkedid, None)
            found.linkedid = linkedid
            self._by_linkedid.setdefault(linkedid, found)
        return found

    def of_dial_string(self, dial_string: str) -> TrunkCall | None:
        """The call whose session is dialled."""
        parts = _SPLIT.split(dial_string)
        return next((call for part in parts if (call := self._by_session.get(part)) is not None), None)

    def add(self, call: TrunkCall) -> None:
        """A new call; it counts from now on."""
        self._enter(call)
        self.publish("call.created", call)

    def _enter(self, call: TrunkCall) -> None:
        self._calls[call.id] = call
        self._empty.clear()
        self._by_linkedid[call.linkedid] = call
        self.index(call)

    def index(self, call: TrunkCall) -> None:
        """Let the call be found by every channel and session it has by now."""
        channels = (*call.parties, *call.legs)
        self._by_channel.update(dict.fromkeys(channels, call))
        call.seen_at = dict.fromkeys(channels, self.clock.now()) | call.seen_at
        self._by_session.update({opened.session.id: call for opened in call.opened})
        for watch in self.watchers:
            watch(call)

    def is_young(self, call: TrunkCall, uniqueid: str) -> bool:
        """Whether a list of channels that lacks this one may have been made before it was there."""
        return self.clock.now() - call.seen_at.get(uniqueid, -inf) < YOUNG_SECONDS

    def _leave(self, call: TrunkCall) -> None:
        self._calls.pop(call.id, None)
        own = (*call.parties, *call.legs)
        for index, keys in (
            (self._by_linkedid, (call.linkedid,)),
            (self._by_channel, own),
            (self._by_session, tuple(opened.session.id for opened in call.opened)),
        ):
            for key in keys:
                if index.get(key) is call:
                    del index[key]
        if not self._calls:
            self._empty.set()

    def opened(self, call: TrunkCall, opened: Opened) -> None:
        """The call has its session (or one more)."""
        call.opened.append(opened)
        _log.info("session.created", call=call.id, session_id=opened.session.id)
        self.index(call)
        self._wake(call)
        self.save(call)
        self.publish("call.updated", call)

    def _wake(self, call: TrunkCall) -> None:
        if (event := self._changed.pop(call.id, None)) is not None:
            event.set()

    async def wait_opened(self, call: TrunkCall, timeout: float) -> None:
        """Return when the call has its session, or is over. :raises TimeoutError:"""
        if not call.opened and call.reason is None:
            event = self._changed.setdefault(call.id, asyncio.Event())
            await asyncio.wait_for(event.wait(), timeout)

    async def wait_over(self, call: TrunkCall) -> None:
        """Return when somebody has begun to end the call."""
        while call.reason is None:
            await self._changed.setdefault(call.id, asyncio.Event()).wait()

    def leg(self, call: TrunkCall, uniqueid: str, channel: str, party: str) -> TrunkLeg:
        """A channel that dials, or has dialled, the call's session."""
        leg = call.leg(uniqueid, channel, party)
        self.index(call)
        return leg

    def leg_answered(self, call: TrunkCall, uniqueid: str) -> None:
        """The session's side answered on this leg."""
        first = call.answered_at is None
        if call.leg_answered(uniqueid, self.clock.wall()):
            if first and call.answered_at is not None:
                self._metrics.call_setup.observe((call.answered_at - call.started_at).total_seconds())
            self.publish("call.answered" if first else "call.updated", call)
            self.save(call)

    def found_elsewhere(self, call: TrunkCall) -> None:
        """Its channels are on an Asterisk that we are not connected to: no list of channels speaks of it from now on."""
        call.elsewhere = True
        self.save(call)
        _log.warning(
            "trunk_call_on_another_asterisk", call=call.id, effect="only its dialplan or Kallglot tells its end"
        )

    def channel_gone(self, call: TrunkCall, uniqueid: str, cause: int = 0, text: str = "") -> None:
        """One of the call's channels is gone; the call may be over with it."""
        if call.channel_gone(uniqueid):
            self.publish("leg.left", call, speaker=call.role_of(uniqueid), cause=cause, text=text)
            if not self.check(call):
                self.save(call)

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """A task of this book's."""
        return self._tasks.spawn(work, name=name)

    def save(self, call: TrunkCall) -> None:
        """Write the call down as it is now, behind the caller's back, one write after the other; what the store refuses, later."""
        self._tasks.spawn(self._saved(call), name=f"save-{call.id}")

    async def _saved(self, call: TrunkCall) -> None:
        """Return when the call is written, or somebody else sees to it."""
        self._unsaved.add(call.id)
        if call.id in self._saving:
            return
        self._saving.add(call.id)
        told = False
        try:
            while call.id in self._unsaved:
                self._unsaved.discard(call.id)
                try:
                    await self._save(call)
                except StoreError as error:
                    (_log.debug if told else _log.warning)("trunk_call_not_saved", call=call.id, error=str(error))
                    told = True
                    self._unsaved.add(call.id)
                    await asyncio.sleep(AGAIN)
        finally:
            self._saving.discard(call.id)
            self._unsaved.discard(call.id)

    async def _save(self, call: TrunkCall) -> None:
        """:raises StoreError:"""
        if call.ended_at is None and not call.told:
            return  # with this process its FastAGI ends, and the dialplan goes on without the session: the outbox ends that
        if call.ended_at is None and call.opened:
            record = _record(call)
            if not await self._store.put_mapping(MAPPING, call.id, record):
                await self._store.update_mapping(MAPPING, call.id, record)
        await self._store.save_call(call.view())
        if call.ended_at is not None:
            await self._store.delete_mapping(MAPPING, call.id)

    def publish(self, event: str, call: TrunkCall, **data: Any) -> None:
        if event == "call.created":
            _log.info(event, call=call.id, caller=call.caller, channel=call.caller_channel, mode=call.mode)
        elif event not in UNLOGGED:
            _log.info(event, call=call.id, **data)
        self._hub.publish(event, call.id, data or call.view().as_json())

    def check(self, call: TrunkCall, *, lost: bool = False) -> bool:
        """End the call if it is over; True if it is. :param lost: Asterisk was started anew since it began: nobody hung up."""
        reason = call.over()
        if reason is not None:
            self.finish(call, EndReason.ERROR if lost else reason)
        return reason is not None

    def finish(self, call: TrunkCall, reason: EndReason, status: DialplanStatus | None = None) -> None:
        """Begin to end a call; the first reason counts."""
        if call.reason is None:
            call.reason = reason
            call.status = status or (DialplanStatus.COMPLETED if call.completed() else DialplanStatus.FAILED)
            self._wake(call)
            self._tasks.spawn(self._finish(call), name=f"finish-{call.id}")

    async def _finish(self, call: TrunkCall) -> None:
        reason = call.reason or EndReason.ERROR
        for clean in self.cleaners:
            await clean(call)
        for opened in call.opened:
            await self.sessions.close(opened, reason)
        call.ended_at = self.clock.wall()
        self._leave(call)
        self._metrics.calls.labels(reason.value).inc()
        tell(_log, call.id, line_of_another(call.view()))
        self.publish("call.ended", call)
        await self._saved(call)

    def views(self) -> list[CallView]:
        return [call.view() for call in self._calls.values()]

    def live_keys(self) -> set[str]:
        """Keys of the outbox rows that belong to live calls, or are being worked on, and so are none of the sweeper's business."""
        live = {opened.key for call in self._calls.values() for opened in call.opened}
        return live | self.sessions.in_hand

    async def restore(self) -> int:
        """Take up the calls of the process before this one; how many. Whether they live, AMI or ARI will tell.

        Not those of another instance that shares the database: its Asterisk may be another one, which has none of them.
        """
        count = 0
        for call_id, record in (await self._store.mappings(MAPPING)).items():
            if not call_id.startswith(self._ours):
                continue
            view = await self._store.get_call(call_id)
            try:
                call = _restored(call_id, record, view)
            except (KeyError, TypeError, ValueError) as error:
                _log.warning("trunk_mapping_unusable", call=call_id, error=repr(error))
                continue
            self._enter(call)
            call.seen_at = dict.fromkeys(call.seen_at, -inf)
            count += 1
        return count

    async def wait_empty(self, seconds: float) -> bool:
        """Wait until no call is left; False when some still are."""
        return await happens(self._empty, seconds)

    async def stop(self, grace: float) -> None:
        await self._tasks.join(grace)
        await self._tasks.close()


def _record(call: TrunkCall) -> dict[str, Any]:
    return {
        "uniqueid": call.caller_uniqueid,
        "linkedid": call.linkedid,
        "channel": call.caller_channel,
        "participants": call.participants,
        "agent_expected": call.agent_expected,
        "parties": call.parties,
        "elsewhere": call.elsewhere,
        "sessions": [{"key": o.key, "id": o.session.id, "base_url": o.session.base_url} for o in call.opened],
    }


def _restored(call_id: str, record: dict[str, Any], view: CallView | None) -> TrunkCall:
    if view is None:
        raise ValueError("the call itself is not in the store")
    opened = [
        Opened(s["key"], Session(s["id"], view.mode, "", "", None, base_url=s["base_url"])) for s in record["sessions"]
    ]
    call = TrunkCall(
        call_id, view.mode, view.source_language, view.target_language, view.started_at, record["channel"],
        record["uniqueid"], record["linkedid"], view.caller, view.metadata, int(record["participants"]), opened,
        parties=dict(record.get("parties", {})), agent_expected=bool(record.get("agent_expected")), told=True,
    )  # fmt: skip
    call.answered_at = view.answered_at
    call.dtmf = list(view.dtmf)
    call.elsewhere = bool(record.get("elsewhere"))
    for leg in view.legs:
        known = call.leg(leg.channel_id, leg.channel_name, "")
        known.role, known.answered, known.gone = leg.speaker, leg.state in ("up", "held"), leg.state == "gone"
        known.quality = leg.quality
    return call
