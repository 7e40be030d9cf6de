"""Clocks: monotonic seconds for deadlines, aware UTC for people, and a hand on both in tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.clock import Clock, ManualClock, SystemClock


def test_the_systems_clocks() -> None:
    clock: Clock = SystemClock()
    before = datetime.now(UTC)
    assert before <= clock.wall() <= datetime.now(UTC)
    assert clock.wall().utcoffset() == timedelta(0)
    first = clock.now()
    assert first <= clock.now()


def test_a_manual_clock_stands_until_it_is_moved() -> None:
    clock = ManualClock(100.0)
    assert (clock.now(), clock.wall()) == (100.0, datetime(2026, 1, 1, tzinfo=UTC))
    clock.advance(90)
    assert (clock.now(), clock.wall()) == (190.0, datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC))
    clock.advance(0)
    assert clock.now() == 190.0


def test_time_runs_forwards() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match=r"expected seconds >= 0, found -0\.1"):
        clock.advance(-0.1)
    assert clock.now() == 0.0


@given(st.floats(0, 1e6), st.lists(st.floats(0, 1e4), max_size=20))
def test_both_clocks_move_together(start: float, steps: list[float]) -> None:
    clock = ManualClock(start)
    assert clock.wall() == datetime(2026, 1, 1, tzinfo=UTC)
    for step in steps:
        clock.advance(step)
    passed = clock.wall() - datetime(2026, 1, 1, tzinfo=UTC)
    assert passed.total_seconds() == pytest.approx(clock.now() - start, abs=1e-3)
