"""A phone's REFER: what it can reach is what its endpoint may dial, whoever it belongs to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import orjson
import pytest

from kallglot_ari.ari.client import AriClient
from kallglot_ari.ari.decode import read_one
from kallglot_ari.ari.models import ChannelTransfer
from kallglot_ari.calls import events as e
from kallglot_ari.errors import AriNotFound
from kallglot_ari.modes.actions import Plant
from kallglot_ari.modes.phone_transfers import PhoneTransfers
from kallglot_ari.modes.registry import Registry
from kallglot_ari.tasks import Tasks
from tests.ari.fake import channel, event
from tests.calls.script import Script, plan

CALLER = "1.1"
ITS_CONTEXT = "PJSIP_ENDPOINT(my-trunk,context)"


class Bench:
    """A call of one outside caller, whom the dialplan has sent on to the context `internal`."""

    def __init__(self, **variables: str) -> None:
        self.variables = {ITS_CONTEXT: "from-outside", **variables}
        self.posted: list[e.Event] = []
        self.told: list[str] = []
        self.id, self.channels = "kg-t-1", self
        self.tasks = Tasks("test")
        self.transfers = PhoneTransfers(
            cast(Plant, SimpleNamespace(ari=cast(AriClient, self))),
            cast(Registry, SimpleNamespace(owner={CALLER: self}.get)),
            self.tasks,
        )

    def post(self, event: e.Event) -> None:
        self.posted.append(event)

    async def get_channel_var(self, channel_id: str, *, variable: str) -> SimpleNamespace:
        if variable not in self.variables:
            raise AriNotFound("no such variable")
        return SimpleNamespace(value=self.variables[variable])

    async def transfer_progress(self, channel_id: str, *, states: str) -> None:
        self.told.append(states)

    async def refer(self, user: str) -> None:
        source = channel(CALLER, name="PJSIP/my-trunk-0000002a")
        source["dialplan"] = {"context": "internal", "exten": "s", "priority": 3, "app_name": "Stasis", "app_data": ""}
        asked = event(
            "ChannelTransfer",
            refer_to={"requested_destination": {"protocol_id": "x", "destination": user}},
            referred_by={"source_channel": source},
        )
        self.transfers.asked(read_one(ChannelTransfer, orjson.dumps(asked)))
        assert await self.tasks.join(1)


@pytest.mark.parametrize(
    "user",
    ["", "PJSIP/agent2", "Local/555@secret", "Local/555@secret/n", "DAHDI/g1/0900123", "555@secret", "30 0", "3&4"],
)
async def test_a_device_or_another_context_is_refused(user: str) -> None:
    bench = Bench()
    await bench.refer(user)
    assert (bench.posted, bench.told) == ([], ["channel_declined"])


async def test_an_extension_is_looked_up_where_its_endpoint_may_dial() -> None:
    bench = Bench()
    await bench.refer("300")
    assert bench.posted == [e.TransferAsked("", "Local/300@from-outside/n", referrer=CALLER)]


async def test_the_context_for_transfers_comes_first() -> None:
    bench = Bench(TRANSFER_CONTEXT="transfers")
    await bench.refer("300")
    assert bench.posted == [e.TransferAsked("", "Local/300@transfers/n", referrer=CALLER)]


async def test_without_a_context_nothing_is_dialled() -> None:
    bench = Bench()
    bench.variables = {}
    await bench.refer("300")
    assert (bench.posted, bench.told) == ([], ["channel_declined"])


async def test_whom_a_phone_consults_with_is_kept_when_the_other_call_ends_in_this_moment() -> None:
    """Taken out of their call they would be hung up, for the call they are meant for takes nobody any more."""
    first, second = Script(), Script(plan(call_id="kg-t-2", customer_channel="2.1"))
    agent = first.talking()
    second.talking()
    first.leaves(first.machine.plan.customer_channel)
    assert first.machine.leg_of(agent) is not None
    bench = Bench()
    calls = {agent: call_of(first, bench), "2.1": call_of(second, bench)}
    bench.transfers = PhoneTransfers(
        cast(Plant, SimpleNamespace(ari=cast(AriClient, bench))),
        cast(Registry, SimpleNamespace(owner=calls.get, adopt=lambda *_: None)),
        bench.tasks,
    )
    asked = event(
        "ChannelTransfer",
        refer_to={
            "requested_destination": {"protocol_id": "x", "destination": ""},
            "destination_channel": channel("2.1", name="PJSIP/agent-2"),
        },
        referred_by={"source_channel": channel(agent, name="PJSIP/agent-1")},
    )
    bench.transfers.asked(read_one(ChannelTransfer, orjson.dumps(asked)))
    assert await bench.tasks.join(1)
    assert (bench.posted, bench.told) == ([], ["channel_declined"])


def call_of(script: Script, bench: Bench) -> SimpleNamespace:
    return SimpleNamespace(id=script.machine.plan.call_id, machine=script.machine, post=bench.post)
