"""A running service against a real Asterisk and a Kallglot of the test's choice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kallglot_ari.app import Service
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.settings import Settings
from tests.double.server import KallglotDouble

LONG = os.environ.get("KALLGLOT_LONG") == "1"
"""The long form of a test: every variant, and for as long as it takes to be sure."""
_WHY = "long form: KALLGLOT_LONG=1"
long_form = pytest.mark.skipif(not LONG, reason=_WHY)


def in_long_form() -> None:
    """Skip what is left of this test, but in the long form."""
    if not LONG:
        pytest.skip(_WHY)


def settings_for(
    asterisk: LabAsterisk, folder: Path, double: KallglotDouble | None, **sections: dict[str, Any]
) -> Settings:
    """Settings for `asterisk`; without a double, the embedded Kallglot with the echo engine."""
    kallglot: dict[str, Any] = {"url": "embedded"}
    if double is not None:
        kallglot = {"url": double.url, "api_key": double.api_key, "contract": double.contract}
    data: dict[str, dict[str, Any]] = {
        # the event loop is the test's, the double's and the phones' too: that it is late is not the service's fault
        "service": {"drain_seconds": 0, "shed_late_ms": 0},
        "ari": {"url": asterisk.ari_url, "username": asterisk.ari_user, "password": asterisk.ari_password},
        "kallglot": kallglot,
        "web": {"port": 0},
        "agi": {"port": 0},
        "store": {"url": f"sqlite:///{folder / 'calls.db'}"},
        "interpreter": {"engine": "echo"},
        "debug": {"dir": str(folder / "debug")},
    }
    for section, values in sections.items():
        data[section] = {**data.get(section, {}), **values}
    return Settings.model_validate(data)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """The service, connected; stopped afterwards."""
    service = Service(settings)
    await service.start()
    try:
        await service.ari.wait_connected(10)
        yield service
    finally:
        await service.stop()


async def until(true: Any, timeout: float = 10, what: str = "") -> None:
    """Wait until `true()` holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while not true():
        if loop.time() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        await asyncio.sleep(0.02)


async def nothing_left(service: Service, asterisk: LabAsterisk, timeout: float = 10) -> None:
    """No call, channel or bridge is left anywhere, and no session is open."""
    await until(lambda: not service.calls(), timeout, "calls ended")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        channels = await service.ari.channels.list()
        bridges = await service.ari.bridges.list()
        if not channels and not bridges:
            break
        assert loop.time() < deadline, f"left in Asterisk: {[c.name for c in channels]} {[b.id for b in bridges]}"
        await asyncio.sleep(0.05)
    await until(lambda: service.outbox.pending == 0, timeout, "sessions ended")


async def manager(asterisk: LabAsterisk, action: str, **fields: str) -> str:
    """One action over the manager interface; what Asterisk answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", asterisk.manager_port)
    try:
        await reader.readline()
        login = {"Username": asterisk.manager_user, "Secret": asterisk.manager_password, "Events": "off"}
        for name, values in (("Login", login), (action, fields)):
            lines = [f"Action: {name}", *(f"{k}: {v}" for k, v in values.items())]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        return answer
    finally:
        writer.close()
