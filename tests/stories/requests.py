"""ARI's requests as a process makes them: each takes time on both ways, and may be lost on either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TypeVar

import orjson

from kallglot_ari.ari import models as m
from kallglot_ari.ari.decode import read_one
from kallglot_ari.ari.snapshot import Snapshot
from kallglot_ari.errors import AriConflict, AriError, AriNotFound, AriUnavailable
from kallglot_ari.modes.holds import ON_HOLD
from tests.stories.asterisk import Asterisk, Channel
from tests.stories.clock import some
from tests.stories.world import Life

LOST, UNANSWERED = 0.02, 0.05
"""Up to where a request's fate lies that gets lost, and whose answer is lost."""
NO_PORT = 0.03
VERSION = (22, 10, 1)

T = TypeVar("T")


def _model(channel: Channel) -> m.Channel:
    return read_one(m.Channel, orjson.dumps(channel.document()))


class Ari:
    """One process's `AriClient`, as far as calls use it."""

    def __init__(self, asterisk: Asterisk, life: Life) -> None:
        self.asterisk, self._life = asterisk, life
        self._world = asterisk.world
        self.connected = False
        self.changed = asyncio.Event()
        self.channels, self.bridges, self.applications = Channels(self), Bridges(self), Applications(self)

    def supports(self, feature: str) -> bool:
        return True

    def require(self, feature: str, wanted_by: str) -> None: ...

    def reconnect(self) -> None: ...

    def is_connected(self, connected: bool) -> None:
        self.connected = connected
        self.changed.set()

    async def wait_connected(self, timeout: float) -> None:
        """:raises AriUnavailable: when the time is over."""
        deadline = self._world.clock.now() + timeout
        while not self.connected:
            self.changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self.changed.wait()
            except TimeoutError:
                raise AriUnavailable("the event socket was lost") from None

    async def ask(self, what: str, effect: Callable[[], T]) -> T:
        """:raises AriError:"""
        await self._life.passes(0)
        weather, chance = self._world.weather, self._world.dice.of("ari", what)
        fair = weather.fair
        # What is sent arrives, whatever becomes of who sent it.
        await asyncio.sleep(some(chance, 0.001, 0.01) if fair else some(chance, 0.0, 0.001, 0.01, 0.05, 0.4))
        fate = 1.0 if fair else chance.random()
        if weather.asterisk_silent or fate < LOST:
            await self._life.passes(some(chance, 0.1, 5.0))
            raise AriUnavailable("no answer")
        try:
            answer = effect()
        except AriError as error:
            self._world.tell("ari", what, "->", type(error).__name__)
            await self._life.passes(some(chance, 0.001, 0.01))
            raise
        self._world.tell("ari", what)
        await self._life.passes(some(chance, 0.001, 0.01) if fair else some(chance, 0.0, 0.001, 0.01, 0.3))
        if fate < UNANSWERED:
            self._world.tell("ari", what, "-> the answer is lost")
            await self._life.passes(some(chance, 0.1, 5.0))
            raise AriUnavailable("no answer")
        return answer

    async def snapshot(self) -> Snapshot:
        """What is asked for after each connect; the answers come one by one, and are of different moments."""
        application, channels, bridges = await asyncio.gather(
            self.ask("snapshot app", self.application),
            self.ask("snapshot channels", lambda: tuple(map(_model, self.asterisk.channels.values()))),
            self.ask("snapshot bridges", self.all_bridges),
        )
        return Snapshot(VERSION, m.AsteriskInfo(), application, channels, bridges)

    def application(self) -> m.Application:
        return m.Application(name="kallglot", channel_ids=tuple(self.asterisk.subscriptions()))

    def all_bridges(self) -> tuple[m.Bridge, ...]:
        """The application's, and those of Dial()."""
        asterisk = self.asterisk
        dialled = {one.bridge: None for one in asterisk.channels.values() if one.bridge}
        return tuple(m.Bridge(id=one, channels=tuple(asterisk.members(one))) for one in asterisk.bridges | dialled)


class _Resource:
    def __init__(self, ari: Ari) -> None:
        self._ari = ari
        self._asterisk = ari.asterisk

    async def _ask(self, what: str, effect: Callable[[], T]) -> T:
        return await self._ari.ask(what, effect)

    async def _in_stasis(self, what: str, channel_id: str, effect: Callable[[Channel], None]) -> None:
        await self._ask(f"{what} {channel_id}", lambda: effect(self._asterisk.in_stasis(channel_id)))


class Applications(_Resource):
    async def get(self, application_name: str) -> m.Application:
        return await self._ask("application", self._ari.application)

    async def subscribe(self, application_name: str, *, event_source: str) -> None:
        channel_id = event_source.removeprefix("channel:")
        await self._ask(f"subscribe to {channel_id}", lambda: self._asterisk.subscribe(channel_id))


class Bridges(_Resource):
    async def list(self) -> tuple[m.Bridge, ...]:
        return await self._ask("bridges", self._ari.all_bridges)

    async def create_for_media(self, bridge_id: str) -> None:
        def effect() -> None:
            if bridge_id in self._asterisk.bridges:
                raise AriConflict("it exists", status=409)
            self._asterisk.bridges[bridge_id] = None

        await self._ask(f"bridge {bridge_id}", effect)

    async def destroy(self, bridge_id: str) -> None:
        def effect() -> None:
            self._there(bridge_id)
            self._asterisk.end_bridge(bridge_id)

        await self._ask(f"destroy {bridge_id}", effect)

    async def add_channel(self, bridge_id: str, *, channel: str) -> None:
        def effect() -> None:
            self._there(bridge_id)
            self._asterisk.in_stasis(channel).bridge = bridge_id

        await self._ask(f"add {channel} to {bridge_id}", effect)

    def _there(self, bridge_id: str) -> None:
        if bridge_id not in self._asterisk.bridges:
            raise AriNotFound(f"no bridge {bridge_id}", status=404)


class Channels(_Resource):
    async def get(self, channel_id: str) -> m.Channel:
        return await self._ask(f"get {channel_id}", lambda: _model(self._asterisk.channel(channel_id)))

    async def answer(self, channel_id: str) -> None:
        def effect(channel: Channel) -> None:
            channel.state = "Up"

        await self._in_stasis("answer", channel_id, effect)

    async def ring(self, channel_id: str) -> None:
        await self._in_stasis("ring", channel_id, lambda _: None)

    async def ring_stop(self, channel_id: str) -> None:
        await self._in_stasis("stop ringing", channel_id, lambda _: None)

    async def hangup(self, channel_id: str) -> None:
        await self._ask(f"hang up {channel_id}", lambda: self._asterisk.hung_up_by_us(channel_id))

    async def set_channel_var(self, channel_id: str, *, variable: str, value: str) -> None:
        def effect(channel: Channel) -> None:
            channel.variables[variable] = value

        with self._excusing(channel_id, "untold"):
            await self._in_stasis(f"set {variable} of", channel_id, effect)

    @contextmanager
    def _excusing(self, channel_id: str, why: str) -> Iterator[None]:
        """A request that Asterisk does not answer is not made for ever: what comes of that is nobody's fault."""
        try:
            yield
        except AriUnavailable:
            if (channel := self._asterisk.channels.get(channel_id)) is not None:
                channel.variables[why] = "1"
            raise

    async def get_channel_var(self, channel_id: str, *, variable: str) -> m.Variable:
        def effect() -> m.Variable:
            channel = self._asterisk.channel(channel_id)
            if variable == ON_HOLD:
                return m.Variable(value="" if not channel.name.startswith("PJSIP/") else str(int(channel.held)))
            return m.Variable(value={"TRANSFER_CONTEXT": "phones"}.get(variable, "1"))

        return await self._ask(f"ask {variable} of {channel_id}", effect)

    async def send_dtmf(self, channel_id: str, *, dtmf: str) -> None:
        await self._in_stasis(f"send {dtmf} to", channel_id, lambda _: None)

    async def start_moh(self, channel_id: str) -> None:
        def effect(channel: Channel) -> None:
            channel.music = True

        await self._in_stasis("music to", channel_id, effect)

    async def stop_moh(self, channel_id: str) -> None:
        def effect(channel: Channel) -> None:
            channel.music = False

        with self._excusing(channel_id, "unstopped"):
            await self._in_stasis("no music to", channel_id, effect)

    async def transfer_progress(self, channel_id: str, *, states: str) -> None:
        await self._in_stasis(f"transfer {states} to", channel_id, lambda _: None)

    async def continue_in_dialplan(
        self,
        channel_id: str,
        *,
        context: str | None = None,
        extension: str | None = None,
        priority: int | None = None,
        label: str | None = None,
    ) -> None:
        await self._ask(
            f"continue {channel_id} {context or ''}", lambda: self._asterisk.to_dialplan(channel_id, context)
        )

    async def originate_with_id(
        self,
        channel_id: str,
        *,
        endpoint: str,
        app: str | None = None,
        app_args: str = "",
        timeout: int = 30,
        originator: str | None = None,
        caller_id: str | None = None,
        context: str | None = None,
        extension: str | None = None,
        priority: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        def effect() -> None:
            if variables is not None:
                self._asterisk.fetch(variables["KALLGLOT_FETCH"])
            else:
                self._asterisk.dial(channel_id, endpoint, timeout)

        await self._ask(f"dial {endpoint} as {channel_id}", effect)

    async def create_external_media(self, channel_id: str, **_: object) -> SimpleNamespace:
        world = self._asterisk.world

        def effect() -> SimpleNamespace:
            if not world.weather.fair and world.dice.of("port", channel_id).random() < NO_PORT:
                raise AriUnavailable("no port", status=500)
            self._asterisk.make_media(channel_id)
            return SimpleNamespace(channelvars={})

        return await self._ask(f"media {channel_id}", effect)

    async def rtp_statistics(self, channel_id: str) -> m.RTPstat:
        raise AriNotFound("no RTP", status=404)
