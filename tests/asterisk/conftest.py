"""Real Asterisks and real phones for the tests: one Asterisk a version and run, its channels and bridges gone before each test.

Where one cannot be had, the test is skipped with the reason; with CI=true it fails instead, because there it must be.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kallglot_ari.errors import LabError
from kallglot_ari.lab.asterisk import LabAsterisk
from kallglot_ari.lab.phones import Phone
from kallglot_ari.lab.roots import Version

if TYPE_CHECKING:
    from tests.asterisk.stage import Stage
    from tests.asterisk.trunk_lab import TrunkLab

PhoneFactory = Callable[..., Awaitable[Phone]]
"""`await phones(asterisk, "customer", **options of Phone.start)`"""


def missing(reason: str) -> None:
    """What a test needs is not there: fail in CI, skip loudly elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have this: {reason}", pytrace=False)
    pytest.skip(f"NOT TESTED: {reason}")


class _Shared:
    """The Asterisks of this run, started by the first test that wants them."""

    def __init__(self) -> None:
        self._running: dict[str, LabAsterisk] = {}
        self._failed: dict[str, str] = {}

    async def get(self, version: Version) -> LabAsterisk:
        if version in self._failed:
            missing(self._failed[version])
        if version not in self._running:
            asterisk = LabAsterisk(version, progress=lambda line: print(f"lab: {line}"))
            try:
                await asterisk.start()
            except LabError as error:
                self._failed[version] = f"Asterisk {version}: {error}"
                missing(self._failed[version])
            self._running[version] = asterisk
        asterisk = self._running[version]
        if not asterisk.running:
            await asterisk.restart()
        await asterisk.reset()
        return asterisk

    async def stop(self) -> None:
        for asterisk in self._running.values():
            await asterisk.stop()


@pytest.fixture(scope="session")
def _shared() -> Iterator[_Shared]:
    shared = _Shared()
    yield shared
    asyncio.run(shared.stop())


@pytest.fixture
async def asterisk22(_shared: _Shared) -> LabAsterisk:
    """Asterisk 22, without a channel or bridge."""
    return await _shared.get("22")


@pytest.fixture
async def asterisk16(_shared: _Shared) -> LabAsterisk:
    """Asterisk 16, without a channel or bridge."""
    return await _shared.get("16")


@pytest.fixture(params=["22", pytest.param("16", marks=pytest.mark.asterisk16)])
async def asterisk(request: pytest.FixtureRequest, _shared: _Shared) -> LabAsterisk:
    """Both versions, one after the other, without a channel or bridge."""
    return await _shared.get(request.param)


@pytest.fixture
async def phones() -> AsyncIterator[PhoneFactory]:
    """Makes registered phones: `await phones(asterisk, "customer")`; all are gone after the test."""
    started: list[Phone] = []

    async def make(asterisk: LabAsterisk, name: str, **options: Any) -> Phone:
        try:
            phone = await Phone.start(name, f"127.0.0.1:{asterisk.sip_port}", asterisk.phone_password, **options)
        except LabError as error:
            missing(str(error))
            raise
        started.append(phone)
        return phone

    yield make
    await asyncio.gather(*(phone.stop() for phone in started))


@pytest.fixture
async def stage(asterisk22: LabAsterisk, phones: PhoneFactory, tmp_path: Path) -> AsyncIterator[Stage]:
    """A service between Asterisk 22 and a strict double."""
    from tests.asterisk.stage import staged

    async with staged(asterisk22, phones, tmp_path) as stage:
        yield stage


@pytest.fixture
async def build() -> AsyncIterator[TrunkLab]:
    """Trunk mode between an Asterisk and one that plays Kallglot's SIP endpoint: `await build(**options)`."""
    from tests.asterisk.trunk_lab import TrunkLab

    lab = TrunkLab()
    yield lab
    await lab.stop()
