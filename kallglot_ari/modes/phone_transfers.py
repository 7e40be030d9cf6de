"""Transfers that a phone asks for with REFER: by `ChannelTransfer`, or done by Asterisk itself where it has no such event.

Asterisk 20.13, 21.8 and 22.3 hand a REFER of a channel with `PJSIP_TRANSFER_HANDLING()=ari-only` to the application. Older ones, and
a REFER in a call that is not ours, are carried out by Asterisk: a Local channel comes in the party's place, and `StasisStart` names
the channel it replaces.
"""

from __future__ import annotations

from kallglot_ari.ari import models as m
from kallglot_ari.calls import events as e
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.errors import AriError, AriNotFound, UsageError
from kallglot_ari.log import get
from kallglot_ari.modes import dialplan
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.registry import Registry
from kallglot_ari.tasks import Tasks

_log = get(__name__)

HANDLING = "PJSIP_TRANSFER_HANDLING()"


class PhoneTransfers:
    """What phones ask for, as events of calls."""

    def __init__(self, plant: Plant, calls: Registry, tasks: Tasks) -> None:
        self._plant = plant
        self._calls = calls
        self._tasks = tasks

    def watch(self, channel: m.Channel) -> None:
        """Have this party's REFERs handed to us, where Asterisk can."""
        if channel.name.startswith("PJSIP/") and self._plant.ari.supports("transfer_progress"):
            self._tasks.spawn(self._watch(channel.id), name="transfer-handling")

    async def _watch(self, channel_id: str) -> None:
        try:
            await self._plant.ari.channels.set_channel_var(channel_id, variable=HANDLING, value="ari-only")
        except AriError as error:
            _log.debug("transfer_handling_not_set", channel=channel_id, error=str(error))

    def replaced(self, event: m.StasisStart) -> bool:
        """Asterisk put another channel in a party's place; whether that is so."""
        if event.replace_channel is None:
            return False
        runner = self._calls.owner(event.replace_channel.id)
        if runner is None:
            return False
        self._calls.adopt(event.channel.id, runner)
        runner.post(e.PartyReplaced(event.replace_channel.id, event.channel.id, event.channel.name))
        return True

    def asked(self, event: m.ChannelTransfer) -> None:
        """A phone asks; the echo of what we said of a transfer comes as this event too, with a state."""
        source = event.referred_by.source_channel
        runner = self._calls.owner(source.id)
        if event.state is not None or runner is None:
            return
        _log.info(
            "transfer_asked", call=runner.id, channel=source.name, to=event.refer_to.requested_destination.destination
        )
        if event.refer_to.destination_channel is not None:
            self._attended(runner, source, event.refer_to)
        else:
            number = event.refer_to.requested_destination.destination or ""
            self._tasks.spawn(self._blind(runner, source, number), name="blind-transfer")

    async def _blind(self, runner: CallRunner, source: m.Channel, number: str) -> None:
        """Whoever sends a REFER, an outside caller too, reaches what the configuration lets its endpoint dial, and nothing else."""
        try:
            endpoint = dialplan.extension("Refer-To", number, await self._context(source))
        except UsageError as error:
            self._refuse(source, str(error))
        except AriError as error:
            self._refuse(
                source, f"the context of its endpoint is not known ({error}); is func_pjsip_endpoint.so loaded?"
            )
        else:
            runner.post(e.TransferAsked("", endpoint, referrer=source.id))

    async def _context(self, source: m.Channel) -> str:
        """Where Asterisk itself would look the number up (res_pjsip_refer.c). The dialplan may have sent the channel to a context
        that can reach more than its endpoint's.
        """
        ask = self._plant.ari.channels.get_channel_var
        try:
            chosen = (await ask(source.id, variable="TRANSFER_CONTEXT")).value
        except AriNotFound:
            chosen = ""
        endpoint = source.name.removeprefix("PJSIP/").rpartition("-")[0]
        return chosen or (await ask(source.id, variable=f"PJSIP_ENDPOINT({endpoint},context)")).value

    def _attended(self, runner: CallRunner, source: m.Channel, refer_to: m.ReferTo) -> None:
        own = refer_to.destination_channel
        assert own is not None
        other = self._calls.owner(own.id)
        if other is not None and other.machine.leg_of(own.id) is None:
            other = None  # it was to be fetched, and never came: the dialplan has it
        if other is runner:
            self._refuse(source, "both calls are the same")
        elif other is not None:
            if not self._merge(runner, source.id, other, own.id):
                self._refuse(source, "one of the two calls is over")
        elif refer_to.connected_channel is not None:
            found = refer_to.connected_channel
            self._calls.adopt(found.id, runner)
            runner.post(e.FetchAsked(source.id, found.id, found.name))
        else:
            self._refuse(source, "nobody is at the other end")

    def _merge(self, one: CallRunner, one_channel: str, two: CallRunner, two_channel: str) -> bool:
        """The phone is in two of our calls: who it consulted with comes into the older one in its place. Whether that can be."""
        if one.machine.start_wall > two.machine.start_wall:
            one, one_channel, two, two_channel = two, two_channel, one, one_channel
        consulted = next((leg for leg in two.machine.parties if leg.channel_id != two_channel), None)
        leg = one.machine.leg_of(one_channel)
        if consulted is None or leg is None or not leg.up:
            return False
        channel, name, language = consulted.channel_id, consulted.channel_name, consulted.language
        self._calls.give(channel, one)
        two.post(e.PartyGiven(channel))
        one.post(e.PartyReplaced(one_channel, channel, name, language, held=consulted.held, referrer=True))
        return True

    def _refuse(self, source: m.Channel, reason: str) -> None:
        _log.warning("transfer_refused", channel=source.name, reason=reason)
        self._tasks.spawn(self._tell(source.id, "channel_declined"), name="transfer-refused")

    async def _tell(self, channel_id: str, state: str) -> None:
        try:
            await self._plant.ari.channels.transfer_progress(channel_id, states=state)
        except AriError as error:
            _log.debug("too_late", error=str(error))
