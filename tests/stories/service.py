"""The service's media mode as `app` builds it, in a process that can be killed, hand its calls over, or drain."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.snapshot import Connected, Disconnected
from kallglot_ari.calls.interfaces import Media
from kallglot_ari.calls.legs import Role
from kallglot_ari.calls.machine import CallMachine
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.errors import AriError
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.journal import Journal
from kallglot_ari.modes.load import Load
from kallglot_ari.modes.outbox import Outbox
from kallglot_ari.modes.sip_quality import SipQualities
from kallglot_ari.modes.stasis import StasisMode
from kallglot_ari.settings import Settings
from tests.modes.trunk_fakes import FakeHub
from tests.stories.asterisk import Asterisk, Where
from tests.stories.clock import some
from tests.stories.kallglot import Kallglot, Translator
from tests.stories.line import Line
from tests.stories.media import StoryMedia
from tests.stories.requests import Ari
from tests.stories.store import Disk, StoryStore
from tests.stories.world import Life, World

PREFIX = "kg-t"
SNAPSHOT_SECONDS = 10.0
DRAIN_SECONDS, ENDING_SECONDS = 20.0, 15.0
"""Given to calls to end by themselves, and to end when they are told to."""


class Telling(FakeHub):
    """What calls publish becomes part of the story; one that ends is asked why."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    def publish(self, event: str, call_id: str, data: dict[str, Any]) -> None:
        process = self._process
        if process.life.over:
            return
        process.world.tell("call", call_id, event, *(f"{k}={v}" for k, v in data.items()))
        if event == "call.ending":
            process.ends(call_id, data["status"])
        elif event == "call.ended":
            process.has_ended(call_id)


class Process:
    """One run of the service."""

    def __init__(self, world: World, asterisk: Asterisk, kallglot: Kallglot, disk: Disk) -> None:
        self.world, self.asterisk, self.kallglot = world, asterisk, kallglot
        self.life = Life()
        self._chance = world.dice.of("process")
        settings = Settings()
        metrics = Metrics()
        self.ari = Ari(asterisk, self.life)
        ari = cast(AriClient, self.ari)
        self.store = StoryStore(world, self.life, disk)
        self.translator = Translator(kallglot, self.life)
        self.journal = Journal(self.store, PREFIX)
        self.outbox = Outbox(self.translator, self.store, metrics, world.clock, prefix=PREFIX)
        sip = SipQualities(ari, metrics, world.clock)
        self.plant = Plant(
            ari, "kallglot", cast(Media, StoryMedia()), self.translator, self.outbox, self.store, Telling(self),
            metrics, world.clock, sip,
        )  # fmt: skip
        features = {"human_endpoint": "PJSIP/good", "human": "*9", "original": "*2"}
        self.mode = StasisMode(
            self.plant,
            settings.service.model_copy(update={"on_unavailable": world.unavailable}),
            settings.kallglot,
            settings.media,
            settings.conference,
            settings.features.model_copy(update=features),
            PREFIX,
            self.journal,
            Load(metrics, 0),
        )
        self._closed = False
        self._built: dict[str, set[str]] = {}
        """Calls that end while nothing fails: the bridges and media of their legs."""
        self.before: set[asyncio.Task[Any]] = set()
        """Tasks of the processes that were killed before this one came."""

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.world.tell("the service starts")
        self.before = asyncio.all_tasks()
        await self.outbox.start(await self.mode.resume.read())
        self.mode.resume.start(same_port=self._chance.random() < 0.6)
        self.journal.start()
        self.mode._sweep.start()  # all of `mode.start` but the figures of the parties' own channels, which nobody acts on
        self.world.does(self._stays_connected())

    def kill(self) -> None:
        """At once: what it waits for never comes, and nobody hears of its end but by its connections."""
        self.world.tell("the service is killed")
        self.life.over = True
        for runner in self.runners:
            runner._closed = True
            for timer in list(runner._timers):
                runner._cancel(timer)
        self._disconnected()

    async def hand_over(self) -> None:
        """As `app` stops for another run of it."""
        self.world.tell("the service hands its calls over")
        self.outbox.leave()
        await self._stop()

    async def drain(self) -> None:
        """As `app` stops when it is asked to for good."""
        self.world.tell("the service is asked to stop")
        await self.mode.drain(DRAIN_SECONDS)
        weather = self.world.weather
        wrong = weather.asterisk_silent or weather.kallglot_away or not self.ari.connected
        if self.runners and not wrong and self.world.clock.now() - weather.since > ENDING_SECONDS:
            self.world.breaks(f"Who is asked to stop leaves no call: {[runner.id for runner in self.runners]}")
        await self._stop()

    async def _stop(self) -> None:
        await self.mode.close()
        self._closed = True
        self.ari.is_connected(False)
        self._disconnected()
        await self.outbox.stop()
        await self.journal.close()
        self.life.over = True
        self.world.tell("the service has stopped")

    def _disconnected(self) -> None:
        for sold in self.kallglot.sold.values():
            sold.streams = [stream for stream in sold.streams if stream.life is not self.life]
        self.asterisk.cut()

    async def _stays_connected(self) -> None:
        """As `ari.socket` does."""
        again = False
        while not self.life.over and not self._closed:
            if not self.world.weather.line_cut:
                again |= await self._connection(again)
            await asyncio.sleep(some(self.world.dice.of("connects"), 0.1, 1.0))

    async def _connection(self, again: bool) -> bool:
        """One connection's life; whether it came about."""
        line = self.asterisk.line = Line(self.world, self.life, self.mode.on_event)
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS):
                snapshot = await self.ari.snapshot()
        except (AriError, TimeoutError):
            self.asterisk.cut(line)
            return False
        if line.broken.is_set():
            return False
        self.world.tell("connected:", *(f"{one.id}/{one.state}" for one in snapshot.channels))
        self.ari.is_connected(True)
        self.mode.on_event(Connected(snapshot, again))
        line.deliver_what_waits()
        self.world.does(line.deliver())
        await line.broken.wait()
        if not self.life.over and not self._closed:
            self.ari.is_connected(False)
            self.mode.on_event(Disconnected("closed"))
        return True

    # --- its calls ---------------------------------------------------------------------------------------------------

    @property
    def runners(self) -> list[CallRunner]:
        return self.mode.calls.runners()

    def ends(self, call_id: str, status: str) -> None:
        """A call whose parties are all there goes on, whatever fails."""
        try:
            call = self.mode.calls.get(call_id).machine
        except LookupError:
            return
        if self.world.weather.fair:
            self._built[call_id] = {thing for leg in call.legs.values() for thing in (leg.bridge_id, leg.media_id)}
        unserved = status == "UNAVAILABLE" and call.plan.on_unavailable == "hangup"
        if status == "COMPLETED" or unserved:
            self.asterisk.served |= {leg.channel_id for leg in call.legs.values()}
        if call.answered_at is None or call_id in self.asterisk.sent_away or self.mode.draining:
            return
        parties = [leg.channel_id for leg in call.legs.values() if leg.role is Role.PARTY]
        if len(parties) > 1 and not unserved and all(self._has(call, leg.channel_id) for leg in call.legs.values()):
            self.world.breaks(f"A call whose parties are there goes on: {call_id} {status} {call.problem!r} {parties}")

    def has_ended(self, call_id: str) -> None:
        """Where nothing fails, a call leaves nothing to the sweep."""
        left = self._built.pop(call_id, set()) & (self.asterisk.bridges.keys() | self.asterisk.channels.keys())
        if left:
            self.world.breaks(f"A call takes down what it has put up: {sorted(left)}")

    def _has(self, call: CallMachine, channel_id: str) -> bool:
        channel = self.asterisk.channels.get(channel_id)
        owner = self.mode.calls.owner(channel_id)
        ours = owner is None or owner.machine is call
        there = channel is not None and channel.where is Where.STASIS and channel_id not in self.asterisk.left
        return there and ours
