"""The registry: a call that has ended is gone at once, with all that it held, and needs no garbage collector for that; and it tells quiet times."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast
from weakref import ref

import pytest

from kallglot_ari.ari.client import AriClient
from kallglot_ari.calls import events as e
from kallglot_ari.calls.interfaces import Media, StreamEnd, StreamSink, StreamSpeech
from kallglot_ari.calls.model import LegQuality, Session, StreamAudio, UplinkChunk
from kallglot_ari.clock import SystemClock
from kallglot_ari.metrics import Metrics
from kallglot_ari.modes import actions as actions_module
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.journal import Journal
from kallglot_ari.modes.outbox import Outbox
from kallglot_ari.modes.registry import Registry
from kallglot_ari.modes.sip_quality import SipQualities
from kallglot_ari.tasks import Tasks
from tests.calls.script import CALLER, plan
from tests.modes.trunk_fakes import FakeHub, FakeStore, FakeTranslator

SOUND = StreamAudio("mulaw", 8000, bytes(800))


class Asterisk:
    """Carries everything out; a channel that is made enters the application."""

    def __init__(self, post: Callable[[str, e.Event], None]) -> None:
        self._post = post
        self.channels = self.bridges = self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def asked(thing: str, **options: object) -> SimpleNamespace:
            await asyncio.sleep(0)
            if name in ("originate_with_id", "create_external_media"):
                asyncio.get_running_loop().call_soon(self._post, thing, e.ChannelEntered(thing))
            return SimpleNamespace(channelvars={})

        return asked


class OneFlow:
    """A leg's audio, which tells its sink what was said."""

    def __init__(self, flow_id: str, sink: Callable[[UplinkChunk], None]) -> None:
        self.id = flow_id
        self.sink: Callable[[UplinkChunk], None] | None = sink
        self.played: list[bytes] = []

    async def attach(self, variables: object) -> None: ...

    def play(self, source: str, audio: StreamAudio, *, received_at: float | None = None) -> None:
        self.played.append(audio.payload)

    def interruptible(self, then: object) -> None: ...

    def pressed(self, seconds: float) -> None: ...

    def pause(self) -> None: ...

    resume = pause

    def hear(self, *original: object) -> None: ...

    def quality(self) -> LegQuality:
        return LegQuality()

    def close(self) -> LegQuality:
        self.sink = None
        return LegQuality()


class Audio:
    """The media: flows, and no socket."""

    def __init__(self) -> None:
        self.flows: list[OneFlow] = []
        self.format = SimpleNamespace(asterisk="ulaw")
        self.external = SimpleNamespace(
            transport="udp", external_host="127.0.0.1:9", encapsulation="rtp", connection_type="client"
        )

    def open(self, flow_id: str, sink: Callable[[UplinkChunk], None]) -> OneFlow:
        self.flows.append(OneFlow(flow_id, sink))
        return self.flows[-1]


class OneStream:
    """A stream that keeps what it was sent."""

    def __init__(self, sink: StreamSink) -> None:
        self.sink: StreamSink | None = sink
        self.sent: list[UplinkChunk] = []
        self.end: StreamEnd | None = None

    def send(self, label: str, chunk: UplinkChunk) -> None:
        self.sent.append(chunk)

    def replay(self, said: object) -> None: ...

    def ends(self, end: StreamEnd) -> None:
        self.end = end
        assert self.sink is not None
        self.sink(end)

    async def close(self) -> None:
        self.sink = None


class Kallglot(FakeTranslator):
    def __init__(self) -> None:
        super().__init__()
        self.streams: list[OneStream] = []
        self.end_at_once: list[StreamEnd] = []
        """Of the next streams, before anybody knows that they are ready."""

    async def open_stream(self, session: Session, sink: StreamSink) -> Any:
        self.streams.append(OneStream(sink))
        if self.end_at_once:
            self.streams[-1].ends(self.end_at_once.pop(0))
        return self.streams[-1]


class Bench:
    """All that calls share, and a registry of them."""

    def __init__(self) -> None:
        self.clock, metrics, self.store, self.kallglot = SystemClock(), Metrics(), FakeStore(), Kallglot()
        self.media = Audio()
        ari = cast(AriClient, Asterisk(self.post))
        self.outbox = Outbox(self.kallglot, self.store, metrics, self.clock, prefix="kg-t")
        self.journal = Journal(self.store, "kg-t")
        sip = SipQualities(ari, metrics, self.clock)
        media = cast(Media, self.media)
        self.plant = Plant(
            ari, "kallglot", media, self.kallglot, self.outbox, self.store, FakeHub(), metrics, self.clock, sip
        )
        self.calls = Registry(self.plant, self.journal)

    def post(self, thing: str, event: e.Event) -> None:
        if runner := self.calls.owner(thing):
            runner.post(event)

    async def up(self, call_id: str, **changes: object) -> None:
        """A call, translated both ways."""
        runner = self.calls.start(plan(call_id=call_id, **changes))
        async with asyncio.timeout(5):
            while runner.machine.state != "active":
                await asyncio.sleep(0)
        now = self.clock.now()
        for flow in self.media.flows:
            assert flow.sink is not None
            flow.sink(UplinkChunk(SOUND, 0, now))
        (stream,) = self.kallglot.streams
        assert stream.sink is not None
        stream.sink(StreamSpeech("customer", SOUND, now))
        assert stream.sent
        assert any(flow.played for flow in self.media.flows)

    async def gone(self) -> None:
        """The parties have hung up, and nothing is under way."""
        self.post(CALLER, e.HangupRequested(CALLER))
        self.post(CALLER, e.ChannelGone(CALLER))
        assert await self.calls.wait_empty(5)
        await self.journal.flush()
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def no_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(actions_module, "SAVE_AFTER", 0.0)  # what waits to be written has the call as well
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_a_call_that_has_ended_is_freed_at_once() -> None:
    bench = Bench()
    await bench.up("kg-t-1")
    runner, actions = bench.calls.get("kg-t-1"), bench.calls.actions("kg-t-1")
    held = [ref(thing) for thing in (runner, actions, runner.machine, actions._transcripts, runner.tasks)]
    del runner, actions
    await bench.gone()
    bench.media.flows.clear()
    bench.kallglot.streams.clear()
    assert [type(thing()).__name__ for thing in held if thing() is not None] == []
    assert bench.store.calls["kg-t-1"].state == "ended"
    await bench.outbox.stop(1)


@pytest.mark.parametrize("features", [(("*2", "original"),), (("*1", "repeat"), ("*2", "original"))])
async def test_what_was_said_last_is_kept_only_where_it_can_be_asked_for(features: tuple[tuple[str, str], ...]) -> None:
    """It is 40 s of a leg's speech, and two objects for each piece of it."""
    bench = Bench()
    await bench.up("kg-t-1", features=features)
    actions = bench.calls.actions("kg-t-1")
    assert actions is not None
    kept = [actions._answers.last(leg) for leg in actions._flows]
    assert any(kept) is ("repeat" in dict(features).values())
    await bench.gone()
    await bench.outbox.stop(1)


async def test_a_stream_that_ends_after_its_call_is_harmless() -> None:
    bench = Bench()
    await bench.up("kg-t-1")
    sink = bench.kallglot.streams[0].sink
    assert sink is not None
    await bench.gone()
    sink(StreamEnd(ended=True, reason="completed"))
    assert len(bench.calls) == 0
    await bench.outbox.stop(1)


async def test_quiet_is_without_a_call_for_some_time() -> None:
    bench, tasks = Bench(), Tasks("test")
    busy = tasks.spawn(bench.calls.wait_busy(), name="busy")
    await asyncio.sleep(0)
    assert not busy.done()
    await bench.calls.wait_quiet(0)
    await bench.up("kg-t-1")
    assert busy.done()
    at_once = tasks.spawn(bench.calls.wait_quiet(0), name="quiet")
    late = tasks.spawn(bench.calls.wait_quiet(3600), name="quiet")
    await asyncio.sleep(0)
    assert not at_once.done()
    await bench.gone()
    async with asyncio.timeout(5):
        await at_once
    bench.kallglot.streams.clear()
    bench.media.flows.clear()
    await bench.up("kg-t-2")
    await bench.gone()
    assert not late.done()
    await tasks.close()
    await bench.outbox.stop(1)
