"""The Python that the phones run on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from kallglot_ari.errors import LabError
from kallglot_ari.lab.roots import lab_folder


def python_with_pjsua2() -> str:
    """A Python that has pjsua2: this one, else one that the lab makes.

    pjsua2 has wheels for Python 3.11 and 3.12 only, so a newer Python borrows an older one for its phones.

    :raises LabError: says what to install.
    """
    if named := os.environ.get("KALLGLOT_LAB_PHONE_PYTHON"):
        return named
    if find_spec("pjsua2"):
        return sys.executable
    if tuple(sys.version_info)[:2] in ((3, 11), (3, 12)):
        raise LabError("phones need pjsua2: pip install 'kallglot-ari[lab]'")
    found = lab_folder() / "phone-python/bin/python"
    if found.exists():
        return str(found)
    for name in ("python3.12", "python3.11"):
        if (older := shutil.which(name)) and _runs(older):
            return _make_python(older, found)
    raise LabError(
        "phones need pjsua2, which has wheels for Python 3.11 and 3.12 only: install python3.12, "
        "or set KALLGLOT_LAB_PHONE_PYTHON to a Python that has pjsua2-python"
    )


def _runs(python: str) -> bool:
    """Version managers leave a `python3.12` in PATH that only says which versions there are."""
    return subprocess.run([python, "-c", ""], capture_output=True, timeout=30, check=False).returncode == 0


def _make_python(older: str, found: Path) -> str:
    folder = found.parents[1]
    for command in (
        [older, "-m", "venv", str(folder)],
        [str(found), "-m", "pip", "install", "--quiet", "pjsua2-python>=2.14"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            said = " ".join(done.stderr.split())[-300:]
            raise LabError(f"phones need pjsua2: {' '.join(command[1:4])} failed: {said}")
    return str(found)
