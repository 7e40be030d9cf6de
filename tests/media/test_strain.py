"""How late the beats are, as a reason to take no more calls."""

from __future__ import annotations

from kallglot_ari.media.strain import LEAST, WINDOW, Strain


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
