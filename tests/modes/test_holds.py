"""Holds and unholds that nobody heard of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from kallglot_ari.ari.client import AriClient
from kallglot_ari.calls import events as e
from kallglot_ari.calls.legs import Leg
from kallglot_ari.errors import AriNotFound, AriUnavailable
from kallglot_ari.modes import holds
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.holds import ON_HOLD, Holds
from kallglot_ari.modes.registry import Registry
from kallglot_ari.tasks import Tasks


class Bench:
    """A call of one party, and what Asterisk says of it."""

    def __init__(self, *, says: str | None, held: bool) -> None:
        self.leg = Leg("agent", "agent", channel_id="1.1", channel_name="PJSIP/agent-1", up=True, held=held)
        self.says, self.meanwhile = says, held
        self.posted: list[e.Event] = []
        self.unanswered = 0
        self.id, self.channels, self.machine = "kg-t-1", self, SimpleNamespace(legs={"agent": self.leg})
        self.tasks = Tasks("test")
        self.holds = Holds(
            cast(Plant, SimpleNamespace(ari=cast(AriClient, self))),
            cast(Registry, SimpleNamespace(runners=lambda: [self])),
            self.tasks,
        )

    def post(self, event: e.Event) -> None:
        self.posted.append(event)

    async def get_channel_var(self, channel_id: str, *, variable: str) -> SimpleNamespace:
        assert (channel_id, variable) == ("1.1", ON_HOLD)
        self.leg.held = self.meanwhile
        if self.unanswered:
            self.unanswered -= 1
            raise AriUnavailable("no answer")
        if self.says is None:
            raise AriNotFound("no such channel")
        return SimpleNamespace(value=self.says)

    async def connected(self) -> list[e.Event]:
        self.holds.connected()
        assert await self.tasks.join(1)
        return self.posted


@pytest.mark.parametrize(("says", "held"), [("1", False), ("0", True)])
async def test_what_was_missed_is_told(says: str, held: bool) -> None:
    bench = Bench(says=says, held=held)
    assert await bench.connected() == [e.HoldChanged("1.1", not held)]


@pytest.mark.parametrize(("says", "held"), [("1", True), ("0", False), (None, True), (None, False)])
async def test_what_is_known_or_cannot_be_known_stays(says: str | None, held: bool) -> None:
    bench = Bench(says=says, held=held)
    assert await bench.connected() == []


async def test_an_event_that_came_meanwhile_is_newer() -> None:
    bench = Bench(says="0", held=False)
    bench.meanwhile = True
    assert await bench.connected() == []
    assert bench.leg.held


async def test_only_a_sip_party_that_is_there_is_asked_for() -> None:
    bench = Bench(says="1", held=False)
    bench.leg.channel_name = "Local/300@phones-1"
    assert await bench.connected() == []
    bench.leg.channel_name, bench.leg.up = "PJSIP/agent-1", False
    assert await bench.connected() == []


async def test_an_asterisk_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "AGAIN", 0.0)
    bench = Bench(says="0", held=True)
    bench.unanswered = holds.ROUNDS - 1
    assert await bench.connected() == [e.HoldChanged("1.1", False)]
    bench.posted.clear()
    bench.unanswered = holds.ROUNDS
    assert await bench.connected() == [], "not for ever"
