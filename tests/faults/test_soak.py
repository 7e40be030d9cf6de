"""The short form of `python -m tests.faults.soak`: 16 calls, connections reset meanwhile."""

from __future__ import annotations

import os

import pytest

from tests.asterisk.conftest import missing
from tests.faults import soak

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(180)]


async def test_calls_while_connections_are_reset() -> None:
    if os.geteuid():
        missing("the soak needs root")
    arguments = soak.parser().parse_args(
        ["--calls=16", "--settled=8", "--at-once=4", "--longest=3", "--every=3", "--settle=1", "--only=TCP reset"]
    )
    assert await soak.run(arguments) == []
