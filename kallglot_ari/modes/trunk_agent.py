"""Ringing the agents of a trunk call: the manager interface dials them, the first to answer joins the session."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from kallglot_ari import log
from kallglot_ari.ami.client import AmiClient
from kallglot_ari.ami.protocol import OriginateDone
from kallglot_ari.calls.model import DialplanStatus
from kallglot_ari.errors import AmiError
from kallglot_ari.modes.trunk_call import TrunkCall

_log = log.get(__name__)

CONTEXT = "kallglot-trunk-agent"
"""Where the dialplan sends an agent who answered, to the extension that is the call's id: of all that an originate says it is the one
thing that a channel has with which Asterisk follows an agent's phone that sends its calls on (302)."""
BUSY = 5


@dataclass(slots=True)
class _Ringing:
    waiting: set[str]
    """Channel ids that have not failed yet."""
    result: asyncio.Future[DialplanStatus | None]
    busy: bool = False
    channels: set[str] = field(default_factory=set)


class Agents:
    """The agents that are being rung."""

    def __init__(self, ami: AmiClient | None) -> None:
        self._ami = ami
        self._ringing: dict[str, _Ringing] = {}

    def __len__(self) -> int:
        return len(self._ringing)

    async def ring(self, call: TrunkCall, agents: Sequence[str], timeout: float) -> DialplanStatus | None:
        """Dial all of `agents`; None as soon as one joined (or when there are none), else why nobody did."""
        if not agents:
            return None
        if self._ami is None or not self._ami.connected:
            _log.error(
                "trunk_agent_without_ami", call=call.id, expected="a log-in in [ami], for agent= dials through it"
            )
            return DialplanStatus.UNAVAILABLE
        ids = {f"{call.id}-a{number}": agent for number, agent in enumerate(agents, 1)}
        ringing = _Ringing(set(ids), asyncio.get_running_loop().create_future(), channels=set(ids))
        self._ringing[call.id] = ringing
        try:
            for channel_id, agent in ids.items():
                await self._dial(self._ami, call, channel_id, agent, timeout)
            async with asyncio.timeout(timeout + 1):
                return await ringing.result
        except TimeoutError:
            return DialplanStatus.NOANSWER
        finally:
            del self._ringing[call.id]
            for channel_id in ringing.channels - set(call.parties):
                await self._cancel(self._ami, channel_id)

    async def _dial(self, ami: AmiClient, call: TrunkCall, channel_id: str, agent: str, timeout: float) -> None:
        try:
            await ami.originate(
                agent, context=CONTEXT, exten=call.id, caller_id=call.caller, timeout=timeout, channel_id=channel_id,
                variables=[f"KALLGLOT_CALL={call.id}"],
            )  # fmt: skip
        except AmiError as error:
            _log.warning("trunk_agent_not_dialled", call=call.id, agent=agent, error=str(error))
            self.done(OriginateDone(channel_id, success=False, reason=0))

    async def _cancel(self, ami: AmiClient, channel_id: str) -> None:
        try:
            await ami.hangup(channel_id)
        except AmiError as error:
            _log.warning("trunk_agent_not_cancelled", channel=channel_id, error=str(error))

    def joined(self, call: TrunkCall, uniqueid: str) -> bool:
        """An agent has answered; False when another had before, or when nobody waits any more."""
        if uniqueid in call.parties:
            return True
        ringing = self._ringing.get(call.id)
        if ringing is None or ringing.result.done():
            return False
        ringing.result.set_result(None)
        return True

    def done(self, event: OriginateDone) -> None:
        """An originate is over; when all have failed, so has the ringing."""
        ringing = self._ringing.get(event.action_id.rpartition("-a")[0])
        if ringing is None or event.success:
            return
        ringing.waiting.discard(event.action_id)
        ringing.busy = ringing.busy or event.reason == BUSY
        if not ringing.waiting and not ringing.result.done():
            ringing.result.set_result(DialplanStatus.AGENTBUSY if ringing.busy else DialplanStatus.NOANSWER)
