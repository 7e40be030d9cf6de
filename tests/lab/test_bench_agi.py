"""The trunk load, short; the long form is `kallglot-ari bench agi` (200 calls a minute for 5 minutes)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kallglot_ari.errors import LabError
from kallglot_ari.lab import bench_agi
from kallglot_ari.lab.bench_agi import Result, Samples, measure, quantile
from tests.asterisk.conftest import missing


@pytest.mark.asterisk
@pytest.mark.timeout(120)
async def test_sessions_created_are_sessions_ended() -> None:
    try:
        result = await measure(240, 4, longest=2)
    except LabError as error:
        missing(str(error))
        raise
    assert result.calls >= 5
    assert result.sessions_created == result.sessions_ended > 0
    assert result.left_after_5_s == 0


def histogram(counts: dict[str, float]) -> Samples:
    return {("x_seconds_bucket", frozenset({("le", le), ("component", "a")})): n for le, n in counts.items()}


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ({}, 0.99, 0),
        ({"0.01": 100, "+Inf": 100}, 0.5, 5),
        ({"0.01": 50, "0.02": 100, "+Inf": 100}, 0.75, 15),
        ({"0.01": 98, "+Inf": 100}, 0.99, 10),
    ],
)
def test_quantile(counts: dict[str, float], q: float, expected: float) -> None:
    assert quantile(histogram(counts), "x_seconds", "a", q) == pytest.approx(expected)


def test_what_is_good() -> None:
    good = Result(100, 30, 100, 100, 0, 8, 30, 5)
    assert good.good
    for change in ({"sessions_ended": 99}, {"left_after_5_s": 1}, {"session_ms_p99": 60}, {"calls": 0}):
        assert not dataclasses.replace(good, **change).good


def test_the_figures_are_written_where_nobody_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def measured(*_: object, **__: object) -> Result:
        return Result(100, 30, 100, 100, 0, 8, 30, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_agi, "measure", measured)
    monkeypatch.setattr("kallglot_ari.log.configure", lambda *_: None)
    assert bench_agi.run([]) == 0
    assert json.loads(Path("bench-out/agi.json").read_text(encoding="utf-8"))["calls"] == 100
