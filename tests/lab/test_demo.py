"""The demo, whole: real Asterisks, real phones, the echo engine and once the offline one; and that its exit status cannot lie."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from kallglot_ari.app import Service
from kallglot_ari.errors import LabError, UsageError
from kallglot_ari.interpreter.lockfile import locked, models_dir
from kallglot_ari.lab import demo
from kallglot_ari.lab.dialogue import DIALOGUE
from kallglot_ari.lab.roots import Version
from kallglot_ari.settings import InterpreterSettings
from tests.asterisk.conftest import missing
from tests.asterisk.running import long_form


async def run(tmp_path: Path, version: Version, engine: demo.EngineName = "echo") -> tuple[int, str]:
    """Two turns; the exit status and what was printed."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    with contextlib.ExitStack() as stack:
        for port in (4573, 8090):  # those of a service that runs on this machine already
            taken = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                taken.bind(("127.0.0.1", port))
        try:
            status = await demo.run_demo(
                engine=engine, out=tmp_path, version=version, lines=2, make_service=Service, console=console
            )
        except LabError as error:
            missing(str(error))
    return status, text.getvalue()


@pytest.mark.asterisk
@pytest.mark.phones
@pytest.mark.parametrize("version", ["22", pytest.param("16", marks=[long_form, pytest.mark.asterisk16])])
async def test_speech_arrives_on_both_sides(tmp_path: Path, version: Version) -> None:
    status, printed = await run(tmp_path, version)
    assert status == 0, printed
    assert "Speech arrived on both sides. The echo engine translates nothing" in printed
    assert printed.count("✓ turn") == 2
    for name in ("customer-heard.wav", "agent-heard.wav", "timeline.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 1000


@long_form
@pytest.mark.asterisk
@pytest.mark.phones
async def test_without_audio_it_does_not_claim_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kallglot_ari.lab.conversation.ARRIVE_SECONDS", 1.0)

    monkeypatch.setattr("kallglot_ari.sandbox.echo.QUIET_DBFS", 10.0)
    status, printed = await run(tmp_path, "22")
    assert status == 1, printed
    assert "Speech did not arrive on both sides." in printed


@pytest.mark.asterisk
@pytest.mark.phones
@pytest.mark.models
@pytest.mark.slow
async def test_a_translation_without_the_word_expected_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = InterpreterSettings()
    if problems := [problem for model in locked().values() if (problem := model.problem(models_dir(settings)))]:
        pytest.skip(f"NOT TESTED: {'; '.join(problems)}")
    first, second = DIALOGUE[:2]
    never = dataclasses.replace(second, words={**second.words, "en": (("phone", "telephone"), ("elephant",))})
    monkeypatch.setattr("kallglot_ari.lab.demo.DIALOGUE", (first, never))
    status, printed = await run(tmp_path, "22", "offline")
    assert status == 1, printed
    assert "✓ turn 1, agent → customer" in printed
    assert "✗ turn 2, customer → agent" in printed
    assert "expected phone/telephone and elephant" in printed
    assert "Speech did not arrive translated on both sides." in printed


async def test_an_unknown_language_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--source"):
        await demo.run_demo(source="tlh", out=tmp_path)
