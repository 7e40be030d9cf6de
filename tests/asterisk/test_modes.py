"""Each session mode on a real Asterisk: who hears what, subtitles, barge-in, and the hand-over to a person."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from kallglot_ari.calls.orders import Invitation
from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.events import Events
from tests.asterisk.running import long_form, running, settings_for, until
from tests.asterisk.stage import HZ, Stage
from tests.asterisk.tones import SHIFT, Interpreter, hears, share
from tests.audio_checks import tone
from tests.double.server import KallglotDouble

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]

ANSWER_HZ = 1700.0


@long_form
async def test_assistive_translation(stage: Stage) -> None:
    """The agent hears the customer as he is and reads; the customer hears the agent translated, and never the original."""
    await stage.asterisk.extension(
        "980", "Stasis(kallglot,source=de,target=en,agent=PJSIP/agent,mode=assistive_translation)"
    )
    customer, agent = await stage.call("980")
    session = await stage.double.wait_session()
    assert session.request["mode"] == "assistive_translation"
    async with Interpreter(stage.double):
        await hears(agent, {HZ["customer"]})
        await hears(customer, {HZ["agent"] + SHIFT["de"]})
    async with Events(stage.service.web_url) as page:
        took = []
        for number in range(20):
            sent = time.monotonic()
            await session.transcribe("customer", "de", "Guten Tag", translation=("en", f"Good afternoon {number}"))
            at, event = await page.wait("transcript.final", number)
            assert event["data"]["translation"] == {"language": "en", "text": f"Good afternoon {number}"}
            took.append(at - sent)
        print(f"subtitles after {median(took) * 1000:.0f} ms (median), {max(took) * 1000:.0f} ms at most")
        assert median(took) < 0.1
        assert max(took) < 0.5, "0.1 s, and what a loaded machine adds"
    await stage.over(customer)


@pytest.mark.parametrize("mode", ["ai_agent", pytest.param("help_chat_voice", marks=long_form)])
async def test_alone_with_kallglot_and_handed_over_to_a_person(stage: Stage, mode: str) -> None:
    await stage.asterisk.extension("981", f"Stasis(kallglot,source=de,target=en,mode={mode})")
    caller = await stage.phone("customer", says=False)
    await caller.call("981")
    await caller.wait_state("CONFIRMED")
    first = await stage.double.wait_session()
    await first.wait_audio("customer", 0.3)
    await first.transcribe("customer", "de", "Ich brauche Hilfe")
    # An answer of 6 s is under way; the caller speaks into it.
    await first.speak("agent", tone(ANSWER_HZ, 6, 8000), burst=True)
    await hears(caller, {ANSWER_HZ}, seconds=0.3)
    async with Events(stage.service.web_url) as page:
        token = await caller.tone(HZ["customer"])
        await page.wait("barge_in")
        await until(lambda: any(t == token for _, t, _ in caller.said))
        began = next(at for _, t, at in caller.said if t == token)
        await asyncio.sleep(1.0)
        after = caller.recording.since(began + 0.4)
        assert share(after.samples, after.rate, ANSWER_HZ) < 0.03, "phone and Asterisk included, within 0.4 s"
    call = stage.service.calls()[0].id
    agent = await stage.phone("agent", on_call=0.3)
    await stage.service.add_leg(call, Invitation(endpoint="PJSIP/agent", speaker="agent"))
    await stage.active(2)
    await until(
        lambda: [s.id for s in stage.double.open_sessions] != [first.id] and len(stage.double.open_sessions) == 1
    )
    second = stage.double.open_sessions[0]
    assert second.request["mode"] == "bidirectional_translation"
    metadata: Any = second.request["metadata"]
    assert "Ich brauche Hilfe" in metadata["context"]
    await stage.talk(caller, agent)
    await stage.over(caller)


@long_form
async def test_nobody_takes_over(stage: Stage) -> None:
    """A person who does not come changes nothing for the caller."""
    await stage.asterisk.extension("981", "Stasis(kallglot,source=de,target=en,mode=ai_agent)")
    caller = await stage.phone("customer", says=False)
    await caller.call("981")
    await caller.wait_state("CONFIRMED")
    first = await stage.double.wait_session()
    await first.wait_audio("customer", 0.3)
    await stage.phone("agent", on_call="busy")
    await stage.service.add_leg(stage.service.calls()[0].id, Invitation(endpoint="PJSIP/agent", speaker="agent"))
    await until(lambda: len(stage.double.sessions) == 2 and [s.id for s in stage.double.open_sessions] == [first.id])
    await first.speak("agent", tone(ANSWER_HZ, 2, 8000), burst=True)
    await hears(caller, {ANSWER_HZ}, seconds=0.3)
    await stage.over(caller)


@long_form
async def test_feature_codes_and_digits(asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path) -> None:
    """Codes do something for who dials them and reach nobody else; other digits reach the other party, mid-translation too."""
    features = {"repeat": "*1", "original": "*2", "human": "*9", "human_endpoint": "PJSIP/agent2"}
    async with (
        KallglotDouble("routing", chunk_ms=None) as double,
        running(settings_for(asterisk22, tmp_path, double, features=features)) as service,
    ):
        stage = Stage(asterisk22, double, service, phones)
        customer, agent = await stage.call()
        session = await double.wait_session()
        await session.wait_audio("customer", 0.3)
        await session.speak("agent", tone(ANSWER_HZ, 2.5, 8000), burst=True)
        await hears(customer, {ANSWER_HZ}, seconds=0.3)
        await customer.dtmf("57")
        await agent.wait_dtmf("57")
        await agent.dtmf("8")
        await customer.wait_dtmf("8")
        await hears(customer, set())
        await customer.dtmf("*1")
        await hears(customer, {ANSWER_HZ}, seconds=0.3)
        await hears(customer, set())
        await customer.dtmf("*2")
        await hears(customer, {HZ["agent"]})
        await customer.dtmf("*2")
        await hears(customer, set())
        helper = await stage.phone("agent2", on_call=0.1)
        await customer.dtmf("*9")
        await helper.wait_state("CONFIRMED")
        await stage.active(3)
        assert [digit for digit, _ in agent.calls[-1].dtmf] == ["5", "7"]
        await agent.hangup()
        await stage.over(customer)
        assert double.violations == []
