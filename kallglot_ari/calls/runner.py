"""Runs one call's machine: events in one at a time and in order, commands out side by side, each lane in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.clock import Clock
from kallglot_ari.errors import AriConflict, AriNotFound, KallglotAriError
from kallglot_ari.log import get, of_call
from kallglot_ari.tasks import Tasks

INSTANT = (
    c.Publish,
    c.Uplink,
    c.Interruptible,
    c.Pressed,
    c.Repeat,
    c.Tone,
    c.Hear,
    c.Route,
    c.SetTimer,
    c.CancelTimer,
    c.Finish,
)


class Actions(Protocol):
    """Carries commands out for one call."""

    def apply(self, command: c.Command) -> None:
        """Commands that are done at once: media switches and publishing."""
        ...

    async def execute(self, command: c.Command) -> e.Event | None:
        """Commands that take time. Returns the event they lead to, or None for plain `Done`."""
        ...


class CallRunner:
    """The shell around a `CallMachine`. `post` may be called from any event-loop code; it never waits."""

    def __init__(
        self,
        machine: CallMachine,
        clock: Clock,
        on_finished: Callable[[CallRunner], None],
        on_changed: Callable[[CallRunner], None] = lambda _: None,
    ) -> None:
        self.machine = machine
        self.id = machine.plan.call_id
        self.actions: Actions
        self._clock = clock
        self._on_finished = on_finished
        self._on_changed = on_changed
        self._inbox: deque[e.Event] = deque()
        self._busy = True  # until the start, events wait
        self._lanes: dict[str, list[c.Command]] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks = Tasks(self.id)
        self._finish: c.Finish | None = None
        self._closed = False
        self._log = get(__name__).bind(call=self.id)

    @property
    def tasks(self) -> Tasks:
        return self._tasks

    def start(self, actions: Actions, commands: list[c.Command] | None = None) -> None:
        """Let the machine begin; one that was taken up goes on with `commands`."""
        self.actions = actions
        try:
            self._carry_out(self.machine.start() if commands is None else self.machine.go_on(commands))
        finally:
            self._busy = False
        self._drain()

    def post(self, event: e.Event) -> None:
        """Hand an event to the machine, after those that came before it; nothing once the runner is closed."""
        if self._closed:
            return
        self._inbox.append(event)
        if not self._busy:
            self._drain()

    def _drain(self) -> None:
        self._busy = True
        try:
            while self._inbox:
                event = self._inbox.popleft()
                try:
                    commands = self.machine.handle(event, self._clock.now(), self._clock.wall())
                except Exception as error:  # noqa: BLE001 - a bug in one event must not take the call's teardown with it
                    self._log.error("event_crashed", event_type=type(event).__name__, exc_info=error)
                    continue
                self._carry_out(commands)
        finally:
            self._busy = False
        self._on_changed(self)

    def _carry_out(self, commands: list[c.Command]) -> None:
        for command in commands:
            if isinstance(command, INSTANT):
                self._at_once(command)
                continue
            if isinstance(command, c.CloseStream) and (task := self._opening.pop(command.session_id, None)):
                task.cancel()
            lane = self._lanes.get(command.lane)
            if lane is None:
                lane = self._lanes[command.lane] = [command]
                self._tasks.spawn(self._run_lane(command.lane, lane), name=command.lane)
            else:
                lane.append(command)

    def _at_once(self, command: c.Command) -> None:
        if isinstance(command, c.SetTimer):
            self._cancel(command.name)
            loop = asyncio.get_running_loop()
            self._timers[command.name] = loop.call_later(command.delay, self._fire, command.name)
        elif isinstance(command, c.CancelTimer):
            self._cancel(command.name)
        elif isinstance(command, c.Finish):
            for name in list(self._timers):
                self._cancel(name)
            self._finish = command
            if not self._lanes:
                self._on_finished(self)
        else:
            try:
                self.actions.apply(command)
            except Exception as error:  # noqa: BLE001 - nor may it take the commands after it
                self._log.error("command_crashed", command=type(command).__name__, exc_info=error)

    def _cancel(self, name: str) -> None:
        if handle := self._timers.pop(name, None):
            handle.cancel()

    def _fire(self, name: str) -> None:
        self._timers.pop(name, None)
        self.post(e.TimerFired(name))

    async def _run_lane(self, name: str, lane: list[c.Command]) -> None:
        while lane:
            command = lane.pop(0)
            with of_call(self.id):
                event = await self._one(command)
            self.post(event)
        del self._lanes[name]
        if self._finish is not None and not self._lanes:
            self._on_finished(self)

    async def _one(self, command: c.Command) -> e.Event:
        if isinstance(command, c.OpenStream):
            return await self._open(command)
        try:
            return await self.actions.execute(command) or e.Done(command)
        except (AriNotFound, AriConflict) as error:
            self._log.debug("command_too_late", command=type(command).__name__, error=str(error))
            return e.Failed(command, str(error), gone=True)
        except KallglotAriError as error:
            self._log.warning("command_failed", command=type(command).__name__, error=str(error))
            return e.Failed(command, str(error))
        except Exception as error:  # noqa: BLE001 - a bug in one command must not take the call's teardown with it
            self._log.error("command_crashed", command=type(command).__name__, exc_info=error)
            return e.Failed(command, f"{type(error).__name__}: {error}")

    async def _open(self, command: c.OpenStream) -> e.Event:
        """A stream that is being opened may be closed meanwhile; that gives the attempt up."""
        session_id = command.session.id
        outcome: list[e.Event | None] = []

        async def attempt() -> None:
            try:
                outcome.append(await self.actions.execute(command))
            except KallglotAriError as error:
                outcome.append(e.StreamDown(session_id, str(error), final=not error.retryable))

        task = self._opening[session_id] = self._tasks.spawn(attempt(), name="open-stream")
        await asyncio.wait({task})
        self._opening.pop(session_id, None)
        if task.cancelled() or not outcome:
            return e.StreamDown(session_id, "given up", final=True)
        return outcome[0] or e.Done(command)

    async def close(self) -> None:
        """Stop everything at once; what is left in Asterisk and at Kallglot is the sweepers'."""
        self._closed = True
        for name in list(self._timers):
            self._cancel(name)
        await self._tasks.close()
