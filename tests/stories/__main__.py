"""`python -m tests.stories [--seeds 0:5000 | --seed 1707] [--mix usual,long] [-v]`: stories of media mode, and the promises they break.

A story that breaks one is told in full with `-v`, or kept in a file of the folder `--keep`. The exit code is 1 when one was broken.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.stories.script import MIXES, Mix
from tests.stories.story import tell
from tests.stories.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stories", description=__doc__)
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=_range, default=range(1000), metavar="FROM:TO")
    seeds.add_argument("--seed", type=int)
    parser.add_argument("--mix", default="usual", help=f"of {', '.join(MIXES)}; several: each seed in each of them")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell the story of a promise that is broken in full"
    )
    parser.add_argument("--keep", type=Path, help="a folder for these stories")
    arguments = parser.parse_args()
    chosen = [MIXES[name] for name in arguments.mix.split(",")]
    numbers = range(arguments.seed, arguments.seed + 1) if arguments.seed is not None else arguments.seeds
    broken = 0
    for seed in numbers:
        for mix in chosen:
            world = tell(seed, mix)
            broken += bool(world.broken)
            _report(world, mix, whole=arguments.verbose and (bool(world.broken) or arguments.seed is not None))
            if world.broken and arguments.keep:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / f"{mix.name}-{seed}.txt").write_text("\n".join(world.lines) + "\n")
    print(f"{len(numbers) * len(chosen)} stories, {broken} with a broken promise")
    return 1 if broken else 0


def _range(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last))


def _report(world: World, mix: Mix, *, whole: bool) -> None:
    if whole:
        print("\n".join(world.lines))
    if world.broken:
        print(f"seed {world.seed}, mix {mix.name}:")
        for promise in world.broken:
            print("   ", promise)
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
