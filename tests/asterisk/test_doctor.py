"""`doctor` at a real Asterisk that lacks something a call needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kallglot_ari.doctor import Doctor
from kallglot_ari.lab.asterisk import LabAsterisk
from tests.asterisk.running import in_long_form, long_form, settings_for

pytestmark = [pytest.mark.asterisk, pytest.mark.asterisk16]


async def examine(asterisk: LabAsterisk, folder: Path) -> dict[str, tuple[bool | None, str]]:
    findings = await Doctor(settings_for(asterisk, folder, None)).examine()
    return {finding.check: (finding.ok, finding.found) for finding in findings}


async def test_all_is_well(asterisk: LabAsterisk, tmp_path: Path) -> None:
    found = await examine(asterisk, tmp_path)
    assert found["Asterisk modules"] == (True, "all that a call needs is loaded")
    assert found["media"][0] is True


@pytest.mark.parametrize(
    "module", ["app_stasis.so", *(pytest.param(name, marks=long_form) for name in ("res_ari_events.so", "chan_rtp.so"))]
)
async def test_a_module_that_is_not_loaded(asterisk: LabAsterisk, tmp_path: Path, module: str) -> None:
    if asterisk.major < 22:
        in_long_form()
    await asterisk.cli(f"module unload {module}")
    try:
        found = await examine(asterisk, tmp_path)
    finally:
        await asterisk.cli(f"module load {module}")
    assert found["Asterisk modules"][0] is False
    assert found["Asterisk modules"][1].startswith(f"not loaded: {module}")
    assert found["media"][0] is None, "which says nothing about settings"
