"""What we are built on: nothing that is not on the list of a release, and nothing with a known weakness where that can be asked."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.asterisk.conftest import missing

TREE = Path(__file__).parents[1]
LOCK = TREE / "requirements.lock"
EXTRAS = ("postgresql", "recording")
"""What a release has beside what it must have."""
HERE = {"extra": ""}


def locked() -> dict[str, Version]:
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pins = [line.split("==") for line in lines]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def wanted() -> list[Requirement]:
    """Of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(TREE / "setup.cfg", encoding="utf-8")
    texts = [parser["options"]["install_requires"], *(parser["options.extras_require"][name] for name in EXTRAS)]
    return [Requirement(line) for text in texts for line in text.split("\n") if line]


def test_the_list_satisfies_what_we_ask_for() -> None:
    pins = locked()
    for one in wanted():
        assert canonicalize_name(one.name) in pins, f"{one}: run tools/dist --lock, and look at what it adds"
        assert pins[canonicalize_name(one.name)] in one.specifier, one


def test_nothing_comes_with_them_that_is_not_on_the_list() -> None:
    pins, todo, seen = locked(), wanted(), set()
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if (name, *sorted(one.extras)) in seen or (one.marker and not one.marker.evaluate(HERE)):
            continue
        seen.add((name, *sorted(one.extras)))
        assert name in pins, f"{one.name} is new: run tools/dist --lock, and look at what it adds"
        try:
            further = [Requirement(text) for text in requires(one.name) or ()]
        except PackageNotFoundError:
            missing(f"{one.name} is not installed")
        environments = [HERE, *({"extra": extra} for extra in one.extras)]
        todo += [
            Requirement(str(r).partition(";")[0])
            for r in further
            if r.marker is None or any(r.marker.evaluate(environment) for environment in environments)
        ]
    assert len(seen) > 20


def test_no_known_weakness() -> None:
    """Where there is no database of weaknesses to ask, the list alone stands, and this says so."""
    if importlib.util.find_spec("pip_audit") is None:
        missing("pip-audit is not installed")
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format=json", "--timeout=10"]
    done = subprocess.run([*command, "-r", LOCK], capture_output=True, text=True, timeout=100, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        assert re.search(r"ConnectionError|ServiceError|Timeout|Max retries", done.stderr), done.stderr[-2000:]
        found = []
    asked = [one for one in found if "vulns" in one]
    print(f"{len(asked)} of {len(locked())} packages could be asked about")
    weak = {one["name"]: [v["id"] for v in one["vulns"]] for one in asked if one["vulns"]}
    assert not weak, weak
