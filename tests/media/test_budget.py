"""Dear work on the tick's thread is bounded, however many beats are made good in one turn."""

from __future__ import annotations

import pytest

from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media.budget import Budget
from kallglot_ari.media.native import LIBRARY, Native
from tests.media.simulated import Simulation


def test_a_turn_has_one_budget() -> None:
    budget = Budget(2)
    budget.begin(5.0)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    budget.begin(5.0)
    assert not budget.take(), "a beat that is made good in the same turn"
    budget.begin(5.01)
    assert budget.left == 2


@pytest.mark.parametrize("library", [pytest.param(LIBRARY, id="native"), pytest.param(None, id="numpy")])
@pytest.mark.parametrize("at_once", [1, 6])
def test_where_the_stream_stumbles_for_all_no_turn_makes_up_more_than_it_has_time_for(
    library: Native | None, at_once: int, made_up: list[int]
) -> None:
    simulation = Simulation(60, library=library)
    sound = StreamAudio("mulaw", 8000, bytes(range(160)) * 10)
    simulation.commands([("play", leg, "x", sound, 0.0) for leg in range(60)])
    most = 0
    while simulation.now < 0.6:
        made_up.clear()
        simulation.run(simulation.now + 0.005, at_once=at_once)
        most = max(most, len(made_up))
    assert 0 < most <= 16
