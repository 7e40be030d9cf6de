"""One target under atheris: `python -m tests.fuzz.coverage NAME [libFuzzer's arguments]`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["kallglot_ari"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = next(t for t in TARGETS if t.name == sys.argv[1])
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.try_)
    atheris.Fuzz()
