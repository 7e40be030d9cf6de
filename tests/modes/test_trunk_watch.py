"""Trunk calls without the manager interface: ARI tells that a channel is gone, and what was missed is found out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from kallglot_ari.ari import models as m
from kallglot_ari.ari.decode import read_one
from kallglot_ari.ari.models import AsteriskInfo
from kallglot_ari.ari.snapshot import Connected, Disconnected, Snapshot
from kallglot_ari.errors import AriBadRequest, AriNotFound, AriUnavailable
from kallglot_ari.modes.trunk_book import YOUNG_SECONDS
from tests.ari.fake import channel
from tests.modes.trunk_lab import Lab

pytestmark = pytest.mark.real_time


class Ari:
    """What the watch asks of ARI."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.sources: list[str] = []
        self.away = False
        self.applications = self.channels = self

    async def subscribe(self, app: str, *, event_source: str) -> None:
        if self.away:
            raise AriUnavailable("no answer")
        if event_source.partition(":")[2] not in self.there:
            raise AriBadRequest("Event source does not exist", status=422)
        self.sources.append(event_source)

    async def unsubscribe(self, app: str, *, event_source: list[str]) -> None:
        self.sources.remove(event_source[0])

    async def hangup(self, channel_id: str) -> None:
        self.there.remove(channel_id)

    async def get(self, channel_id: str) -> Any:
        if channel_id not in self.there:
            raise AriNotFound(channel_id)
        return SimpleNamespace(id=channel_id)


def one(channel_id: str) -> m.Channel:
    return read_one(m.Channel, orjson.dumps(channel(channel_id)))


def connected(*channel_ids: str, run: int = 1) -> Connected:
    """:param run: which run of Asterisk it is."""
    channels = tuple(one(channel_id) for channel_id in channel_ids)
    info = AsteriskInfo(status=m.StatusInfo(startup_time=datetime(2026, 1, run, tzinfo=UTC)))
    return Connected(Snapshot((22, 0, 0), info, None, channels, ()), again=True)


def common() -> dict[str, Any]:
    return {"type": "", "application": "kallglot", "timestamp": None}


def destroyed(channel_id: str) -> m.ChannelDestroyed:
    return m.ChannelDestroyed(**common(), cause=16, cause_txt="Normal Clearing", channel=one(channel_id))


def dial(caller: str, leg: str, status: str = "") -> m.Dial:
    string = "kallglot/sip:sess_1@sip.example;transport=tls"
    return m.Dial(**common(), caller=one(caller), peer=one(leg), dialstring=string, dialstatus=status)


@pytest.fixture
def ari() -> Ari:
    return Ari()


@pytest.fixture
async def watched(ari: Ari) -> AsyncIterator[Lab]:
    lab = Lab(ari=ari)
    await lab.mode.start()
    lab.mode.on_ari(connected())
    yield lab
    await lab.mode.stop(grace=2)


async def test_a_channel_that_vanishes_ends_the_session_once(watched: Lab, ari: Ari) -> None:
    lab, caller = watched, watched.channel("1.1")
    ari.there.add("1.1")
    await caller.agi("session")
    await lab.until(lambda: ari.sources == ["channel:1.1"])
    assert lab.mode.has_channel("1.1")
    lab.mode.on_ari(destroyed("1.7"))
    assert lab.mode.calls()
    lab.mode.on_ari(destroyed("1.1"))
    lab.mode.on_ari(destroyed("1.1"))
    await caller.agi("end", "hangup=1")
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "customer_hangup")]
    assert not lab.mode.has_channel("1.1")


async def test_a_leg_that_is_dialled_goes_on_without_the_caller(watched: Lab, ari: Ari) -> None:
    lab = watched
    ari.there |= {"1.1", "1.2", "1.3"}
    await lab.channel("1.1").agi("session")
    lab.mode.on_ari(dial("1.1", "1.2"))
    lab.mode.on_ari(destroyed("1.2"))  # the first endpoint refuses
    lab.mode.on_ari(dial("1.1", "1.3"))
    assert lab.mode.calls()[0].state == "ringing"
    lab.mode.on_ari(dial("1.1", "1.3", "ANSWER"))
    await lab.until(lambda: "channel:1.3" in ari.sources)
    lab.mode.on_ari(destroyed("1.1"))
    assert lab.mode.calls()[0].state == "active", "a blind transfer"
    lab.mode.on_ari(m.ChannelHangupRequest(**common(), cause=16, channel=one("1.3")))
    lab.mode.on_ari(destroyed("1.3"))
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "completed")]


@pytest.mark.parametrize("answered", [False, True])
async def test_a_call_that_the_api_hangs_up_before_it_is_answered_leaves_nobody_to_the_next_endpoint(
    watched: Lab, ari: Ari, answered: bool
) -> None:
    lab = watched
    ari.there |= {"1.1", "1.2"}
    await lab.channel("1.1").agi("session")
    lab.mode.on_ari(dial("1.1", "1.2"))
    if answered:
        lab.mode.on_ari(dial("1.1", "1.2", "ANSWER"))
    await lab.mode.hangup(lab.mode.calls()[0].id)
    await lab.quiet()
    assert ("1.1" in ari.there) is answered


async def test_a_channel_that_is_gone_before_it_can_be_watched(watched: Lab, ari: Ari) -> None:
    lab = watched
    ari.away = True
    await lab.channel("1.1").agi("session")
    await lab.until(lambda: not lab.mode._watch._watched)  # type: ignore[union-attr]
    ari.away = False
    lab.mode.on_ari(connected())  # too young to tell by the list
    await lab.quiet()
    assert lab.api.ended == [("sess_1", "customer_hangup")]


async def test_a_call_on_an_asterisk_that_is_not_aris_is_let_alone(watched: Lab, ari: Ari) -> None:
    lab = watched
    lab.api.gate.clear()
    running = lab.mode._book.spawn(lab.channel("1.1").agi("session"), name="agi")
    await lab.until(lambda: any(call.elsewhere for call in lab.mode._book))
    lab.api.gate.set()
    await running
    lab.clock.advance(60)
    lab.mode.on_ari(connected())
    assert lab.mode.calls()
    assert not ari.sources


async def test_what_ended_while_ari_was_away(watched: Lab, ari: Ari) -> None:
    lab = watched
    ari.there |= {"1.1", "2.1"}
    for uniqueid in ("1.1", "2.1"):
        await lab.channel(uniqueid).agi("session")
    await lab.until(lambda: len(ari.sources) == 2)
    lab.mode.on_ari(Disconnected("reset"))
    ari.sources.clear()
    lab.clock.advance(60)
    lab.mode.on_ari(connected("2.1"))
    await lab.until(lambda: lab.api.ended == [("sess_1", "customer_hangup")])
    await lab.until(lambda: ari.sources == ["channel:2.1"])
    assert [view.session_id for view in lab.mode.calls()] == ["sess_2"]


async def test_calls_of_the_run_before_are_watched_too(watched: Lab, ari: Ari) -> None:
    ari.there |= {"1.1", "2.1"}
    for uniqueid in ("1.1", "2.1"):
        await watched.channel(uniqueid).agi("session")
    await watched.until(lambda: len([k for k, _ in watched.store.maps if k == "trunk"]) == 2)
    await watched.until(lambda: len(watched.store.calls) == 2)
    await watched.mode.stop(keep_calls=True)
    second = Lab(ari=ari, store=watched.store)
    await second.mode.start()
    second.clock.advance(60)
    ari.sources.clear()
    second.mode.on_ari(connected("2.1"))
    await second.until(lambda: second.api.ended == [("sess_1", "customer_hangup")])
    await second.until(lambda: ari.sources == ["channel:2.1"])
    await second.mode.stop()


async def test_a_call_that_is_lost_with_asterisk_is_nobodys_hangup(watched: Lab, ari: Ari) -> None:
    ari.there |= {"1.1", "2.1"}
    watched.mode.on_ari(connected())
    for uniqueid, run in (("1.1", 1), ("2.1", 2)):
        await watched.channel(uniqueid).agi("session")
        watched.clock.advance(60)
        watched.mode.on_ari(connected(run=run))
        await watched.quiet()
    assert watched.api.ended == [("sess_1", "customer_hangup"), ("sess_2", "error")]


async def test_a_channel_that_goes_on_in_the_dialplan_is_let_go(watched: Lab, ari: Ari) -> None:
    ari.there.add("1.1")
    caller = watched.channel("1.1")
    await caller.agi("session")
    await watched.until(lambda: len(ari.sources) == 1)
    await caller.agi("end")
    await watched.quiet()
    await watched.until(lambda: not ari.sources and not watched.mode.has_channel("1.1"))


async def test_a_list_that_is_older_than_a_leg_does_not_say_that_it_is_gone() -> None:
    ari = Ari()
    lab = Lab(ari=ari)
    await lab.mode.start()
    ari.there = {"1.1"}
    lab.mode.on_ari(connected("1.1"))
    await lab.channel("1.1").agi("session")
    lab.clock.advance(10)
    older = [one("1.1")]
    ari.there |= {"1.2"}
    lab.mode.on_ari(dial("1.1", "1.2"))
    assert lab.mode._watch is not None
    assert lab.mode._watch.compare(older) == 0
    lab.mode.on_ari(dial("1.1", "1.2", "ANSWER"))
    (view,) = lab.mode.calls()
    assert (view.state, [leg.state for leg in view.legs]) == ("active", ["up"])
    lab.clock.advance(YOUNG_SECONDS)
    assert lab.mode._watch.compare(older) == 1, "but one that is as old is gone"
    await lab.mode.stop()
