"""Calls that the offline interpreter cannot translate: people hear each other, and the transcript says why they are not translated."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kallglot_ari.interpreter.lockfile import locked, models_dir
from kallglot_ari.lab import speech
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.dialogue import DIALOGUE
from kallglot_ari.lab.recording import Recording, at_rate
from kallglot_ari.lab.verify import same_speech
from kallglot_ari.settings import InterpreterSettings
from kallglot_ari.tasks import Tasks
from tests.asterisk.conftest import PhoneFactory
from tests.asterisk.running import long_form, nothing_left, running, settings_for

pytestmark = [pytest.mark.asterisk, pytest.mark.phones, pytest.mark.real_time]

LINE = 1


@pytest.mark.parametrize(
    ("language", "interpreter", "reason"),
    [
        ("de", {"models_dir": "{folder}/none"}, "recognition: no model in"),
        pytest.param("de", {"models_dir": "{folder}/corrupt"}, "cannot be loaded", marks=long_form),
        pytest.param("tlh", {}, "unknown language 'tlh'", marks=[long_form, pytest.mark.models]),
        pytest.param(
            "de",
            {"translator": "openai", "translator_url": "http://127.0.0.1:1"},
            "translation endpoint: ",
            marks=[long_form, pytest.mark.models],
        ),
    ],
    ids=["no model", "corrupt model", "unknown language", "dead translation server"],
)
async def test_people_hear_each_other_and_the_transcript_says_why(
    asterisk22: LabAsterisk,
    phones: PhoneFactory,
    tmp_path: Path,
    language: str,
    interpreter: dict[str, str],
    reason: str,
) -> None:
    corrupt(tmp_path / "corrupt" / "whisper-base")
    if "models_dir" not in interpreter and (
        problem := locked()["whisper-base"].problem(models_dir(InterpreterSettings()))
    ):
        pytest.skip(f"NOT TESTED: whisper-base: {problem}")
    changed = {key: value.format(folder=tmp_path) for key, value in interpreter.items()}
    settings = settings_for(asterisk22, tmp_path, None, interpreter={"engine": "offline", **changed})
    async with running(settings) as service:
        finals: list[dict[str, Any]] = []
        tasks = Tasks("test")
        tasks.spawn(follow(service.hub.subscribe(), finals), name="follow")
        await asterisk22.extension("950", f"Stasis(kallglot,source={language},target=en,agent=PJSIP/agent)", "Hangup()")
        customer = await phones(asterisk22, "customer")
        agent = await phones(asterisk22, "agent", on_call=0.3)
        await customer.call("950")
        await customer.wait_state("CONFIRMED")
        path = speech.line(DIALOGUE[LINE].text["de"], "de", LINE, tmp_path, espeak=False)
        said = Recording(0, customer.rate, at_rate(path, customer.rate, customer.rate))
        await customer.wait_spoken(await customer.play(path))
        async with asyncio.timeout(
            30
        ):  # the first is heard once it is known that it cannot be translated, the second at once
            while not finals:
                await asyncio.sleep(0.05)
        await asyncio.sleep(said.seconds + 0.5)
        began, ended = await customer.wait_spoken(await customer.play(path))
        await asyncio.sleep(1.5)
        heard = agent.recording.since(began, ended + 1.0)
        await customer.hangup()
        await nothing_left(service, asterisk22)
        await tasks.close()
    verdict = same_speech(said, heard)
    assert verdict.arrived, verdict.evidence
    assert reason in finals[0]["text"]
    assert "not translated, own voice" in finals[0]["text"]
    assert "\n" not in finals[0]["text"]


def corrupt(folder: Path) -> None:
    """A model of the right files and no sense."""
    folder.mkdir(parents=True)
    for file in locked()["whisper-base"].files:
        (folder / file.name).write_bytes(b"no model")


async def follow(events: Any, finals: list[dict[str, Any]]) -> None:
    async for event in events:
        if event["type"] == "transcript.final":
            finals.append(event["data"])
