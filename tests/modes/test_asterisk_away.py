"""What a call asks of an Asterisk that does not answer for longer than anybody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.errors import AriConflict, AriNotFound, AriUnavailable
from kallglot_ari.modes import actions
from kallglot_ari.tasks import Tasks
from tests.calls.script import CALLER
from tests.modes.test_registry import Asterisk, Bench


class Away(Asterisk):
    """One that can be away, and keeps what it carried out."""

    def __init__(self, post: Callable[[str, e.Event], None]) -> None:
        super().__init__(post)
        self.away = False
        self.done: list[tuple[str, str]] = []

    async def wait_connected(self, timeout: float) -> None:
        await asyncio.sleep(0.01)
        if self.away:
            raise AriUnavailable("away")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        carry_out = super().__getattr__(name)

        async def asked(thing: str, **options: object) -> SimpleNamespace:
            if self.away:
                await asyncio.sleep(0)
                raise AriUnavailable("no answer")
            self.done.append((name, thing))
            found: SimpleNamespace = await carry_out(thing, **options)
            return found

        return asked

    async def until(self, done: tuple[str, str]) -> None:
        async with asyncio.timeout(5):
            while done not in self.done:
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(actions, "ASTERISK_AWAY", 0.05)
    monkeypatch.setattr(actions, "LATER", 0.2)
    bench = Bench()
    object.__setattr__(bench.plant, "ari", Away(bench.post))
    await bench.up("kg-t-1")
    return bench


def asterisk_of(bench: Bench) -> Away:
    return cast(Away, bench.plant.ari)


async def test_a_party_that_was_let_go_is_hung_up_as_long_as_its_call_goes_on(bench: Bench) -> None:
    """It is the call's by its name, so no sweep removes it: it would stay in silence until the call ends."""
    asterisk, machine = asterisk_of(bench), bench.calls.get("kg-t-1").machine
    agent = machine.legs["agent"].channel_id
    asterisk.away = True
    bench.post(agent, e.PartyReplaced(agent, "1.9"))
    await asyncio.sleep(0.6)
    assert machine.legs["agent"].channel_id == "1.9"
    asterisk.away = False
    await asterisk.until(("hangup", agent))
    await bench.gone()
    await bench.outbox.stop(1)


async def test_music_is_stopped_however_long_that_takes(bench: Bench) -> None:
    asterisk = asterisk_of(bench)
    agent = bench.calls.get("kg-t-1").machine.legs["agent"].channel_id
    bench.post(agent, e.HoldChanged(agent, True))
    await asterisk.until(("start_moh", CALLER))
    asterisk.away = True
    bench.post(agent, e.HoldChanged(agent, False))
    await asyncio.sleep(0.6)
    asterisk.away = False
    await asterisk.until(("stop_moh", CALLER))
    await bench.gone()
    await bench.outbox.stop(1)


async def test_the_end_of_a_call_does_not_wait_for_ever(bench: Bench) -> None:
    agent = bench.calls.get("kg-t-1").machine.legs["agent"].channel_id
    asterisk_of(bench).away = True
    bench.post(agent, e.PartyReplaced(agent, "1.9"))
    await asyncio.sleep(0.3)
    bench.post(CALLER, e.HangupAsked())
    assert await bench.calls.wait_empty(5)
    await bench.outbox.stop(1)


async def test_a_media_channel_that_is_asked_for_again_too_late_takes_no_sound_from_its_successor(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asterisk made it and let go of it while the answer was lost; the next one was there before it was asked for again."""
    monkeypatch.setattr(actions, "ASTERISK_AWAY", 5.0)
    asterisk, machine = asterisk_of(bench), bench.calls.get("kg-t-1").machine
    lost = machine.legs["agent"].media_id
    asterisk.away = True
    again = Tasks("test").spawn(bench.calls.actions("kg-t-1").execute(c.CreateMedia(lost, "agent")), name="again")
    await asyncio.sleep(0)
    asterisk.away = False
    bench.post(lost, e.ChannelLeft(lost))
    async with asyncio.timeout(5):
        while not machine.legs["agent"].connected:
            await asyncio.sleep(0)
    with pytest.raises(AriNotFound):
        await again
    flows = [flow for flow in bench.media.flows if flow.sink is not None]
    assert machine.legs["agent"].media_id in [flow.id for flow in flows]
    await bench.gone()
    await bench.outbox.stop(1)


async def test_a_bridge_that_is_there_already_is_the_call_s(bench: Bench) -> None:
    """A run that was killed had asked for it, and Asterisk made it after the next one had looked."""

    async def exists(thing: str, **_: object) -> None:
        raise AriConflict(f"{thing} exists", status=409)

    asterisk, actions_ = asterisk_of(bench), bench.calls.actions("kg-t-1")
    asterisk.create_for_media = asterisk.originate_with_id = exists  # type: ignore[attr-defined]
    assert await actions_.execute(c.CreateBridge("kg-t-1.agent.b7")) is None
    with pytest.raises(AriConflict):
        await actions_.execute(c.Dial("kg-t-1.d7", "PJSIP/7", 5.0))
    await bench.gone()
    await bench.outbox.stop(1)
