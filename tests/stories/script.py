"""What happens in a story: callers, phones, people at the API, and faults; chosen by the story's dice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kallglot_ari.calls.orders import Invitation, Outbound, Supervision, Supervisor, Transfer
from kallglot_ari.calls.runner import CallRunner
from kallglot_ari.errors import KallglotAriError
from tests.stories.asterisk import BUSY, CALLER, NO_ANSWER, NORMAL, Asterisk, Channel, Where
from tests.stories.clock import some
from tests.stories.kallglot import Kallglot
from tests.stories.service import Process
from tests.stories.store import Disk
from tests.stories.world import World

ENDPOINTS = (
    *("PJSIP/good",) * 3, "PJSIP/busy", "PJSIP/nobody", "PJSIP/unregistered", "PJSIP/late", "PJSIP/flaky", "PJSIP/forwards",
    "Local/good@phones/n",
)  # fmt: skip
"""What those do who are dialled."""


WRITTEN_AFTER = 12.0
"""Seconds after which what a full disk refused is written."""


@dataclass(frozen=True)
class Mix:
    """How often what happens, in parts; and how much of it."""

    name: str
    calls: int = 3
    """At once: with more, fewer come."""
    steps: int = 25
    people: int = 8
    phones: int = 3
    faults: int = 1
    ends: int = 1
    """Kills, hand-overs and stops of the service."""


MIXES = {
    mix.name: mix
    for mix in (
        Mix("usual"),
        Mix("long", steps=80),
        Mix("busy", calls=8, steps=60),
        Mix("faults", faults=5),
        Mix("restarts", ends=8),
        Mix("phones", phones=8, people=3),
    )
}


class Script:
    """Makes things happen."""

    def __init__(self, world: World, mix: Mix) -> None:
        self.world, self.mix = world, mix
        self.asterisk = Asterisk(world)
        self.kallglot = Kallglot(world)
        self.disk = Disk()
        self.chance = world.dice.of("script")
        self.process: Process | None = None

    async def play(self) -> None:
        """From the service's start until everything has happened."""
        await self._start()
        for _ in range(self.mix.steps):
            await asyncio.sleep(some(self.chance, 0.0, 0.01, 0.1, 0.5, 2.0, 8.0))
            await self._step()

    async def _start(self) -> None:
        process = Process(self.world, self.asterisk, self.kallglot, self.disk)
        await process.start()
        self.process = process

    @property
    def runners(self) -> list[CallRunner]:
        return self.process.runners if self.process is not None else []

    async def _step(self) -> None:
        mix, few = self.mix, len(self.runners) < self.mix.calls
        moves: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._caller, 6 if few else 1),
            (self._outbound, 2 if few else 0),
            (self._hangs_up, 3),
            (self._person, mix.people),
            (self._refers, mix.phones),
            (self._refers_with_replaces, mix.phones),
            (self._holds, mix.phones),
            (self._dials_digits, 1),
            (self._consulted_in_the_dialplan, 1),
            (self._replaced, 1),
            (self._line, mix.faults),
            (self._silence, mix.faults),
            (self._network, mix.faults),
            (self._loses_a_bridge, mix.faults),
            (self._loses_media, mix.faults),
            (self._loses_a_candidate, mix.faults),
            (self._stream, 2 * mix.faults),
            (self._session_ends, mix.faults),
            (self._kallglot_away, mix.faults),
            (self._store, mix.faults),
            (self._ends, mix.ends),
        ]
        (move,) = self.chance.choices([m for m, _ in moves], [parts for _, parts in moves])
        await move()

    # --- callers and phones ------------------------------------------------------------------------------------------

    def _endpoint(self) -> str:
        return self.chance.choice(ENDPOINTS)

    def _arguments(self) -> list[str]:
        chance = self.chance
        languages = [f"source={chance.choice(['de', 'de', 'fr'])}", "target=en"]
        kind = chance.random()
        if kind < 0.15 and self.kallglot.sold:
            session = chance.choice(list(self.kallglot.sold))
            return [f"join={session}", f"source={chance.choice(['de', 'en', 'fr'])}"]
        if kind < 0.3:
            return [*languages, "mode=ai_agent"]
        if kind < 0.5:
            agents = f"{self._endpoint()}&{self._endpoint()}"
            return [*languages, f"agent={agents}", "timeout=8", f"answer={chance.choice(['agent', 'now'])}"]
        return [*languages, f"agent={self._endpoint()}"]

    async def _caller(self) -> None:
        """The dialplan hands one over, if anybody is there to take it."""
        number = self.world.number()
        arguments = self._arguments()
        if self.asterisk.listens:
            state = self.chance.choice(["Ring", "Ring", "Up"])
            caller = Channel(f"{CALLER}{number}", f"PJSIP/caller-{number:08x}", state)
            self.asterisk.enter(self.asterisk.add(caller), *arguments)

    def _party(self) -> Channel | None:
        parties = self.asterisk.parties()
        return self.chance.choice(parties) if parties else None

    def _talkers(self) -> list[Channel]:
        """Parties whose phones may send REFER: those of calls that were answered."""
        return [one for one in self.asterisk.parties() if one.name.startswith("PJSIP/") and one.state == "Up"]

    def _talker(self) -> Channel | None:
        talkers = self._talkers()
        return self.chance.choice(talkers) if talkers else None

    async def _hangs_up(self) -> None:
        if (party := self._party()) is not None:
            self.world.tell("phone", party.id, "hangs up")
            self.asterisk.destroy(party.id, NORMAL, asked=self.chance.random() < 0.8)

    async def _holds(self) -> None:
        if (party := self._party()) is not None:
            self.world.tell("phone", party.id, "unholds" if party.held else "holds")
            self.asterisk.hold(party, not party.held)

    async def _dials_digits(self) -> None:
        if (party := self._party()) is not None:
            for digit in self.chance.choice(["*9", "*2", "5", "*"]):
                self.asterisk.tells_of("ChannelDtmfReceived", party, digit=digit, duration_ms=100)
                await asyncio.sleep(0.2)

    async def _refers(self) -> None:
        """Blind transfer by a phone, which may not wait for what becomes of it."""
        if (party := self._talker()) is None:
            return
        number = self.chance.choice(["good", "good", "busy", "nobody", "flaky"])
        self.world.tell("phone", party.id, "sends REFER to", number)
        self._asks_for_transfer(party, number)
        if self.chance.random() < 0.2:
            await asyncio.sleep(0.3)
            self.asterisk.destroy(party.id, NORMAL, asked=True)

    def _asks_for_transfer(self, party: Channel, number: str, **more: object) -> None:
        self.asterisk.sent_away.add(party.id)
        refer_to = {"requested_destination": {"protocol_id": "x", "destination": number}, **more}
        self.asterisk.tells("ChannelTransfer", refer_to=refer_to, referred_by={"source_channel": party.document()})

    async def _refers_with_replaces(self) -> None:
        """A phone that is in two calls joins them. Any two channels may be one phone's."""
        talkers = self._talkers()
        if len(talkers) > 1:
            one, other = self.chance.sample(talkers, 2)
            self.world.tell("phone of", one.id, "and", other.id, "sends REFER with Replaces")
            self.asterisk.sent_away |= self._in_one_call_with(one) | self._in_one_call_with(other)
            self._asks_for_transfer(one, "1", destination_channel=other.document())

    def _in_one_call_with(self, party: Channel) -> set[str]:
        """Whoever is transferred with it; while its call is not taken up again, that may be anybody."""
        calls = [runner.machine for runner in self.runners if runner.machine.leg_of(party.id) is not None]
        found = {leg.channel_id for call in calls for leg in call.legs.values()}
        return found or {one.id for one in self.asterisk.parties()}

    async def _consulted_in_the_dialplan(self) -> None:
        """The same where the second call is an ordinary one: who is at its other end is fetched."""
        if (party := self._talker()) is None:
            return
        number = self.world.number()
        own = Channel(f"19.{number}", f"PJSIP/own-{number:08x}")
        consulted = self.asterisk.add(Channel(f"20.{number}", f"PJSIP/consulted-{number:08x}"))
        self.world.tell("phone", party.id, "sends REFER with Replaces; consulted:", consulted.id)
        self._asks_for_transfer(party, "1", destination_channel=own.document(), connected_channel=consulted.document())

        async def hangs_up_in_the_dialplan() -> None:
            await asyncio.sleep(100)
            if consulted.where is Where.DIALPLAN:
                self.asterisk.destroy(consulted.id, NORMAL)

        self.world.does(hangs_up_in_the_dialplan())

    async def _replaced(self) -> None:
        """A REFER that Asterisk carried out itself: a Local channel comes in a party's place, whose phone hangs up."""
        if (party := self._party()) is None or not self.asterisk.listens:
            return
        number = self.world.number()
        self.asterisk.sent_away.add(party.id)
        new = self.asterisk.add(Channel(f"21.{number}", f"Local/x@phones-{number:08x};1"))
        self.asterisk.enter(new, replace_channel=party.document())
        await asyncio.sleep(some(self.chance, 0.01, 0.3))
        self.asterisk.destroy(party.id, NORMAL, asked=True)

    # --- people at the API -------------------------------------------------------------------------------------------

    async def _outbound(self) -> None:
        if self.process is not None:
            order = Outbound(
                customer=self._endpoint(), agent=self._endpoint(), source="de", target="en", timeout=10,
                only_humans=self.chance.random() < 0.4,
            )  # fmt: skip
            await self._tries(self.process.mode.originate(order))

    async def _person(self) -> None:
        if self.process is None or not self.runners:
            return
        chance, mode = self.chance, self.process.mode
        runner = chance.choice(self.runners)
        party = chance.choice([leg.speaker for leg in runner.machine.legs.values()] or ["agent"])
        endpoint = self._endpoint()
        how, translated = chance.choice(["listen", "whisper", "barge"]), chance.random() < 0.5
        what = chance.choice(
            ["cold", "cold", "warm", "warm", "dialplan", "dialplan", "drop", "invite", "invite", "supervise", "supervise", "change",
             "digits", "original", "hangup"]
        )  # fmt: skip
        if what == "dialplan":
            party = self._who_waits(runner) or party
        self.world.tell("person:", what, runner.id, party, endpoint if what in ("cold", "warm", "invite") else "")
        if what in ("dialplan", "drop", "change", "hangup"):
            self.asterisk.sent_away.add(runner.id)
        leg = runner.machine.leg_named(party)
        if leg is not None and what in ("cold", "warm", "dialplan", "drop"):
            self.asterisk.sent_away.add(leg.channel_id)
        language = chance.choice(["", "", "fr"])
        match what:
            case "cold" | "warm":
                order = Transfer(party=party, target=endpoint, mode=what, language=language, timeout=10)
                await self._tries(mode.transfer(runner.id, order))
            case "dialplan":
                await self._tries(mode.transfer(runner.id, Transfer(party=party, target="phones,100,1")))
            case "drop":
                await self._tries(mode.drop(runner.id, party=party))
            case "invite":
                await self._tries(mode.add_leg(runner.id, Invitation(endpoint=endpoint, language=language)))
            case "supervise":
                boss = Supervisor(endpoint=endpoint, mode=how, translated=translated, speaker="boss")
                await self._tries(mode.supervise(runner.id, boss))
            case "change":
                order_ = Supervision(mode=how, translated=translated)
                await self._tries(mode.change_supervision(runner.id, "boss", order_))
            case "digits":
                await self._tries(mode.dtmf(runner.id, party=party, digits="12"))
            case "original":
                await self._tries(mode.original(runner.id, party=party, gain_db=chance.choice([None, -20.0])))
            case _:
                await self._tries(mode.hangup(runner.id))

    def _who_waits(self, runner: CallRunner) -> str:
        """Those are sent elsewhere rather than others."""
        channels = self.asterisk.channels
        legs = [leg for leg in runner.machine.legs.values() if leg.channel_id in channels]
        return next((leg.speaker for leg in legs if channels[leg.channel_id].music), "")

    async def _tries(self, asking: Awaitable[object]) -> None:
        """What cannot be is refused."""
        try:
            async with asyncio.timeout(60):
                await asking
        except (KallglotAriError, LookupError, TimeoutError) as error:
            self.world.tell("refused:", error)

    # --- faults of Asterisk ------------------------------------------------------------------------------------------

    async def _line(self) -> None:
        self.world.weather.line_cut = True
        self.asterisk.cut()
        await self._later(lambda: self._weather(line_cut=False), 0.1, 2.0, 20.0)

    async def _silence(self) -> None:
        """Its HTTP server answers nothing; events may still come."""
        self.world.tell("asterisk answers nothing")
        self.world.weather.asterisk_silent = True
        if self.chance.random() < 0.5:
            self.asterisk.cut()
        await self._later(lambda: self._weather(asterisk_silent=False), 0.5, 3.0, 25.0)

    async def _network(self) -> None:
        """The network between is away: both sides notice when no ping is answered."""
        line = self.asterisk.line
        if line is None:
            return
        self.world.tell("the network to asterisk is away")
        line.deaf = self.world.weather.asterisk_silent = True

        def back() -> None:
            self._weather(asterisk_silent=False)
            self.asterisk.cut(line)

        await self._later(back, 1.0, 5.0, 15.0)

    def _weather(self, **changes: bool) -> None:
        for name, value in changes.items():
            setattr(self.world.weather, name, value)
        self.world.weather.since = self.world.clock.now()
        if "store_fails" in changes:
            self.world.weather.store_since = self.world.clock.now()
        self.world.tell("again:", *changes)

    async def _later(self, then: Callable[[], None], *seconds: float) -> None:
        """The story waits for it, or goes on meanwhile."""

        async def after(wait: float) -> None:
            await asyncio.sleep(wait)
            then()

        wait = after(some(self.chance, *seconds))
        if self.chance.random() < 0.5:
            await wait
        else:
            self.world.does(wait)

    async def _loses_a_bridge(self) -> None:
        if self.asterisk.bridges:
            bridge = self.chance.choice(list(self.asterisk.bridges))
            self.world.tell("asterisk loses the bridge", bridge)
            self.asterisk.end_bridge(bridge)

    async def _loses_media(self) -> None:
        media = [one for one in self.asterisk.channels.values() if not one.is_party]
        if media:
            lost = self.chance.choice(media)
            self.world.tell("asterisk loses the channel", lost.id)
            self.asterisk.destroy(lost.id, NORMAL)

    async def _loses_a_candidate(self) -> None:
        dialled = [one for one in self.asterisk.channels.values() if one.where is Where.DIALLED]
        if dialled:
            self.asterisk.destroy(self.chance.choice(dialled).id, self.chance.choice([NORMAL, BUSY, NO_ANSWER, 0]))

    # --- faults of Kallglot and of the store -------------------------------------------------------------------------

    async def _stream(self) -> None:
        sold = [one for one in self.kallglot.live if one.streams]
        if sold:
            one = self.chance.choice(sold)
            self.world.tell("kallglot", one.session.id, "its stream breaks")
            one.drop(ended=False, reason="reset")

    async def _session_ends(self) -> None:
        """By Kallglot itself: its webhook and its stream may come in any order, and the stream without saying so."""
        if not self.kallglot.live:
            return
        sold, chance = self.chance.choice(self.kallglot.live), self.chance
        sold.live = False
        session_id, reason = sold.session.id, chance.choice(["completed", "timeout", "error"])
        self.world.tell("kallglot", session_id, "is ended by itself:", reason)
        hooks = [self.process.mode.session_ended] if self.process is not None else []
        first, told = chance.random() < 0.5, chance.random() < 0.7
        for hook in hooks if first else []:
            hook(session_id, reason)
        sold.drop(ended=told, reason=reason)
        for hook in [] if first else hooks:
            hook(session_id, reason)

    async def _kallglot_away(self) -> None:
        self.world.tell("kallglot is away")
        self.world.weather.kallglot_away = True
        if self.chance.random() < 0.6:
            for sold in self.kallglot.live:
                sold.drop(ended=False, reason="reset")
        await self._later(lambda: self._weather(kallglot_away=False), 1.0, 10.0, 40.0)

    async def _store(self) -> None:
        self.world.tell("the store is full")
        self.world.weather.store_fails = True
        await self._later(lambda: self._weather(store_fails=False), 0.2, 3.0, 20.0)

    # --- the service itself ------------------------------------------------------------------------------------------

    async def _ends(self) -> None:
        """Another run comes in its place. What is not on the disk goes with a process that is killed: not while the disk is full."""
        process = self.process
        weather = self.world.weather
        if weather.store_fails or self.world.clock.now() - weather.store_since < WRITTEN_AFTER:
            return
        if process is None or process.outbox._unwritten or process.outbox._writes:
            return
        match self.chance.choice(["kill", "kill", "hand over", "drain"]):
            case "kill":
                self.process = None
                process.kill()
            case "hand over":
                self.process = None
                await process.hand_over()
            case _:
                await process.drain()
                self.process = None
        await asyncio.sleep(some(self.chance, 0.1, 1.0, 8.0))
        while self.world.weather.store_fails:
            await asyncio.sleep(1)
        await self._start()

    # --- the end -----------------------------------------------------------------------------------------------------

    async def clears_up(self) -> None:
        """Nothing more happens, and whatever was broken works again."""
        weather = self.world.weather
        self.world.tell("--- from now on nothing fails")
        weather.fair = True
        weather.line_cut = weather.asterisk_silent = weather.kallglot_away = weather.store_fails = False

    async def all_leave(self) -> None:
        """Every call ends: by a person at the API, or because its parties hang up."""
        self.world.tell("--- everybody hangs up")
        for runner in self.runners:
            if self.chance.random() < 0.3 and self.process is not None:
                self.asterisk.sent_away.add(runner.id)
                await self._tries(self.process.mode.hangup(runner.id))
        for party in self.asterisk.parties():
            self.asterisk.destroy(party.id, NORMAL, asked=True)
            await asyncio.sleep(some(self.chance, 0.0, 0.01, 1.0))
