"""The short form of `python -m tests.stories`: some stories of each mix."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.stories.script import MIXES, Mix
from tests.stories.story import tell

SEEDS = {"usual": 70, "faults": 35, "restarts": 45, "phones": 20, "busy": 5, "long": 5}
"""How many of each."""


@pytest.mark.parametrize("mix", MIXES.values(), ids=lambda mix: mix.name)
def test_what_users_are_promised_is_kept(mix: Mix) -> None:
    for seed in range(SEEDS[mix.name]):
        world = tell(seed, mix)
        if world.broken:
            print("\n".join(world.lines))
        assert world.broken == [], f"python -m tests.stories --seed {seed} --mix {mix.name} -v"


def test_a_seed_is_a_story() -> None:
    """The same in every process: nothing of it hangs on the order of a set."""
    command = [sys.executable, "-m", "tests.stories", "--seed", "3", "--mix", "restarts", "-v"]
    elsewhere = subprocess.run(
        command, env=os.environ | {"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True
    )
    here = tell(3, MIXES["restarts"])
    assert elsewhere.stdout.splitlines() == [*here.lines, "1 stories, 0 with a broken promise"]
    assert len(here.lines) > 100
