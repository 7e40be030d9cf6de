"""The watch over the machine, and what it decides: a nested pytest with a failure of each kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOG = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
until = time.monotonic() + 0.06
while time.monotonic() < until:
    pass
"""
"""Lets nobody else run on one core for 60 ms; as root."""

TESTS = f"""
import subprocess, sys, pytest

seen = []

@pytest.fixture
def run():
    seen.append(None)
    return len(seen)

@pytest.mark.real_time
def test_of_the_machine(run):
    subprocess.run([sys.executable, "-c", {HOG!r}], check=True)
    assert run == 2, "the first time it fails"

def test_of_no_real_time():
    subprocess.run([sys.executable, "-c", {HOG!r}], check=True)
    raise AssertionError
"""

COMPUTES = """
import time, pytest

@pytest.mark.real_time
def test_that_computes():
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        pass
    raise AssertionError("late")
"""


def nested(folder: Path, tests: str) -> str:
    """What a pytest of its own says of `tests`, with our conftest."""
    (folder / "test_nested.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "setup.cfg"]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), str(folder)],
        capture_output=True, text=True, timeout=100, cwd=Path(__file__).parent.parent, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="holding up a core needs Linux and root")
def test_only_what_the_machine_held_up_runs_again(tmp_path: Path) -> None:
    said = nested(tmp_path, TESTS)
    assert "1 failed, 1 passed, 1 rerun" in said, said
    assert "test_of_the_machine failed, and" in said
    assert "stood still for " in said
    assert "test_of_no_real_time failed, and" not in said, "nobody asked"


def test_what_a_test_does_to_itself_is_its_own_fault(tmp_path: Path) -> None:
    """It computed for 50 ms and was late: the machine never stood still, and it fails at once."""
    for _ in range(3):
        said = nested(tmp_path, COMPUTES)
        assert "1 failed" in said, said
        if "rerun" not in said:
            assert "failed, and the machine never stood still: late" in said
            return
    pytest.skip(f"NOT TESTED: the machine stood still all the time: {said[-500:]}")
