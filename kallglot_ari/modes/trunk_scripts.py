"""The FastAGI scripts of trunk mode: what the dialplan asks, answered in channel variables.

``session``   source=, target=, mode=, metadata.KEY=, participants=, tech=PJSIP|SIP, agent=, timeout=; or join=SESSION, or call=CALL
``answered``  session=, party=UNIQUEID: run on a trunk leg when the session's side has answered
``end``       session=, hangup=1: run by hangup handlers, or by the dialplan when it is done
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from kallglot_ari import log
from kallglot_ari.agi.server import AgiSession, Script
from kallglot_ari.calls.model import DialplanStatus, EndReason, SessionRequest
from kallglot_ari.errors import AgiError, AgiGone, ApiError, ApiInvalid, StoreError, UsageError
from kallglot_ari.modes import dialplan
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.trunk_agent import Agents
from kallglot_ari.modes.trunk_book import TrunkBook
from kallglot_ari.modes.trunk_call import TrunkCall
from kallglot_ari.modes.trunk_trace import SipTrace
from kallglot_ari.pbx.addresses import dial_strings, timeout_seconds
from kallglot_ari.settings import KallglotSettings, TrunkSettings

_log = log.get(__name__)

SESSION_SECONDS = 20.0
"""Within which the API has to give a session; the caller hears ringing meanwhile."""
SESSION_KEYS = ("source", "target", "mode", "participants", "tech", "agent", "timeout", "join", "call")
"""Arguments of ``session``, beside ``metadata.KEY``."""


@dataclass(frozen=True, slots=True)
class SessionArguments:
    """The arguments of ``session``, checked."""

    mode: str
    source: str
    target: str
    participants: int
    tech: str
    agents: tuple[str, ...]
    timeout: float
    metadata: dict[str, str]


def read_arguments(parameters: Mapping[str, str], defaults: KallglotSettings) -> SessionArguments:
    """:raises UsageError: names the argument, what was expected and what was found."""
    metadata: dict[str, str] = {}
    for key, value in parameters.items():
        dialplan.no_control("AGI", key, value)
        if key.startswith("metadata."):
            dialplan.add_metadata("AGI", metadata, key.removeprefix("metadata."), value)
        elif key not in SESSION_KEYS:
            raise UsageError(
                f"unknown AGI argument {key[:40]!r}; expected one of {', '.join(SESSION_KEYS)}, metadata.KEY"
            )
    agents = parameters.get("agent", "").strip("& ")
    tech = (parameters.get("tech") or "PJSIP").upper()
    if tech not in ("PJSIP", "SIP"):
        raise UsageError(f"tech: expected PJSIP or SIP, found {tech!r}")
    return SessionArguments(
        dialplan.mode("mode", parameters.get("mode") or defaults.mode),
        dialplan.language("source", parameters.get("source") or defaults.source_language),
        dialplan.language("target", parameters.get("target") or defaults.target_language),
        int(_number("participants", parameters.get("participants") or "2", 1, 100)),
        tech,
        dialplan.dial_strings("agent", agents) if agents else (),
        _number("timeout", parameters.get("timeout") or "30", 1, 300),
        metadata,
    )


def _all_named(arguments: Sequence[str]) -> None:
    """:raises UsageError: for an argument that is no ``key=value``, or a key that was there before."""
    seen: set[str] = set()
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if argument.strip() and not equals:
            raise UsageError(f"AGI argument {argument[:40]!r}: expected key=value")
        if equals and key.strip() in seen:
            raise UsageError(f"AGI argument {key.strip()[:40]}: given twice")
        seen.add(key.strip())


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise UsageError(f"{name}: expected a number from {low:g} to {high:g}, found {text!r}")
    return value


class TrunkScripts:
    """Serves the scripts."""

    def __init__(
        self,
        book: TrunkBook,
        agents: Agents,
        *,
        kallglot: KallglotSettings,
        trunk: TrunkSettings,
        load: Load,
        trace: SipTrace | None = None,
    ) -> None:
        self._book = book
        self._agents = agents
        self._kallglot, self._trunk, self._load = kallglot, trunk, load
        self._trace = trace
        self.accepting = True

    def table(self) -> dict[str, Script]:
        return {
            "session": Script(self._known(self.session), SESSION_SECONDS + 305),
            "answered": Script(self._known(self.answered)),
            "end": Script(self.end, SESSION_SECONDS),
        }

    def _known(self, script: Callable[[AgiSession], Awaitable[None]]) -> Callable[[AgiSession], Awaitable[None]]:
        """While it runs its channel is known to be there."""

        async def run(agi: AgiSession) -> None:
            self._book.in_script.add(agi.request.uniqueid)
            try:
                await script(agi)
            finally:
                self._book.in_script.discard(agi.request.uniqueid)

        return run

    async def session(self, agi: AgiSession) -> None:
        """``session``: SESSION_ID, KALLGLOT_URIS and KALLGLOT_TIMEOUT, or an empty SESSION_ID and KALLGLOT_STATUS."""
        parameters = agi.request.parameters
        status, call, tech = DialplanStatus.FAILED, None, "PJSIP"
        try:
            _all_named(agi.request.arguments)
            if parameters.get("call") == "":
                # a phone that we rang sent the call on: Asterisk's channel for that has none of our variables
                raise UsageError("call: expected the id of a call, found nothing")
            if parameters.get("join") or parameters.get("call"):
                tech = read_arguments(parameters, self._kallglot).tech
                status, call = await self._join(agi)
            else:
                arguments = read_arguments(parameters, self._kallglot)
                tech = arguments.tech
                status, call = await self._open(agi, arguments)
        except UsageError as error:
            _log.error("agi_argument", channel=agi.request.channel, error=str(error))
        try:
            await self._answer(agi, status, call, tech)
        except AgiGone:
            if call is not None:
                call.channel_gone(agi.request.uniqueid)
                self._book.check(call)
        except (AgiError, asyncio.CancelledError):
            if call is not None:
                self._not_told(call, agi.request.uniqueid)
            raise

    def _not_told(self, call: TrunkCall, uniqueid: str) -> None:
        """The dialplan was not given the session, and goes on without it."""
        if uniqueid != call.caller_uniqueid:
            call.channel_gone(uniqueid)
            self._book.check(call)
        elif not call.live_legs:
            self._book.finish(call, EndReason.ERROR)

    async def _answer(self, agi: AgiSession, status: DialplanStatus, call: TrunkCall | None, tech: str) -> None:
        if call is None or call.reason is not None:
            if call is not None:  # who is said to have hung up, and asks, is there, and goes on
                hung_up = call.reason is EndReason.CUSTOMER_HANGUP
                status = DialplanStatus.FAILED if hung_up else call.status or status
            await agi.set_variable("SESSION_ID", "")
            await agi.set_variable("KALLGLOT_STATUS", status)
            return
        if not call.told:
            call.told = True
            self._book.save(call)
        variables = {
            "KALLGLOT_URIS": "&".join(dial_strings(call.session_id, self._trunk, tech)),
            "KALLGLOT_TIMEOUT": timeout_seconds(self._trunk),
            "KALLGLOT_CALL_ID": call.id,
            "KALLGLOT_SESSION_ID": call.session_id,
            "SESSION_ID": call.session_id,
        }
        for name, value in variables.items():
            if agi.gone:  # its word of it and each further reply would take turns with delayed acknowledgements of TCP
                break
            await agi.set_variable(name, value)
        if agi.gone:
            call.channel_gone(agi.request.uniqueid)
            self._book.check(call)

    async def _open(self, agi: AgiSession, arguments: SessionArguments) -> tuple[DialplanStatus, TrunkCall | None]:
        known = self._book.of_channel(agi.request.uniqueid)
        if known is not None and known.opened and known.reason is None:
            return DialplanStatus.COMPLETED, known
        if not self.accepting:
            return DialplanStatus.UNAVAILABLE, None
        linkedid = await agi.get_variable("${CHANNEL(linkedid)}") or agi.request.uniqueid
        if self._load.full:  # no await between this and the call's being counted
            return DialplanStatus.BUSY, None
        call = self._begin(agi, arguments, linkedid)
        try:
            await self._traced(agi, call)
            status = await self._set_up(agi, call, arguments)
        except asyncio.CancelledError:  # by a stop: the dialplan goes on without the session
            self._book.finish(call, EndReason.ERROR)
            raise
        except AgiGone:
            self._book.finish(call, EndReason.CUSTOMER_HANGUP)
            raise
        if status is None or call.reason is not None:
            return DialplanStatus.COMPLETED, call
        if agi.gone:
            call.channel_gone(agi.request.uniqueid)
            self._book.finish(call, EndReason.CUSTOMER_HANGUP)
        elif status in (DialplanStatus.NOANSWER, DialplanStatus.AGENTBUSY):
            self._book.finish(call, EndReason.TIMEOUT, status)
        else:
            self._book.finish(call, EndReason.ERROR, status)
        return status, None

    async def _set_up(self, agi: AgiSession, call: TrunkCall, arguments: SessionArguments) -> DialplanStatus | None:
        """The session and the agent at the same time; None when both are there, else why not."""
        create = self._book.spawn(self._create(call), name=f"create-{call.id}")
        ring = self._book.spawn(self._agents.ring(call, arguments.agents, arguments.timeout), name=f"ring-{call.id}")
        gone = self._book.spawn(agi.wait_gone(), name=f"gone-{call.id}")
        over = self._book.spawn(self._book.wait_over(call), name=f"over-{call.id}")
        try:
            while True:
                open_ones = {task for task in (create, ring, gone, over) if not task.done()}
                await asyncio.wait(open_ones, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or over.done():
                    return DialplanStatus.FAILED
                for task in (create, ring):
                    if task.done() and (status := task.result()) is not None:
                        return status
                if create.done() and ring.done():
                    return None
        finally:
            for task in (create, ring, gone, over):
                task.cancel()

    def _begin(self, agi: AgiSession, arguments: SessionArguments, linkedid: str) -> TrunkCall:
        call = TrunkCall(
            self._book.new_id(), arguments.mode, arguments.source, arguments.target, self._book.clock.wall(),
            agi.request.channel, agi.request.uniqueid, linkedid, agi.request.caller,
            arguments.metadata, arguments.participants, agent_expected=bool(arguments.agents),
        )  # fmt: skip
        self._book.add(call)
        return call

    async def _traced(self, agi: AgiSession, call: TrunkCall) -> None:
        """With `sip_trace`, this channel's SIP messages are the call's."""
        if self._trace is not None:
            self._trace.belongs(await agi.get_variable("${CHANNEL(pjsip,call-id)}"), call)

    async def _create(self, call: TrunkCall) -> DialplanStatus | None:
        """The session; None when it is there, else what to tell the dialplan."""
        metadata = {**call.metadata, "call_id": call.id}
        caller = (
            f"sip:{call.caller}@{self._trunk.domain}" if re.fullmatch(r"\+?[0-9A-Za-z.-]{1,64}", call.caller) else ""
        )
        request = SessionRequest(
            call.mode, call.source_language, call.target_language, metadata, caller,
            participants=call.participants, trunk=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(SESSION_SECONDS):
                opened = await self._book.sessions.open(call.id, request)
        except ApiInvalid as error:
            _log.error("trunk_session_invalid", call=call.id, param=error.param, error=str(error))
            return DialplanStatus.FAILED
        except (ApiError, StoreError, TimeoutError) as error:
            _log.error("trunk_session_failed", call=call.id, error=str(error) or type(error).__name__)
            return DialplanStatus.UNAVAILABLE
        if call.ending():  # meanwhile: who ended it knew of no session
            await self._book.sessions.close(opened, call.reason or EndReason.ERROR)
            return DialplanStatus.FAILED
        self._book.opened(call, opened)
        return None

    async def _join(self, agi: AgiSession) -> tuple[DialplanStatus, TrunkCall | None]:
        """One more party: of a call we dialled it for (``call=``), or of any session (``join=``)."""
        parameters = agi.request.parameters
        rung = bool(parameters.get("call"))
        call = self._book.get(parameters["call"]) if rung else self._book.of_session(parameters.get("join", ""))
        if call is None or call.reason is not None:
            return DialplanStatus.UNAVAILABLE, None
        if rung and not self._agents.joined(call, agi.request.uniqueid):
            return DialplanStatus.UNAVAILABLE, None
        role = call.join(agi.request.uniqueid)
        self._book.index(call)
        await self._traced(agi, call)
        await self._book.wait_opened(call, SESSION_SECONDS)
        self._book.save(call)
        self._book.publish("leg.joined", call, speaker=role, channel=agi.request.channel)
        return DialplanStatus.COMPLETED, call

    async def answered(self, agi: AgiSession) -> None:
        """``answered``: this channel is a leg of the session; a hangup handler of it will tell when it is gone."""
        parameters, request = agi.request.parameters, agi.request
        call = self._book.of_session(parameters.get("session", ""))
        if call is not None:
            self._book.leg(call, request.uniqueid, request.channel, parameters.get("party", call.caller_uniqueid))
            self._book.leg_answered(call, request.uniqueid)

    async def end(self, agi: AgiSession) -> None:
        """``end``: told by a channel that is going, or by a dialplan that is done with the session."""
        parameters, uniqueid = agi.request.parameters, agi.request.uniqueid
        session_id = parameters.get("session") or await agi.get_variable("SESSION_ID")
        call = self._book.of_session(session_id) or self._book.of_channel(uniqueid)
        if call is None:
            return
        hangup = bool(parameters.get("hangup")) or agi.request.environment.get("extension") == "h"
        if uniqueid in call.legs or hangup:
            # Events of two channels may come in either order; what the channel itself knows is right.
            call.hung_up_by(await agi.get_variable("${CHANNEL(hangupsource)}"))
            call.channel_gone(uniqueid)
            if not self._book.check(call):
                self._book.save(call)
        elif call.answered_at:
            self._book.finish(call, EndReason.COMPLETED)
        else:  # as that dialplan goes on: it reached none of Kallglot's endpoints
            self._book.finish(call, EndReason.ERROR, DialplanStatus.UNAVAILABLE)
