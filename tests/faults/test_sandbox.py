"""The sandbox as a process of its own, killed in mid-call and started again: it knows no session any more."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kallglot_ari.lab.asterisk import LabAsterisk, dying_with_us
from tests.asterisk.conftest import PhoneFactory
from tests.faults.served import ROOT, Served, free_port, nothing_left
from tests.faults.test_resume import CUSTOMER_HZ, heard

KEY = "sk_test_sandbox"

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]


@asynccontextmanager
async def sandbox(port: int, folder: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """It answers; killed with SIGKILL at the end."""
    command = [sys.executable, "-m", "kallglot_ari", "sandbox", "--engine=echo", f"--port={port}", f"--api-key={KEY}"]
    with (folder / "sandbox.log").open("ab") as log:
        process = subprocess.Popen([*dying_with_us(), *command], cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert time.monotonic() < deadline, (folder / "sandbox.log").read_text()
                await asyncio.sleep(0.1)
            else:
                writer.close()
                break
        yield process
    finally:
        process.kill()
        process.wait(10)


async def test_the_sandbox_is_killed_while_talking(
    asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path
) -> None:
    """The echo is heard again, in a session made anew; the one that is no more is not waited for."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    async with (
        sandbox(port, tmp_path) as first,
        Served(
            asterisk22, tmp_path, KALLGLOT__URL=url, KALLGLOT__API_KEY=KEY, KALLGLOT__FAILOVER_TIMEOUT_MS=1000
        ) as served,
    ):
        customer = await phones(asterisk22, "customer", codecs=("PCMU",))
        agent = await phones(asterisk22, "agent", on_call=0.2, codecs=("PCMU",))
        await customer.tone(CUSTOMER_HZ)
        await customer.call("101")
        await customer.wait_state("CONFIRMED")
        await heard(agent, CUSTOMER_HZ, time.monotonic(), 15)
        (old,) = await served.calls()
        first.kill()
        first.wait(10)
        await asyncio.sleep(0.5)
        async with sandbox(port, tmp_path):
            deadline = time.monotonic() + 30
            while (new := (await served.calls())[0])["session_id"] == old["session_id"]:
                assert time.monotonic() < deadline, served.log(20)
                await asyncio.sleep(0.2)
            await heard(agent, CUSTOMER_HZ, time.monotonic(), 15)
            assert new["id"] == old["id"]
            await customer.hangup()
            await nothing_left(served, asterisk22)
