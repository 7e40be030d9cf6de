"""A phone that sends its calls on (302): Asterisk dials there for it, on a channel that we did not name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.redirecting import redirecting
from tests.asterisk.running import nothing_left
from tests.asterisk.stage import Stage, staged

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


async def test_who_answers_where_the_agents_phone_sends_the_call_is_the_agent(
    asterisk: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    await asterisk.extension("960", "Stasis(kallglot,source=de,target=en,agent=PJSIP/phone60)", "Hangup()")
    await asterisk.extension("961", "Dial(PJSIP/agent2)")
    async with staged(asterisk, phones, tmp_path) as stage, redirecting(stage.asterisk, "phone60", "961") as phone:
        customer = await stage.phone("customer")
        other = await stage.phone("agent2", on_call=0.5)
        await customer.call("960")
        await other.wait_state("CONFIRMED", 5)
        await stage.active(2)
        assert phone.asked == 1
        await stage.talk(customer, other)
        await stage.over(customer)


async def test_nobody_is_left_ringing_where_the_agents_phone_sends_the_call(stage: Stage) -> None:
    """The caller waits as long as was asked for, and goes on."""
    await stage.asterisk.extension(
        "962", "Stasis(kallglot,source=de,target=en,agent=PJSIP/phone60,timeout=2)", "NoOp()", "Hangup(19)"
    )
    await stage.asterisk.extension("963", "Dial(PJSIP/agent2)")
    customer = await stage.phone("customer")
    other = await stage.phone("agent2", on_call="ring")
    async with redirecting(stage.asterisk, "phone60", "963"):
        await customer.call("962")
        await customer.wait_state("DISCONNECTED", 6)
    assert "CONFIRMED" not in other.calls[-1].states
    assert other.calls[-1].ended
    await nothing_left(stage.service, stage.asterisk)
    assert stage.double.open_sessions == []
