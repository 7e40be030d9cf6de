"""The short form of `python -m tests.fuzz`: every seed, and some thousand inputs made of them."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import fuzz, shares
from tests.fuzz.targets import SEEDS, TARGETS, Target

INPUTS = 15_000


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_parser_says_no_in_its_own_way(target: Target) -> None:
    assert target.seeds, f"seeds/{target.name}"
    taken, broke = fuzz(target, shares(TARGETS, INPUTS)[target.name], seed=2)
    assert broke == []
    assert taken > 0, "the seeds reach it"


def test_no_seeds_without_a_target() -> None:
    assert {folder.name for folder in SEEDS.iterdir()} == {target.name for target in TARGETS}


def test_all_inputs_are_shared_out() -> None:
    assert sum(shares(TARGETS, 1_000_003).values()) == 1_000_003


def test_an_unexpected_exception_is_found() -> None:
    def parse(data: bytes) -> None:
        if b"\0" in data:
            raise KeyError(data)
        raise ValueError

    taken, broke = fuzz(Target("agi", parse, (ValueError,)), 500, seed=1)
    assert taken == 0
    assert broke
