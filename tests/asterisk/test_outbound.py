"""Outbound calls on a real Asterisk: both are dialled, and when one side fails nothing is left of the other."""

from __future__ import annotations

import asyncio

import pytest

from kallglot_ari.calls.model import CallView
from kallglot_ari.calls.orders import Outbound
from tests.asterisk.running import long_form, nothing_left, until
from tests.asterisk.stage import Stage

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


async def dial(stage: Stage, **options: object) -> CallView:
    chosen = {"source": "de", "target": "en", "timeout": 2.0, "caller_id": "Shop <4930123>", **options}
    return await stage.service.originate(Outbound(customer="PJSIP/customer", agent="PJSIP/agent", **chosen))  # type: ignore[arg-type]


async def ended(stage: Stage, call: CallView) -> tuple[str | None, str | None]:
    """Reason and status, once nothing is left."""
    await nothing_left(stage.service, stage.asterisk)
    assert stage.double.open_sessions == []

    async def saved() -> CallView | None:
        return await stage.service.store.get_call(call.id)

    for _ in range(100):
        if (found := await saved()) is not None and found.end_reason:
            return found.end_reason, found.status
        await asyncio.sleep(0.05)
    raise AssertionError("the call was not kept")


@long_form
async def test_both_answer(stage: Stage) -> None:
    customer = await stage.phone("customer", on_call=0.2)
    agent = await stage.phone("agent", on_call=0.2)
    call = await dial(stage)
    await stage.active(2)
    assert "4930123" in customer.calls[-1].remote
    assert "4930123" in agent.calls[-1].remote
    await stage.talk(customer, agent)
    await customer.hangup()
    assert await ended(stage, call) == ("customer_hangup", "COMPLETED")


@long_form
@pytest.mark.parametrize(
    ("how", "outcome"),
    [("busy", ("customer_hangup", "BUSY")), ("ring", ("timeout", "NOANSWER")), ("gone", ("error", "UNAVAILABLE"))],
)
async def test_the_customer_does_not_come(stage: Stage, how: str, outcome: tuple[str, str]) -> None:
    if how != "gone":
        await stage.phone("customer", on_call=how)
    agent = await stage.phone("agent", on_call=0.1)
    assert await ended(stage, await dial(stage)) == outcome
    assert agent.calls == [], "nobody rings an agent for a customer who does not answer"


@pytest.mark.parametrize(
    ("how", "outcome"),
    [("busy", ("agent_hangup", "AGENTBUSY")), pytest.param("ring", ("timeout", "NOANSWER"), marks=long_form)],
)
async def test_the_agent_does_not_come(stage: Stage, how: str, outcome: tuple[str, str]) -> None:
    customer = await stage.phone("customer", on_call=0.1)
    await stage.phone("agent", on_call=how)
    assert await ended(stage, await dial(stage)) == outcome
    await until(lambda: customer.calls[-1].ended, what="the customer is let go")


@long_form
async def test_the_customer_hangs_up_while_the_agent_rings(stage: Stage) -> None:
    customer = await stage.phone("customer", on_call=0.1)
    agent = await stage.phone("agent", on_call="ring")
    call = await dial(stage, timeout=20.0)
    await agent.wait_incoming()
    await customer.hangup()
    assert await ended(stage, call) == ("customer_hangup", "COMPLETED")
    await until(lambda: agent.calls[-1].ended, what="the agent's phone rings no longer")


@long_form
@pytest.mark.parametrize("machine", [False, True])
async def test_people_only(stage: Stage, machine: bool) -> None:
    """A machine's greeting is long; a person says a word and waits."""
    customer = await stage.phone("customer", on_call=0.1, says=False)
    agent = await stage.phone("agent", on_call=0.1)
    call = await dial(stage, only_humans=True, timeout=10.0)
    await customer.wait_state("CONFIRMED")
    await customer.tone(601.0, 6.0 if machine else 0.5)
    if machine:
        assert await ended(stage, call) == ("timeout", "NOANSWER")
        assert agent.calls == []
    else:
        await stage.active(2)
        await customer.hangup()
        assert await ended(stage, call) == ("customer_hangup", "COMPLETED")
