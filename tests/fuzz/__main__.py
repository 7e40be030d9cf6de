"""`python -m tests.fuzz [--inputs 1000000] [--only NAME] [--seed N] [--atheris]`: every parser of what comes from outside.

From the seeds in tests/fuzz/seeds. An exception that is not the parser's own way to say no is printed with the input, which is kept as
a new seed, and the exit code is 1. With `--atheris` (if it is installed) libFuzzer looks for inputs that reach new code.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import SEEDS, TARGETS, Target

SLOW = 1.0
"""Seconds that no input may take."""
SHARE = {"media": 0.02, "configuration": 0.02, "environment": 0.02}
"""Of the inputs, for those that do more than parse; the others get equal parts of the rest."""


def fuzz(target: Target, inputs: int, seed: int) -> tuple[int, list[bytes]]:
    """How many inputs were taken, and those that broke it."""
    rng = random.Random(f"{target.name} {seed}")
    seeds, taken = target.seeds, 0
    broke: list[bytes] = []
    for one in seeds:
        taken += target.try_(one)
    for _ in range(inputs):
        data = mutated(seeds, rng)
        began = time.perf_counter()
        try:
            taken += target.try_(data)
        except Exception:
            broke.append(data)
            if len(broke) == 1:
                traceback.print_exc()
        if time.perf_counter() - began > SLOW:
            print(f"{target.name}: {time.perf_counter() - began:.1f} s for {data[:200]!r}")
            broke.append(data)
    return taken, broke


def shares(targets: list[Target], inputs: int) -> dict[str, int]:
    """Inputs for each target."""
    special = {t.name: round(SHARE[t.name] * inputs) for t in targets if t.name in SHARE and len(targets) > 3}
    others = [t.name for t in targets if t.name not in special]
    rest = inputs - sum(special.values())
    return special | {name: rest // len(others) + (n < rest % len(others)) for n, name in enumerate(others)}


def keep(target: Target, data: bytes) -> Path:
    """A new seed: it must never break again."""
    file = SEEDS / target.name / f"broke-{hashlib.sha256(data).hexdigest()[:12]}"
    file.write_bytes(data)
    return file


def _with_atheris(targets: list[Target], counts: dict[str, int]) -> int:
    """A process for each target, since libFuzzer ends its own."""
    failed = 0
    for target in targets:
        with tempfile.TemporaryDirectory() as corpus:
            command = [sys.executable, "-m", "tests.fuzz.coverage", target.name, f"-runs={counts[target.name]}"]
            done = subprocess.run(
                [*command, "-max_len=4096", f"-artifact_prefix={corpus}/", corpus, str(SEEDS / target.name)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            last = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("#")), "")
            print(f"{target.name}: {'ok' if done.returncode == 0 else 'BROKE'} {last}", flush=True)
            if done.returncode:
                failed += 1
                print(done.stdout[-2000:], done.stderr[-2000:])
                for found in Path(corpus).glob("crash-*"):
                    print(f"  kept as {keep(target, found.read_bytes())}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true")
    arguments = parser.parse_args()
    targets = [t for t in TARGETS if arguments.only in t.name]
    counts = shares(targets, arguments.inputs)
    began = time.monotonic()
    if arguments.atheris:
        return _with_atheris(targets, counts)
    broken = 0
    for target in targets:
        taken, broke = fuzz(target, counts[target.name], arguments.seed)
        broken += len(broke)
        print(f"{target.name}: {counts[target.name]} inputs, {taken} taken, {len(broke)} broke it", flush=True)
        with contextlib.suppress(IndexError):
            print(f"  the first is kept as {keep(target, broke[0])}")
    print(f"{sum(counts.values())} inputs in {time.monotonic() - began:.0f} s, {broken} broke something")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
