"""The calls that are up, found by their ids and by whatever belongs to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain

from kallglot_ari.calls import events as e
from kallglot_ari.calls.call import CallPlan
from kallglot_ari.calls.commands import Command, ContinueInDialplan, Finish, MusicOnHold
from kallglot_ari.calls.legs import Leg
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.model import CallView, EndReason
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.errors import AriNotFound
from kallglot_ari.log import get
from kallglot_ari.modes.actions import CallActions, Plant
from kallglot_ari.modes.journal import Journal
from kallglot_ari.modes.summary import tell
from kallglot_ari.tasks import happens

NOBODY = ""

_log = get(__name__)


class OwnChannels:
    """A call's actions, refused on channels that it has let go of: those came back to us from the dialplan, and are another call's."""

    def __init__(self, actions: CallActions) -> None:
        self._actions = actions
        self._gone: set[str] = set()
        self._given: set[str] = set()
        """Those that another call has now, straight from this one."""
        self._under_way: dict[str, tuple[Command, asyncio.Timeout]] = {}

    def apply(self, command: Command) -> None:
        self._actions.apply(command)

    async def execute(self, command: Command) -> e.Event | None:
        """:raises AriNotFound: when the call has let go of the channel, or does so meanwhile."""
        channel_id: str = getattr(command, "channel_id", "")
        if not channel_id:
            return await self._actions.execute(command)
        if channel_id in self._gone or (channel_id in self._given and not isinstance(command, MusicOnHold)):
            raise AriNotFound(f"the call has let go of {channel_id}")
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._under_way[channel_id] = command, scope
                return await self._actions.execute(command)
        except TimeoutError:
            if not scope.expired():
                raise
            raise AriNotFound(f"the call has let go of {channel_id}") from None
        finally:
            self._under_way.pop(channel_id, None)

    def let_go(self, channel_id: str) -> None:
        """What is under way would be tried again until Asterisk answers, by then on another call's channel."""
        self._gone.add(channel_id)
        if under_way := self._under_way.pop(channel_id, None):
            under_way[1].reschedule(0)

    def give(self, channel_id: str) -> None:
        """To another call: this one may still stop the music that it began. What is under way would take the party out of its new bridge."""
        self._given.add(channel_id)
        under_way = self._under_way.get(channel_id)
        if under_way is not None and not isinstance(under_way[0], MusicOnHold):
            under_way[1].reschedule(0)

    def returned(self, channel_id: str) -> None:
        """From where it was sent: that was carried out, answered or not, and tried again it would be sent there once more."""
        under_way = self._under_way.get(channel_id)
        if under_way is not None and isinstance(under_way[0], ContinueInDialplan):
            under_way[1].reschedule(0)

    def take(self, channel_id: str) -> None:
        """It is the call's, be it once more."""
        self._gone.discard(channel_id)
        self._given.discard(channel_id)


class Registry:
    """Starts calls, and lets go of them when nothing of them is left."""

    def __init__(self, plant: Plant, journal: Journal) -> None:
        self._plant = plant
        self._journal = journal
        self._runners: dict[str, CallRunner] = {}
        self._actions: dict[str, CallActions] = {}
        self._own: dict[str, OwnChannels] = {}
        self._sessions: dict[str, set[str]] = {}
        """Call → every session that it has had."""
        self._callers: dict[str, str] = {}
        """Channel → its call, also of one that has another call's name; nobody's, if the call of that name let go of it."""
        self._empty = asyncio.Event()
        self._empty.set()
        self._busy = asyncio.Event()

    def __len__(self) -> int:
        return len(self._runners)

    def runners(self) -> list[CallRunner]:
        return list(self._runners.values())

    def legs(self) -> Iterator[Leg]:
        """Of all calls."""
        return chain.from_iterable(runner.machine.legs.values() for runner in self._runners.values())

    def get(self, call_id: str) -> CallRunner:
        """:raises LookupError: for a call that is not, or no longer, up."""
        runner = self._runners.get(call_id)
        if runner is None:
            raise LookupError(f"no call {call_id!r} is up")
        return runner

    def views(self) -> list[CallView]:
        """All calls, as the API shows them."""
        return [actions.view() for actions in self._actions.values()]

    def view(self, call_id: str) -> CallView | None:
        actions = self._actions.get(call_id)
        return actions.view() if actions else None

    def actions(self, call_id: str) -> CallActions:
        """:raises LookupError: when no such call is up."""
        return self._actions[call_id]

    def owner(self, thing: str) -> CallRunner | None:
        """The call that a channel or bridge belongs to: ours carry the call's id, callers are known by theirs."""
        adopted = self._callers.get(thing)
        return self._runners.get(thing.partition(".")[0] if adopted is None else adopted)

    def of_session(self, session_id: str) -> CallRunner | None:
        """The call that has this session now."""
        for runner in self._runners.values():
            if runner.machine.link_of(session_id) is not None:
                return runner
        return None

    def to_join(self, session_id: str) -> CallRunner | None:
        """The call that has this session or had it before its present one: who was told of it then still finds the call."""
        return next((self._runners[call_id] for call_id, had in self._sessions.items() if session_id in had), None)

    def adopt(self, channel_id: str, runner: CallRunner) -> None:
        """A caller's channel belongs to this call."""
        self._callers[channel_id] = runner.id
        if own := self._own.get(runner.id):
            own.take(channel_id)

    def give(self, channel_id: str, runner: CallRunner) -> None:
        """A party of another call is this one's from now on."""
        before = self.owner(channel_id)
        if before is not None and before is not runner:
            self._own[before.id].give(channel_id)
        self.adopt(channel_id, runner)

    def returned(self, channel_id: str) -> None:
        """A channel that its call sent to the dialplan for a while is back."""
        if (runner := self.owner(channel_id)) is not None:
            self._own[runner.id].returned(channel_id)

    def let_go(self, channel_id: str) -> None:
        """The dialplan had this channel meanwhile: its call, if it has one, neither hears of it nor touches it from now on."""
        runner = self.owner(channel_id)
        if runner is None:
            return
        self._own[runner.id].let_go(channel_id)
        runner.post(e.ChannelLeft(channel_id))  # it may not have been told, and knows what to do if it was
        self._forget(channel_id)

    def _forget(self, channel_id: str) -> None:
        if channel_id.partition(".")[0] in self._runners:
            self._callers[channel_id] = NOBODY
        else:
            self._callers.pop(channel_id, None)

    def start(self, plan: CallPlan) -> CallRunner:
        """A new call."""
        clock = self._plant.clock
        runner, _ = self._enter(CallMachine(plan, clock.now(), clock.wall()))
        if plan.customer_channel:
            self.adopt(plan.customer_channel, runner)
        runner.start(self._own[runner.id])
        return runner

    def take_up(self, machine: CallMachine) -> tuple[CallRunner, CallActions]:
        """A call that another process had. Its events wait until its runner goes on."""
        runner, actions = self._enter(machine)
        up = [leg.channel_id for leg in machine.legs.values() if leg.up]
        for channel_id in (*up, *machine.candidates, *machine.unwanted):
            self.adopt(channel_id, runner)
        return runner, actions

    def go_on(self, runner: CallRunner, commands: list[Command]) -> None:
        """With a call that was taken up."""
        runner.start(self._own[runner.id], commands)

    def _enter(self, machine: CallMachine) -> tuple[CallRunner, CallActions]:
        runner = CallRunner(machine, self._plant.clock, self._finished, self._changed)
        actions = CallActions(self._plant, runner, machine.plan.request)
        self._runners[runner.id], self._actions[runner.id] = runner, actions
        self._own[runner.id] = OwnChannels(actions)
        told = {mark.rpartition("=")[2] for mark in machine.session_told}
        self._sessions[runner.id] = told | ({machine.last_session} - {""})
        self._empty.clear()
        self._busy.set()
        return runner, actions

    def _changed(self, runner: CallRunner) -> None:
        if (had := self._sessions.get(runner.id)) is not None:
            had.update(link.session.id for link in runner.machine.links if link.session is not None)
        self._journal.changed(runner)

    def _finished(self, runner: CallRunner) -> None:
        actions = self._actions.pop(runner.id)
        del self._runners[runner.id], self._own[runner.id], self._sessions[runner.id]
        for channel, owner in list(self._callers.items()):
            if owner == runner.id or (owner == NOBODY and channel.startswith(f"{runner.id}.")):
                self._forget(channel)
        actions.end_capture()
        self._journal.forget(runner.id)
        machine = runner.machine
        reason = machine.reason or EndReason.ERROR
        assert machine.status is not None
        self._plant.metrics.calls.labels(end_reason=reason.value).inc()
        summary = actions.summary(Finish(reason, machine.status), self._plant.clock.wall())
        tell(_log, runner.id, summary)
        self._plant.hub.publish("call.ended", runner.id, {"end_reason": reason.value, "status": machine.status.value})
        runner.tasks.spawn(actions.save(), name="last-save")
        if not self._runners:
            self._empty.set()
            self._busy.clear()

    async def wait_busy(self) -> None:
        """Wait until a call is up."""
        await self._busy.wait()

    async def wait_quiet(self, seconds: float) -> None:
        """Wait until there has been no call for `seconds`."""
        while True:
            await self._empty.wait()
            if not await happens(self._busy, seconds):
                return

    async def wait_empty(self, seconds: float) -> bool:
        """Wait until no call is up; False when some still are."""
        return await happens(self._empty, seconds)

    async def close(self) -> None:
        """Let go of all calls at once; Asterisk's side is swept by the next run."""
        for runner in self.runners():
            await runner.close()
        for actions in list(self._actions.values()):
            await actions.close()
        self._runners.clear()
        self._actions.clear()
        self._own.clear()
        self._sessions.clear()
