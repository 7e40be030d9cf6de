"""The waits for translations, as they are counted; a run is `kallglot-ari bench interpreter`, short here with KALLGLOT_LONG=1."""

from __future__ import annotations

import pytest
from rich.console import Console

from kallglot_ari.errors import LabError
from kallglot_ari.lab.bench_agi import Samples
from kallglot_ari.lab.bench_interpreter import between, figures, good, markdown, measure, percentile
from tests.asterisk.conftest import missing
from tests.asterisk.running import long_form


def counted(**late: float) -> Samples:
    """The tick's lateness, by bucket, and what else a run leaves."""
    name = "kallglot_media_tick_lateness_seconds"
    stage = frozenset({("component", "translate")})
    return {
        **{(f"{name}_bucket", frozenset({("le", le)})): number for le, number in late.items()},
        (f"{name}_count", frozenset()): late["+Inf"],
        ("kallglot_interpreter_stage_seconds_sum", stage): 3.0,
        ("kallglot_interpreter_stage_seconds_count", stage): 4.0,
        ("kallglot_interpreter_dropped_total", frozenset({("reason", "partial")})): 2.0,
        ("kallglot_interpreter_dropped_total", frozenset({("reason", "backlog")})): 0.0,
    }


def test_percentiles_are_waits_that_somebody_had() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 21)], 0.95) == 19.0


def test_figures_are_of_the_run_alone() -> None:
    before = counted(**{"0.01": 100, "0.02": 200, "+Inf": 200})
    after = {key: 2 * value for key, value in counted(**{"0.01": 100, "0.02": 200, "+Inf": 200}).items()}
    found = figures([], between(before, after))
    assert found["late_over_10_ms"] == pytest.approx(0.5)
    assert found["stages"] == {"translate": 0.75}
    assert found["dropped"] == {"partial": 2}
    assert not good({"calls": 1} | found)
    assert "Left undone: partial 2." in markdown({"calls": 1} | found, "bench")


def test_what_is_good() -> None:
    fine = {"calls": 1, "said": 6, "heard": 6, "phones_p50": 1.5, "phones_p95": 2.4, "late_ms_p99": 2.0}
    assert good(fine)
    for change in ({"phones_p50": 1.7}, {"phones_p95": 2.6}, {"heard": 5}, {"late_ms_p99": 10.0}):
        assert not good(fine | change)
    assert good(fine | {"calls": 2, "phones_p50": 3.0, "heard": 5})
    assert not good(fine | {"calls": 2, "late_ms_p99": 11.0})
    assert not good(fine | {"calls": 2, "heard": 0})


@pytest.mark.asterisk
@pytest.mark.phones
@pytest.mark.models
@pytest.mark.slow
@pytest.mark.timeout(300)
@long_form
async def test_two_calls_at_once_do_not_disturb_the_audio() -> None:
    try:
        result = await measure(2, 6, "de", "en", Console())
    except LabError as error:
        missing(str(error))
        raise
    assert result["late_ms_p99"] < 10
    assert result["heard"] >= 9
