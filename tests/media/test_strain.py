"""How late the beats are, as a reason to take no more calls."""

from __future__ import annotations

import pytest

from kallglot_ari.media.plane import TICK
from kallglot_ari.media.strain import LEAST, WAITS_WINDOW, WINDOW, Strain, Waits
from kallglot_ari.media.worker import _CATCH_UP


def test_a_tenth_of_late_beats_is_strain_and_a_single_stall_is_not() -> None:
    strain = Strain()
    strain.seen([0.001] * 99 + [2.0], 10.0)
    assert strain.late(10.0) < 0.01
    strain.seen([0.05] * 20, 10.5)
    assert strain.late(10.5) == 0.05


def test_it_is_over_when_the_window_has_passed() -> None:
    strain = Strain()
    strain.seen([0.1] * 100, 10.0)
    assert strain.late(10.0 + WINDOW / 2) == 0.1
    assert strain.late(10.0 + WINDOW) == 0.0


def test_few_beats_say_nothing() -> None:
    strain = Strain()
    strain.seen([1.0] * (LEAST - 1), 0.0)
    assert strain.late(0.0) == 0.0


def test_what_is_made_good_after_one_stall_is_no_strain() -> None:
    """Nothing was seen while the machine stood still: the late beats are the first of the window."""
    strain = Strain()
    strain.seen([2.0 - beat * TICK for beat in range(_CATCH_UP)], 10.0)
    for beat in range(1, 300):
        now = 10.0 + beat * TICK
        strain.seen([0.001], now)
        assert strain.late(now) <= 0.001


@pytest.mark.parametrize("stall", [0.11, 0.5, 3.0])
def test_one_stall_of_the_event_loop_is_no_strain(stall: float) -> None:
    waits = Waits()
    for beat in range(100):
        waits.seen(stall if beat == 50 else 0.0005, beat * 0.01)
    assert waits.mean(1.0) < 0.001


@pytest.mark.parametrize("lap", [0.15, 0.5, 2.0])
def test_one_stall_after_the_other_is(lap: float) -> None:
    waits = Waits()
    for beat in range(round(5 / lap)):
        waits.seen(lap, beat * lap)
    assert waits.mean(5.0 - lap) > 0.06


def test_stalls_are_forgotten() -> None:
    waits = Waits()
    assert waits.mean(0.0) == 0.0
    waits.seen(2.0, 2.0)
    waits.seen(2.0, 4.0)
    assert waits.mean(4.0) == pytest.approx(2.0 / WAITS_WINDOW)
    assert waits.mean(4.0 + WAITS_WINDOW) == 0.0
