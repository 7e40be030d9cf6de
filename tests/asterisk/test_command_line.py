"""`kallglot-ari call`, `calls`, `transfer` and `hangup` as an operator types them, at a service with a real Asterisk and real phones."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from urllib.parse import urlsplit

import pytest

from tests.asterisk.running import nothing_left, until
from tests.asterisk.stage import Stage

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


async def command(stage: Stage, *line: str) -> str:
    """What `kallglot-ari LINE` prints; it must succeed."""
    port = str(urlsplit(stage.service.web_url).port)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kallglot_ari", *line,
        env={**os.environ, "KALLGLOT__WEB__PORT": port},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_call_transfer_and_hangup(stage: Stage) -> None:
    customer = await stage.phone("customer", on_call=0.1)
    await stage.phone("agent", on_call=0.1)
    other = await stage.phone("agent2", on_call=0.1)
    line = ("--source", "de", "--target", "en", "--caller-id", "Shop <4930123>")
    said = await command(stage, "call", "PJSIP/customer", "PJSIP/agent", *line)
    await stage.active(2)
    shown = json.loads(await command(stage, "calls", "--json"))["calls"]
    assert [(call["state"], call["source_language"]) for call in shown] == [("active", "de")]
    call = shown[0]["id"]
    assert call in said
    assert {"lag_ms", "backlog_ms", "mos"} <= set(shown[0]["legs"][0])
    await command(stage, "transfer", call, "PJSIP/agent2", "--party", "agent", "--language", "fr")
    await other.wait_state("CONFIRMED")
    await until(lambda: stage.phones["agent"].calls[-1].ended, what="the first agent is let go")
    await stage.active(2)
    await stage.talk(customer, other, ("de", "fr"))
    assert call in await command(stage, "calls")
    await command(stage, "hangup", call)
    await nothing_left(stage.service, stage.asterisk)
    assert stage.double.open_sessions == []
