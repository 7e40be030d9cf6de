"""The short form of `python -m tests.faults.hostile`: 8,000 inputs (`KALLGLOT_HOSTILE_INPUTS`) in about 8 s."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.conftest import missing
from tests.faults.hostile import attacked, report

INPUTS = int(os.environ.get("KALLGLOT_HOSTILE_INPUTS", "8000"))

pytestmark = [pytest.mark.asterisk, pytest.mark.phones, pytest.mark.timeout(300)]


async def test_hostile_inputs_during_a_call(asterisk22: LabAsterisk, tmp_path: Path) -> None:
    if os.geteuid():
        missing("seeing RTP on the wire needs root")
    outcome = await attacked(asterisk22, tmp_path, INPUTS, rate=1000)
    print(report(outcome))
    assert outcome.problems == []
