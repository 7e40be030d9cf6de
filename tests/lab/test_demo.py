"""The demo, whole: real Asterisks, real phones, the echo engine; and that its exit status cannot lie."""

from __future__ import annotations

import contextlib
import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from kallglot_ari.app import Service
from kallglot_ari.errors import LabError, UsageError
from kallglot_ari.lab import demo
from kallglot_ari.lab.roots import Version
from tests.asterisk.conftest import missing


async def run(tmp_path: Path, version: Version) -> tuple[int, str]:
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
                engine="echo", out=tmp_path, version=version, lines=2, make_service=Service, console=console
            )
        except LabError as error:
            missing(str(error))
    return status, text.getvalue()


@pytest.mark.asterisk
@pytest.mark.phones
@pytest.mark.parametrize("version", ["22", pytest.param("16", marks=pytest.mark.asterisk16)])
async def test_speech_arrives_on_both_sides(tmp_path: Path, version: Version) -> None:
    status, printed = await run(tmp_path, version)
    assert status == 0, printed
    assert "Speech arrived on both sides. The echo engine translates nothing" in printed
    assert printed.count("✓ turn") == 2
    for name in ("customer-heard.wav", "agent-heard.wav", "timeline.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.asterisk
@pytest.mark.phones
async def test_without_audio_it_does_not_claim_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kallglot_ari.lab.conversation.ARRIVE_SECONDS", 1.0)

    monkeypatch.setattr("kallglot_ari.sandbox.echo.QUIET_DBFS", 10.0)
    status, printed = await run(tmp_path, "22")
    assert status == 1, printed
    assert "Speech did not arrive on both sides." in printed


async def test_an_unknown_language_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--source"):
        await demo.run_demo(source="tlh", out=tmp_path)
