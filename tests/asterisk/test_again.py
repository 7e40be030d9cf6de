"""Channels that leave a call for the dialplan of a real Asterisk, and come back to us from there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kallglot_ari.ari.rest import Rest
from kallglot_ari.calls.orders import Outbound, Transfer
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone, PhoneCall
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import until
from tests.asterisk.stage import Stage, staged

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


async def test_the_next_agent_of_a_failover_dialplan_rings(stage: Stage) -> None:
    """The caller is back at once, before the call with the first agent has ended its session."""
    ending, end = asyncio.Event(), stage.service.translator.end_session

    async def slowly(*args: object, **options: object) -> object:
        ending.set()
        await asyncio.sleep(1)
        return await end(*args, **options)  # type: ignore[arg-type]

    stage.service.translator.end_session = slowly  # type: ignore[assignment,method-assign]
    await stage.asterisk.extension(
        "950",
        "Stasis(kallglot,source=de,target=en,agent=PJSIP/nobody)",
        "Stasis(kallglot,source=de,target=en,agent=PJSIP/agent)",
        "Hangup()",
    )
    customer = await stage.phone("customer")
    agent = await stage.phone("agent", on_call=0.2)
    await customer.call("950")
    await agent.wait_state("CONFIRMED", 5)
    assert ending.is_set()
    await stage.active(2)
    await stage.talk(customer, agent)
    await stage.over(customer)


async def _outbound(stage: Stage, number: str) -> tuple[Phone, PhoneCall]:
    """A customer that we have called, and then transferred to this extension."""
    customer = await stage.phone("customer", on_call=0.2)
    await stage.phone("agent", on_call=0.2)
    view = await stage.service.originate(
        Outbound(customer="PJSIP/customer", agent="PJSIP/agent", source="de", target="en")
    )
    await stage.active(2)
    call = customer.calls[-1]
    await stage.service.transfer(view.id, Transfer(party="customer", target=f"kallglot-phones,{number},1"))
    return customer, call


async def test_a_customer_whom_we_called_comes_back_as_a_caller(stage: Stage) -> None:
    await stage.asterisk.extension("951", "Stasis(kallglot,source=de,target=en,agent=PJSIP/agent2)", "Hangup()")
    other = await stage.phone("agent2", on_call=0.2)
    customer, _ = await _outbound(stage, "951")
    await other.wait_state("CONFIRMED", 5)
    await stage.active(2)
    await stage.talk(customer, other)
    await stage.over(customer)


async def test_a_customer_in_the_dialplan_stays_there_when_we_connect_anew(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets: list[Any] = []
    opened = Rest.event_socket

    async def keep(rest: Rest, *args: Any, **options: Any) -> Any:
        sockets.append(await opened(rest, *args, **options))
        return sockets[-1]

    monkeypatch.setattr(Rest, "event_socket", keep)
    async with staged(asterisk22, phones, tmp_path) as stage:
        await stage.asterisk.extension("951", "Milliwatt()")
        customer, call = await _outbound(stage, "951")
        await until(lambda: not stage.service.calls(), what="the call is over")
        await sockets[0].close()
        await until(lambda: len(sockets) == 2 and stage.service.ari.connected, what="connected again")
        await asyncio.sleep(1)
        assert not call.ended
        await stage.over(customer)
