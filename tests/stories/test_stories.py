"""The short form of `python -m tests.stories`: some stories of each mix."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.stories.script import MIXES, Mix
from tests.stories.story import tell

SEEDS = {"usual": 70, "faults": 40, "restarts": 50, "phones": 30, "busy": 6, "long": 6}
"""How many of each."""


@pytest.mark.parametrize("mix", MIXES.values(), ids=lambda mix: mix.name)
def test_what_users_are_promised_is_kept(mix: Mix) -> None:
    for seed in range(SEEDS[mix.name]):
        world = tell(seed, mix)
        if world.broken:
            print("\n".join(world.lines))
        assert world.broken == [], f"python -m tests.stories --seed {seed} --mix {mix.name} -v"


def test_a_seed_is_a_story() -> None:
    """The same on every machine: nothing of it depends on the order of a set."""
    told = []
    for hashes in ("1", "2"):
        command = [sys.executable, "-m", "tests.stories", "--seed", "3", "--mix", "restarts", "-v"]
        environment = os.environ | {"PYTHONHASHSEED": hashes}
        told.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert told[0] == told[1]
    assert len(told[0].splitlines()) > 100
