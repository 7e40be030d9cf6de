"""What Asterisk itself takes for two parties by the kind of bridge between them, without the service: the yardstick of `bench calls`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from kallglot_ari.errors import LabError
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.farm import Farm

NUMBER = "900"
BARE = ("native", "simple", "local", "softmix", "holding")
"""Dial and nothing else; with features, so that Asterisk keeps the media; through a Local channel; a conference of two; each waiting alone."""
_UP_SECONDS = 60.0
_APART = 0.1
"""Seconds between two calls."""


def cpu_seconds(pid: int) -> float:
    """What a process has taken so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def taken(pids: tuple[int, ...], seconds: float) -> list[float]:
    """Cores that each process takes in the next `seconds`."""
    before, began = [cpu_seconds(pid) for pid in pids], time.monotonic()
    await asyncio.sleep(seconds)
    wall = time.monotonic() - began
    return [(cpu_seconds(pid) - was) / wall for pid, was in zip(pids, before, strict=True)]


async def measure_bare(bridge: str, calls: int, seconds: float, phones: str) -> dict[str, object]:
    """Asterisk's cores for `calls` pairs of SIP legs. :raises LabError: when they do not come up."""
    async with Farm(codec=phones) as farm, LabAsterisk("22", phones=0, verbose=0, local=Farm.local(phones)) as asterisk:
        await _dialplan(asterisk, farm, bridge)
        if asterisk.pid is None:
            raise LabError("bench: the Asterisk that is called is gone")
        (idle,) = await taken((asterisk.pid,), 3.0)
        for call in range(calls):
            for _ in range(2 if bridge in ("softmix", "holding") else 1):
                await farm.call(asterisk, f"{NUMBER}{call:03}")
                await asyncio.sleep(_APART)
        await _until_up(asterisk, 2 * calls)
        await asyncio.sleep(2.0)
        (cores,) = await taken((asterisk.pid,), seconds)
        found = {str(one["technology"]) for one in asterisk.ari("GET", "/bridges")}
        await farm.hang_up_all()
    return {
        "bridge": bridge, "technology": "+".join(sorted(found)), "phones": phones, "calls": calls, "seconds": seconds,
        "asterisk": cores, "asterisk_percent_a_leg": 100 * (cores - idle) / (2 * calls),
    }  # fmt: skip


async def _dialplan(asterisk: LabAsterisk, farm: Farm, bridge: str) -> None:
    agent = farm.agent_endpoint
    steps = {
        "native": f"Dial({agent})",
        "simple": f"Dial({agent},,tT)",  # a feature needs the digits, and with them all the sound
        "local": "Dial(Local/agent@bench/n)",
        "softmix": "ConfBridge(${EXTEN})",
        "holding": "BridgeWait(,,e(s))",
    }
    await asterisk.extension(f"_{NUMBER}XXX", "Answer()", steps[bridge], "Hangup()")
    if bridge == "softmix":
        await asterisk.cli("module load app_confbridge.so")
    if bridge == "local":
        await asterisk.extension("agent", f"Dial({agent})", context="bench")


async def _until_up(asterisk: LabAsterisk, legs: int) -> None:
    deadline = time.monotonic() + _UP_SECONDS
    while time.monotonic() < deadline:
        channels = await asyncio.to_thread(asterisk.ari, "GET", "/channels")
        up = sum(one["name"].startswith("PJSIP/") and one["state"] == "Up" for one in channels)
        if up >= legs:
            return
        await asyncio.sleep(0.5)
    raise LabError(f"bench: expected {legs} legs up, found {up}")
