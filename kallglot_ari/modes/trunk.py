"""Trunk mode: the dialplan dials Kallglot's own SIP endpoint; we create, follow and end the sessions.

FastAGI asks for a session and reports its end; the manager interface (when a log-in is set) or ARI tells what happens in between and
what was missed. A session is ended exactly once, by whichever learns first that it is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kallglot_ari import log
from kallglot_ari.agi.server import AgiServer
from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.socket import SocketEvent
from kallglot_ari.calls.interfaces import CallStore, Hub
from kallglot_ari.calls.model import CallView, DialplanStatus, EndReason, SessionRequest
from kallglot_ari.clock import Clock
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.pbx_lost import Api
from kallglot_ari.modes.trunk_agent import Agents
from kallglot_ari.modes.trunk_book import TrunkBook
from kallglot_ari.modes.trunk_follow import Follower
from kallglot_ari.modes.trunk_lost import LostTrunkCalls
from kallglot_ari.modes.trunk_scripts import TrunkScripts
from kallglot_ari.modes.trunk_sessions import Sessions
from kallglot_ari.modes.trunk_trace import SipTrace
from kallglot_ari.modes.trunk_watch import ChannelWatch
from kallglot_ari.settings import (
    AgiSettings,
    AmiSettings,
    DebugSettings,
    KallglotSettings,
    TrunkSettings,
)

_log = log.get(__name__)


class TrunkMode:
    """FastAGI server, manager interface and the calls between them."""

    def __init__(
        self,
        translator: Api,
        store: CallStore,
        hub: Hub,
        *,
        kallglot: KallglotSettings,
        trunk: TrunkSettings,
        agi: AgiSettings,
        ami: AmiSettings,
        metrics: Metrics,
        clock: Clock,
        load: Load,
        instance: str = "",
        earlier: str = "",
        debug: DebugSettings | None = None,
        ari: AriClient | None = None,
        app: str = "",
    ) -> None:
        """:param ari: tells which channels are gone when [ami] has no log-in; `app` is subscribed to them."""
        self._sessions = Sessions(translator, store, clock)
        self._book = TrunkBook(self._sessions, store, hub, metrics, clock, instance=instance, earlier=earlier)
        load.add(self._book.__len__)
        self._lost = LostTrunkCalls(self._book, translator)
        self._follower = Follower(self._book, ami, hub, metrics, trunk) if ami.username else None
        self._watch = ChannelWatch(self._book, ari, app) if ari is not None and self._follower is None else None
        agents = self._follower.agents if self._follower else Agents(None)
        folder = Path((debug or DebugSettings()).dir)
        find = self._book.of_dial_string
        self._trace = (
            SipTrace(agi.bind, trunk.sip_trace_port, folder, find, allowed_ips=agi.allowed_ips)
            if trunk.sip_trace
            else None
        )
        self._scripts = TrunkScripts(self._book, agents, kallglot=kallglot, trunk=trunk, load=load, trace=self._trace)
        self._agi = AgiServer(agi.bind, agi.port, self._scripts.table(), metrics, allowed_ips=agi.allowed_ips)

    @property
    def agi_port(self) -> int:
        """The port FastAGI listens on; known after the start."""
        return self._agi.port

    async def start(self) -> None:
        """Take up what the process before this one left, then listen.

        :raises ConfigError: the FastAGI address cannot be listened on. :raises StoreError: the store cannot be read.
        """
        restored = await self._book.restore()
        if self._trace is not None:
            await self._trace.start()
        await self._agi.start()
        if self._follower is not None:
            await self._follower.start()
        if self._watch is not None:
            self._watch.start()
        self._lost.start()
        _log.info("trunk_mode_up", agi_port=self._agi.port, ami=self._follower is not None, restored=restored)

    def on_ari(self, event: SocketEvent) -> None:
        """An event of ARI's socket."""
        if self._watch is not None:
            self._watch.event(event)

    def has_channel(self, uniqueid: str) -> bool:
        """Our application hears of this channel, but it is in the dialplan, and no caller of media mode."""
        return self._book.of_channel(uniqueid) is not None or (self._watch is not None and self._watch.has(uniqueid))

    def drain(self) -> None:
        """Take no new calls: ``session`` answers KALLGLOT_STATUS=UNAVAILABLE from now on."""
        self._scripts.accepting = False

    async def wait_empty(self, seconds: float) -> None:
        """Let calls end by themselves for `seconds`; those that are left are `stop`'s."""
        if not await self._book.wait_empty(seconds):
            _log.warning("trunk_drain_over", calls=len(self._book))

    async def stop(self, *, keep_calls: bool = False, grace: float = 5.0) -> None:
        """Stop listening and end the calls.

        :param keep_calls: leave them up, for the next process to take up; their sound does not go through this one.
        """
        self.drain()
        await self._lost.stop()
        if not keep_calls:
            for call in self._book:
                self._book.finish(call, EndReason.COMPLETED)
        await self._agi.stop(min(grace, 2.0))
        if self._follower is not None and keep_calls:
            await self._follower.stop()
        await self._book.stop(grace)
        if self._follower is not None:
            await self._follower.stop()
        if self._watch is not None:
            await self._watch.stop()
        await self._sessions.stop(grace)
        if self._trace is not None:
            await self._trace.stop()

    @property
    def sip_trace_port(self) -> int:
        """The port that listens for copies of SIP messages; 0 when none does."""
        return self._trace.port if self._trace else 0

    def calls(self) -> list[CallView]:
        """The live calls."""
        return self._book.views()

    def call(self, call_id: str) -> CallView | None:
        """A live call."""
        found = self._book.get(call_id)
        return found.view() if found else None

    def live_keys(self) -> set[str]:
        """Outbox rows that belong to live calls: the sweeper leaves them alone."""
        return self._book.live_keys()

    def problems(self) -> list[str]:
        """Why trunk calls may not work at the moment, for /readyz; empty when all is well."""
        if self._follower is None:
            return []
        found = [f"AMI: {self._follower.client.problem}"] if not self._follower.client.connected else []
        found += [f"SIP trunk: {self._follower.misloaded}"] if self._follower.misloaded else []
        found += [f"SIP endpoint {dead}" for dead in self._follower.unreachable()]
        return found

    async def hangup(self, call_id: str) -> None:
        """End a call and hang up its legs, and who waits for an answer. :raises LookupError: there is no such call."""
        call = self._book.get(call_id)
        if call is None:
            raise LookupError(f"call {call_id}: no such trunk call")
        call.hang_up = True
        self._book.finish(call, EndReason.COMPLETED, DialplanStatus.COMPLETED)  # the dialplan must not go on with it

    async def session_ended(self, session_id: str, data: Mapping[str, Any] | None = None) -> bool:
        """Kallglot says that a session has ended: hang up what is still up. False for a session of somebody else."""
        call = self._book.of_session(session_id)
        if call is None:
            return False
        if session_id == call.session_id:  # after a REFER the old session's end is not the call's
            reason = str((data or {}).get("reason", ""))
            known = reason in {r.value for r in EndReason}
            self._book.finish(call, EndReason(reason) if known else EndReason.COMPLETED)
        return True

    async def refer(self, session_id: str, refer_to: str) -> str | None:
        """A party of a trunk call is transferred on Kallglot's side: the call's next session, or None if it is not ours.

        :raises ApiError: it could not be created.
        """
        call = self._book.of_session(session_id)
        if call is None or call.ending():
            return None
        request = SessionRequest(
            call.mode, call.source_language, call.target_language,
            {**call.metadata, "call_id": call.id, "referred_from": session_id, "refer_to": refer_to},
            participants=call.participants, trunk=True,
        )  # fmt: skip
        opened = await self._sessions.open(call.id, request)
        if call.ending():
            await self._sessions.close(opened, EndReason.COMPLETED)
            return None
        self._book.opened(call, opened)
        return opened.session.id
