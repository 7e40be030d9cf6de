"""Digits: packets that never came to us because a phone sent a digit in their place are no losses; others are."""

from __future__ import annotations

import pytest

from kallglot_ari.media.native import LIBRARY, Native
from tests.media.simulated import Simulation

ENGINES = [pytest.param(LIBRARY, id="native", marks=pytest.mark.skipif(LIBRARY is None, reason="no machine code")),
           pytest.param(None, id="numpy")]  # fmt: skip
SOUND = bytes([0x20, 0xA0] * 80)


def spoken(library: Native | None, without: set[int], pressed: list[tuple[float, float]]) -> Simulation:
    """5 s of sound without these packets; `pressed` are digits: when their end is told, and how long they were."""
    simulation = Simulation(1, library=library)
    for number in range(250):
        if number not in without:
            simulation.arrives(0.1 + number * 0.02, 0, number, SOUND)
    for at, seconds in pressed:
        simulation.run(at)
        simulation.command("pressed", 0, seconds)
    simulation.run(5.5)
    return simulation


@pytest.mark.parametrize("library", ENGINES)
def test_a_digit_is_no_loss(library: Native | None) -> None:
    simulation = spoken(library, set(range(100, 124)), [(2.36, 0.2), (2.60, 0.2)])
    quality = simulation.quality(0)
    assert (quality.packets_lost, round(quality.mos, 2)) == (0, 4.41)
    assert quality.packets_received == 226


@pytest.mark.parametrize("library", ENGINES)
def test_a_digit_whose_end_is_told_when_sound_is_there_again_is_no_loss(library: Native | None) -> None:
    assert spoken(library, set(range(100, 112)), [(2.38, 0.2)]).quality(0).packets_lost == 0


@pytest.mark.parametrize("library", ENGINES)
@pytest.mark.parametrize("late", [0.3, 0.9])
def test_a_digit_that_a_busy_asterisk_tells_late_is_no_loss(library: Native | None, late: float) -> None:
    back = 0.1 + 112 * 0.02
    assert spoken(library, set(range(100, 112)), [(back + late, 0.2)]).quality(0).packets_lost == 0


def test_the_next_digit_is_told_late_as_well() -> None:
    """What was taken back for the one before must not be taken for lost before this one."""
    without = {*range(50, 62), *range(110, 122), *range(170, 182)}
    told = [(0.1 + back * 0.02 + 0.4, 0.2) for back in (62, 122, 182)]
    assert spoken(LIBRARY, without, told).quality(0).packets_lost == 0


@pytest.mark.parametrize("library", ENGINES)
def test_losses_before_and_after_and_more_than_the_digit_takes_stay_losses(library: Native | None) -> None:
    lost = {10, 11, 12, 200, 201}
    assert spoken(library, lost | set(range(100, 112)), [(2.36, 0.2)]).quality(0).packets_lost == 5
    assert spoken(library, set(range(100, 150)), [(2.36, 0.2)]).quality(0).packets_lost == 50 - 13


@pytest.mark.parametrize("library", ENGINES)
def test_a_digit_without_a_hole_excuses_nothing(library: Native | None) -> None:
    assert spoken(library, {10, 200}, [(2.36, 0.2)]).quality(0).packets_lost == 2


def test_a_digit_just_before_the_end_counts_in_the_last_figures() -> None:
    simulation = Simulation(1)
    for number in [*range(100), *range(112, 125)]:
        simulation.arrives(0.1 + number * 0.02, 0, number, SOUND)
    simulation.run(2.36)
    simulation.command("pressed", 0, 0.2)
    simulation.run(2.7)
    simulation.command("close", 0)
    report = simulation.plane.take(everything=True)
    assert report is not None
    (closed,) = report.closed
    assert closed[2][2] == 0, "lost"
