"""`kallglot-ari bench calls`: what it may be asked, and one short run against real Asterisks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kallglot_ari.errors import LabError, UsageError
from kallglot_ari.lab import bench_calls
from tests.asterisk.conftest import missing
from tests.asterisk.running import long_form


def test_what_it_cannot_do_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match="--calls: expected 1 to 400, found 0"):
        bench_calls.run(["--calls", "0"])
    with pytest.raises(UsageError, match="expected some of kallglot, native, simple, local, softmix, found 'holding'"):
        bench_calls.run(["--bridges", "native,holding"])
    with pytest.raises(UsageError, match="--busy: expected 0 to 64, found 65"):
        bench_calls.run(["--busy", "65"])
    with pytest.raises(UsageError, match="--original: expected -60 to 6, found 7"):
        bench_calls.run(["--original", "7"])


@pytest.mark.asterisk
@pytest.mark.slow
@long_form
def test_asterisk_alone_and_with_the_service(tmp_path: Path) -> None:
    file = tmp_path / "calls.json"
    try:
        ended = bench_calls.run(
            [
                "--calls",
                "3",
                "--seconds",
                "2",
                "--bridges",
                "softmix,kallglot",
                "--original",
                "-15",
                "--json",
                str(file),
            ]
        )
    except LabError as error:
        missing(str(error))
    alone, both = json.loads(file.read_text(encoding="utf-8"))
    assert (alone["technology"], both["technology"]) == ("softmix", "simple_bridge")
    assert 0 < alone["asterisk"] < 2
    assert 0 < both["service"] < 2
    assert "service" not in alone
    assert (both["lost"] == 0) == (ended == 0)
    assert both["mos_least"] > 4
    assert 0 < both["late"] < 5
    assert both["lag_most"] < 2000
