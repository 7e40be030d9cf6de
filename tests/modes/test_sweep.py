"""The sweep: what nobody owns is removed, and lost events are found out, when two looks in a row say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Leg, Thing
from kallglot_ari.calls.model import DialplanStatus
from kallglot_ari.errors import AriConflict, AriNotFound, AriUnauthorized, AriUnavailable
from kallglot_ari.modes import sweep as module
from kallglot_ari.modes.sweep import Sweep


class Asterisk:
    """What the sweep asks of ARI."""

    def __init__(self) -> None:
        self.channels_there: set[str] = set()
        self.in_app: set[str] = set()
        self.bridges_there: set[str] = set()
        self.runs: dict[str, str] = {}
        """What the dialplan runs of a channel, if that is not our application."""
        self.ringing: set[str] = set()
        self.meanwhile: Callable[[], None] = lambda: None
        """Happens while a request about a channel is answered."""
        self.removed: list[str] = []
        self.connected = True
        self.away = self.shut_out = False
        self.reconnected = 0
        self.channels = self.bridges = self.applications = self

    async def get(self, thing: str) -> Any:
        if self.away:
            raise AriUnavailable("no answer")
        if self.shut_out:
            raise AriUnauthorized("not this password")
        if thing == "kallglot":
            return SimpleNamespace(channel_ids=sorted(self.in_app))
        if thing not in self.channels_there:
            raise AriNotFound(thing)
        self.meanwhile()
        return self.channel(thing)

    def channel(self, thing: str) -> Any:
        dialplan = SimpleNamespace(app_name=self.runs.get(thing, "Stasis"))
        return SimpleNamespace(id=thing, state="Ring" if thing in self.ringing else "Up", dialplan=dialplan)

    def reconnect(self) -> None:
        self.reconnected += 1
        self.connected = False

    async def list(self) -> list[Any]:
        return [SimpleNamespace(id=bridge) for bridge in sorted(self.bridges_there)]

    async def destroy(self, bridge: str) -> None:
        self.removed.append(bridge)
        self.bridges_there.discard(bridge)

    async def hangup(self, channel: str) -> None:
        self.meanwhile()
        self.removed.append(channel)
        self.in_app.discard(channel)


class Call:
    """A call with one leg that is up."""

    def __init__(self, call_id: str) -> None:
        self.id = call_id
        self.got: list[e.Event] = []
        self.leg = Leg("customer", "customer", channel_id="customer", up=True, bridge_id=f"{call_id}.b")
        self.leg.media, self.leg.media_id, self.leg.media_entered = Thing.LIVE, f"{call_id}.m", True
        self.known = {"customer", f"{call_id}.m"}
        self.machine = SimpleNamespace(
            legs={"customer": self.leg}, candidates={}, unwanted=set(), knows=self.known.__contains__
        )

    def post(self, event: e.Event) -> None:
        self.got.append(event)


class Calls:
    def __init__(self, *calls: Call) -> None:
        self.up = {call.id: call for call in calls}
        self.adopted: dict[str, Call] = {}

    def runners(self) -> list[Call]:
        return list(self.up.values())

    def owner(self, thing: str) -> Call | None:
        if thing in self.adopted:
            return self.adopted[thing]
        return self.up.get("kg-a-1" if thing == "customer" else thing.partition(".")[0])


class Bench:
    def __init__(self) -> None:
        self.asterisk = Asterisk()
        self.call = Call("kg-a-1")
        self.calls = Calls(self.call)
        self.given_back: list[tuple[str, DialplanStatus]] = []
        plant: Any = SimpleNamespace(ari=self.asterisk, app="kallglot")
        calls: Any = self.calls
        self.sweep = Sweep(
            plant, calls, "kg-a", self.give_back, lambda: frozenset({"kg-old-1"}), {"trunk"}.__contains__
        )
        self.asterisk.in_app = {"customer", "kg-a-1.m"}
        self.asterisk.bridges_there = {"kg-a-1.b", "somebody"}

    async def give_back(self, channel: str, status: DialplanStatus) -> None:
        if channel == "gone":
            raise AriConflict("not in Stasis")
        self.given_back.append((channel, status))
        self.asterisk.in_app.discard(channel)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_what_is_as_it_should_be_is_let_alone(bench: Bench) -> None:
    for _ in range(3):
        await bench.sweep.look()
    assert (bench.asterisk.removed, bench.given_back, bench.call.got) == ([], [], [])


async def test_what_nobody_owns_goes_at_the_second_look(bench: Bench) -> None:
    bench.asterisk.bridges_there |= {"kg-a-9.b", "kg-b-1.b", "kg-old-1.b", "kg-old-2.b"}
    bench.asterisk.in_app |= {"kg-a-9.m", "kg-b-1.m", "caller", "gone", "trunk", "dialplan"}
    bench.asterisk.channels_there |= {"kg-a-9.m", "caller", "gone", "trunk", "dialplan"}
    bench.asterisk.runs["dialplan"] = "Dial"
    await bench.sweep.look()
    assert bench.asterisk.removed == []
    await bench.sweep.look()
    assert sorted(bench.asterisk.removed) == ["kg-a-9.b", "kg-a-9.m", "kg-old-1.b"], (
        "other instances sweep by themselves"
    )
    assert bench.given_back == [("caller", DialplanStatus.FAILED)]
    assert bench.call.got == []


async def test_who_has_a_call_s_name_and_is_nothing_to_it_goes_on_at_the_second_look(bench: Bench) -> None:
    """He came back from the dialplan, or answered, when nobody listened: he stayed in silence as long as that call went on."""
    bench.call.known |= {"kg-a-1.d2", "kg-a-1.d9"}
    come = {"kg-a-1.d1", "kg-a-1.d2", "kg-a-1.d2;2", "kg-a-1.d3", "kg-a-1.d9"}
    bench.asterisk.in_app |= come
    bench.asterisk.channels_there |= come
    bench.asterisk.runs |= {"kg-a-1.d2;2": "Dial", "kg-a-1.d3": "VoiceMail"}
    await bench.sweep.look()
    assert bench.given_back == []
    await bench.sweep.look()
    assert bench.given_back == [("kg-a-1.d1", DialplanStatus.FAILED)]
    assert (bench.asterisk.removed, bench.call.got) == ([], [])


async def test_what_got_its_owner_meanwhile_stays(bench: Bench) -> None:
    bench.asterisk.bridges_there.add("kg-a-2.b")
    await bench.sweep.look()
    call = Call("kg-a-2")
    call.leg.up, call.leg.media = False, Thing.NONE
    call.leg.media_entered = False
    bench.calls.up[call.id] = call
    await bench.sweep.look()
    assert bench.asterisk.removed == []


def connected(bench: Bench, *channels: str, there: tuple[str, ...] = ("customer", "kg-a-1.m")) -> None:
    """The connection is there again, with these channels in Asterisk."""
    bench.asterisk.channels_there |= {*there, *channels}
    seen: Any = SimpleNamespace(
        channels=[bench.asterisk.channel(i) for i in sorted(bench.asterisk.channels_there)],
        application=SimpleNamespace(channel_ids=sorted(bench.asterisk.in_app)),
        bridges=[SimpleNamespace(id=bridge) for bridge in bench.asterisk.bridges_there],
    )
    bench.sweep.connected(seen)


async def test_who_was_fetched_too_late_while_nobody_listened_is_told_of(bench: Bench) -> None:
    """The call knows what to do with him; he would stay in silence for as long as he can bear it."""
    bench.call.machine.unwanted |= {"fetched", "elsewhere"}
    bench.asterisk.in_app.add("fetched")
    connected(bench, "fetched", "elsewhere")
    assert bench.call.got == [e.ChannelEntered("fetched")]


async def test_what_was_given_to_the_dialplan_stays_there(bench: Bench) -> None:
    """Calls gave it there, one is over; Asterisk may still list it among those of our application."""
    bench.asterisk.runs = {"kg-a-9.d1": "VoiceMail", "kg-a-9.d2": "Queue"}
    bench.asterisk.in_app.add("kg-a-9.d2")
    connected(bench, "kg-a-9.d1", "kg-a-9.d2")
    await asyncio.sleep(0.01)
    await bench.sweep.look()
    await bench.sweep.look()
    assert bench.asterisk.removed == []
    await bench.sweep.close()


async def test_what_a_dead_call_still_dials_is_hung_up(bench: Bench) -> None:
    bench.asterisk.runs = {"kg-a-9.d1": "AppDial2"}
    bench.asterisk.ringing = {"kg-a-9.d1"}
    bench.asterisk.in_app.add("kg-a-9.d2")
    connected(bench, "kg-a-9.d1", "kg-a-9.d2")
    await asyncio.sleep(0.01)
    assert sorted(bench.asterisk.removed) == ["kg-a-9.d1", "kg-a-9.d2"]
    await bench.sweep.close()


async def test_a_caller_whose_call_begins_while_the_sweep_asks_stays(bench: Bench) -> None:
    """Its event came after the snapshot."""
    bench.asterisk.in_app.add("caller")
    bench.asterisk.meanwhile = lambda: bench.calls.adopted.update(caller=bench.call)
    connected(bench, "caller")
    await asyncio.sleep(0.01)
    assert bench.given_back == []
    await bench.sweep.close()


async def test_a_channel_that_came_back_while_the_sweep_asks_left_its_last_call(bench: Bench) -> None:
    bench.asterisk.in_app.discard("customer")
    bench.asterisk.in_app.add("kg-a-9.m")
    bench.asterisk.channels_there |= {"customer", "kg-a-9.m"}
    await bench.sweep.look()
    other = Call("kg-a-2")
    bench.asterisk.meanwhile = lambda: bench.calls.adopted.update(customer=other)
    await bench.sweep.look()
    assert bench.call.got == [e.ChannelLeft("customer")]
    assert other.got == []


async def test_a_channel_that_is_gone_unheard(bench: Bench) -> None:
    bench.asterisk.in_app.discard("customer")
    await bench.sweep.look()
    assert bench.call.got == []
    await bench.sweep.look()
    assert bench.call.got == [e.ChannelGone("customer")]


async def test_a_channel_that_left_unheard(bench: Bench) -> None:
    bench.asterisk.channels_there.add("customer")
    bench.asterisk.in_app.discard("customer")
    await bench.sweep.look()
    await bench.sweep.look()
    assert bench.call.got == [e.ChannelLeft("customer")]


@pytest.mark.parametrize("left", ["", "kg-a-1.b", "kg-a-1.m"])
async def test_asterisk_was_started_anew_if_nothing_of_a_call_is_left(bench: Bench, left: str) -> None:
    """A caller who hangs up meanwhile leaves what we made."""
    bench.call.leg.bridge = Thing.LIVE
    bench.asterisk.bridges_there = {left, "somebody"}
    bench.asterisk.in_app = {left}
    connected(bench, there=(left,))
    assert (e.AsteriskLost() in bench.call.got) is (e.ChannelGone("customer") not in bench.call.got) is (left == "")
    await bench.sweep.close()


async def test_media_that_was_made_and_is_gone_before_it_was_heard_of(bench: Bench) -> None:
    """Asterisk lets go at once of what enters our application while nobody listens."""
    bench.call.leg.media_entered = False
    bench.asterisk.in_app.discard("kg-a-1.m")
    bench.asterisk.channels_there = {"customer"}
    connected(bench, there=())
    assert bench.call.got == [e.ChannelGone("kg-a-1.m")]
    bench.call.got.clear()
    await bench.sweep.look()
    await bench.sweep.look()
    assert bench.call.got == [e.ChannelGone("kg-a-1.m")]
    await bench.sweep.close()


async def test_media_that_was_made_and_has_not_entered_yet_is_let_alone(bench: Bench) -> None:
    bench.call.leg.media_entered = False
    bench.asterisk.in_app.discard("kg-a-1.m")
    connected(bench)
    assert bench.call.got == []
    await bench.sweep.close()


async def test_a_bridge_that_is_gone_unheard(bench: Bench) -> None:
    bench.asterisk.bridges_there.discard("kg-a-1.b")
    await bench.sweep.look()
    await bench.sweep.look()
    assert bench.call.got == [e.BridgeGone("kg-a-1.b")]


async def test_a_call_that_ended_between_two_looks(bench: Bench) -> None:
    bench.asterisk.in_app.discard("customer")
    await bench.sweep.look()
    bench.calls.up.clear()
    bench.asterisk.in_app.clear()
    bench.asterisk.bridges_there.clear()
    await bench.sweep.look()
    assert bench.call.got == []


async def test_it_looks_by_itself_and_not_while_asterisk_is_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.005)
    bench.asterisk.bridges_there.add("kg-a-9.b")
    bench.asterisk.connected = False
    bench.sweep.start()
    await asyncio.sleep(0.05)
    assert bench.asterisk.removed == []
    bench.asterisk.connected, bench.asterisk.away = True, True
    await asyncio.sleep(0.05)
    assert bench.asterisk.removed == []
    bench.asterisk.away = False
    async with asyncio.timeout(5):
        while not bench.asterisk.removed:
            await asyncio.sleep(0.005)
    await bench.sweep.close()
    assert bench.asterisk.removed == ["kg-a-9.b"]


async def test_where_asterisk_takes_the_user_no_longer_the_connection_is_begun_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password was changed and reloaded: the event socket lives on, and brought callers for whom nothing could be done."""
    monkeypatch.setattr(module, "EVERY", 0.005)
    bench.asterisk.shut_out = True
    bench.sweep.start()
    async with asyncio.timeout(5):
        while not bench.asterisk.reconnected:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.03)
    assert bench.asterisk.reconnected == 1
    await bench.sweep.close()
