"""Attended transfers between two calls of ours: who goes into which, and who has nothing to do with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from kallglot_ari.ari import models as m
from kallglot_ari.ari.decode import read_one
from kallglot_ari.calls import commands as c
from kallglot_ari.calls import events as e
from kallglot_ari.errors import AriNotFound
from tests.ari.fake import channel, event
from tests.modes.test_again import AGENT, ALONE, CALLER, Calls


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    calls = Calls()
    yield calls
    await calls.close()


async def test_who_was_given_to_another_call_may_be_told_the_rest_by_its_last_one(calls: Calls) -> None:
    """A merge: its music is stopped by the call that started it."""
    calls.asterisk.enters(CALLER, *AGENT)
    first = await calls.state(0, "active")
    agent = first.machine.legs["agent"].channel_id
    calls.asterisk.enters("1700000000.2", *ALONE)
    second = await calls.state(1, "active")
    calls.mode.calls.adopt(agent, second)
    assert first.actions is not None
    await first.actions.execute(c.MusicOnHold(agent, False))
    assert calls.asterisk.asked[agent][-1] == "stop_moh"


async def test_whom_a_call_gave_to_another_it_does_not_take_back(calls: Calls) -> None:
    """An attended transfer while the consulted party is being bridged, and Asterisk is slow to say so."""
    calls.asterisk.enters(CALLER, *AGENT)
    older = await calls.state(0, "active")
    calls.asterisk.enters("1700000000.2", *AGENT)
    younger = await calls.state(1, "active")
    leg = younger.machine.legs["agent"]
    calls.asterisk.unanswered = {"add_channel"}
    again = asyncio.get_running_loop().create_task(
        younger.actions.execute(c.AddToBridge(leg.bridge_id, leg.channel_id))
    )
    await asyncio.sleep(0.3)
    younger.post(e.HoldChanged(leg.channel_id, True))
    consulted, phone = leg.channel_id, older.machine.legs["agent"].channel_id
    assert calls.mode._transfers._merge(younger, "1700000000.2", older, phone)
    calls.asterisk.back.set()
    with pytest.raises(AriNotFound):
        await again
    await calls.until(lambda: calls.runners == [older], "the consultation is over")
    assert older.machine.legs["agent"].channel_id == consulted
    assert older.machine.legs["agent"].held, "it is on hold still"
    assert calls.asterisk.asked[consulted].count("add_channel") == 3, "bridged, asked again, and into its new bridge"


async def test_a_channel_that_was_to_be_fetched_and_never_came_connects_no_strangers(calls: Calls) -> None:
    """Who consulted it in vain leaves it talking in the dialplan; then its own phone transfers a call to the other end."""
    calls.asterisk.enters(CALLER, *AGENT)
    first = await calls.state(0, "active")
    calls.asterisk.enters("1700000000.2", *AGENT)
    second = await calls.state(1, "active")
    agent = first.machine.legs["agent"].channel_id
    _refers(calls, first.machine.legs["agent"].channel_id, own="16.1", found="15.1")
    await calls.until(lambda: "15.1" in first.machine.candidates, "it is to be fetched")
    first.post(e.TimerFired("candidate.15.1"))
    _refers(calls, second.machine.legs["agent"].channel_id, own="15.1", found="16.1")
    await calls.until(lambda: "16.1" in second.machine.candidates, "the other end is fetched")
    assert [leg.channel_id for leg in first.machine.parties] == [CALLER, agent]
    assert len(second.machine.parties) == 2


def _refers(calls: Calls, phone: str, *, own: str, found: str) -> None:
    """An attended transfer after a consultation that the dialplan has."""
    asked = event(
        "ChannelTransfer",
        refer_to={
            "requested_destination": {"protocol_id": "x", "destination": "1"},
            "destination_channel": channel(own),
            "connected_channel": channel(found),
        },
        referred_by={"source_channel": channel(phone)},
    )
    calls.mode.on_event(read_one(m.ChannelTransfer, orjson.dumps(asked)))
