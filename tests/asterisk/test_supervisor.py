"""A supervisor on a real Asterisk: who hears whom while they listen, whisper, and break in; and who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import until
from tests.asterisk.stage import HZ, Stage, staged
from tests.asterisk.tones import SHIFT, Interpreter, hears

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


@pytest.fixture
async def stage(asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(asterisk22, phones, tmp_path, web={"supervisor_token": "s3cret"}) as stage:
        yield stage


async def post(stage: Stage, path: str, token: str, **body: Any) -> int:
    url = f"{stage.service.web_url}/api/v1/calls/{stage.service.calls()[0].id}/supervise{path}"
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json=body, headers={"Authorization": f"Bearer {token}"}) as answer,
    ):
        return answer.status


async def test_listen_whisper_and_break_in(stage: Stage) -> None:
    customer, agent = await stage.call()
    boss = await stage.phone("agent2", on_call=0.1)
    assert await post(stage, "", "wrong", endpoint="PJSIP/agent2", mode="listen") == 401
    assert await post(stage, "", "s3cret", endpoint="PJSIP/agent2", mode="listen", hear="nobody") == 400
    assert await post(stage, "", "s3cret", endpoint="PJSIP/agent2", mode="listen", language="en") == 201
    await until(
        lambda: [leg.role for leg in stage.service.calls()[0].legs if leg.state == "up"] == ["party", "party", "listen"]
    )
    to_customer, to_agent = HZ["agent"] + SHIFT["de"], HZ["customer"] + SHIFT["en"]
    async with Interpreter(stage.double):
        await hears(boss, {HZ["customer"], HZ["agent"]})
        await hears(customer, {to_customer})
        await hears(agent, {to_agent})
        assert await post(stage, "/supervisor", "s3cret", mode="listen", hear="customer") == 202
        await hears(boss, {HZ["customer"]})
        assert await post(stage, "/supervisor", "s3cret", mode="listen", translated=True) == 202
        await hears(boss, {to_customer, to_agent})
        assert await post(stage, "/supervisor", "s3cret", mode="whisper", hear="customer") == 202
        await hears(boss, {HZ["customer"]})
        await hears(agent, {to_agent, HZ["agent2"]})
        await hears(customer, {to_customer})
        assert await post(stage, "/supervisor", "s3cret", mode="barge") == 202
        await hears(customer, {to_customer, HZ["agent2"] + SHIFT["de"]})
        await hears(agent, {to_agent, HZ["agent2"]})
        await hears(boss, {HZ["customer"] + SHIFT["en"], HZ["agent"]})
        assert await post(stage, "/supervisor", "s3cret", mode="listen") == 202
        await hears(customer, {to_customer})
    assert await post(stage, "/agent", "s3cret", mode="listen") == 400, "who is no supervisor cannot be made one"
    await boss.hangup()
    await stage.active(2)
    await post(stage, "", "s3cret", endpoint="PJSIP/agent2", mode="listen")
    await until(lambda: boss.current is not None and "CONFIRMED" in boss.current.states, what="the supervisor is back")
    await stage.over(customer)
    await until(lambda: boss.calls[-1].ended, what="a supervisor keeps no call up")
