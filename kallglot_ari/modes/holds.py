"""Holds and unholds that nobody heard of: after each connection to Asterisk it is asked which parties are on hold.

Without that, an unhold while we were not connected would leave both sides in silence until the phone holds again.
"""

from __future__ import annotations

import asyncio

from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Leg
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.errors import AriError
from kallglot_ari.log import get
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.registry import Registry
from kallglot_ari.tasks import Tasks

_log = get(__name__)

ROUNDS, AGAIN = 10, 2.0
"""How often an Asterisk that does not answer is asked, and seconds between: just connected, it may have much to do."""
ON_HOLD = "CHANNEL(rtp,hold,audio)"
"""Of a PJSIP channel, `1` while its phone holds: from the same negotiation as `ChannelHold`. A channel object does not say it."""


class Holds:
    """What Asterisk says of holds, as events of calls."""

    def __init__(self, plant: Plant, calls: Registry, tasks: Tasks) -> None:
        self._plant = plant
        self._calls = calls
        self._tasks = tasks

    def connected(self) -> None:
        """Events may have been missed before."""
        self._tasks.spawn(self._ask_all(), name="holds")

    async def _ask_all(self) -> None:
        ask = [(runner, leg) for runner in self._calls.runners() for leg in runner.machine.legs.values()]
        for again in range(ROUNDS):
            if again:
                await asyncio.sleep(AGAIN)
            ask = [(runner, leg) for runner, leg in ask if not await self._ask(runner, leg)]
            if not ask:
                return

    async def _ask(self, runner: CallRunner, leg: Leg) -> bool:
        """Whether it need not be asked again."""
        if not leg.up or not leg.channel_name.startswith("PJSIP/"):
            return True
        channel, held = leg.channel_id, leg.held
        try:
            found = (await self._plant.ari.channels.get_channel_var(channel, variable=ON_HOLD)).value == "1"
        except AriError as error:
            _log.debug("hold_not_known", channel=channel, error=str(error))
            return not error.retryable
        if leg.held is held is not found:  # an event that came meanwhile is newer than the answer
            _log.warning("hold_missed" if found else "unhold_missed", call=runner.id, channel=leg.channel_name)
            runner.post(e.HoldChanged(channel, found))
        return True
