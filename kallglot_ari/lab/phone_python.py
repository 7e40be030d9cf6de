"""The Python that the phones run on.

pjsua2 has wheels for Python 3.11 and 3.12 only. A newer one borrows an older one for its phones: the machine's, else Debian's, which is
unpacked into a folder of the lab's cache and run from there.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from kallglot_ari.errors import LabError
from kallglot_ari.lab import roots
from kallglot_ari.lab.roots import Progress

HAS_WHEEL = tuple(sys.version_info)[:2] in ((3, 11), (3, 12))
"""Whether pjsua2 can be installed for the Python that runs this."""
_SUITE, _VERSION = "bookworm", "3.11"
"""The suite of Debian that is taken, and its Python."""
_PJSUA2 = "pjsua2-python>=2.14"
_PIP_SECONDS = 300.0


def quietly(_: str) -> None:
    """Progress that nobody is shown."""


def python_with_pjsua2(progress: Progress = quietly) -> str:
    """A Python that has pjsua2: this one, else one that the lab makes, which may take a minute.

    :raises LabError: says what to install.
    """
    if named := os.environ.get("KALLGLOT_LAB_PHONE_PYTHON"):
        return named
    if find_spec("pjsua2"):
        return sys.executable
    if HAS_WHEEL:
        raise LabError("phones need pjsua2: pip install 'kallglot-ari[lab]'")
    folder = roots.lab_folder() / "phone-python"
    found = folder / "bin/python"
    if found.exists():
        return str(found)
    with roots.locked(folder.with_name(folder.name + ".lock"), "Python for the phones", progress):
        return str(found) if found.exists() else _make(found, progress)


def _make(found: Path, progress: Progress) -> str:
    for name in ("python3.12", "python3.11"):
        if (older := shutil.which(name)) and _runs(older):
            return _make_environment(older, found, progress)
    if os.geteuid() != 0:
        raise LabError(
            f"phones need pjsua2, which has wheels for Python 3.11 and 3.12 only: run as root, so that Debian's Python {_VERSION} "
            "can be unpacked, or set KALLGLOT_LAB_PHONE_PYTHON to a Python that has pjsua2-python"
        )
    root = found.parents[2] / f"python-{_SUITE}"
    roots.make_folder(f"Python {_VERSION} for the phones", _SUITE, ("python3",), root, progress)
    return _make_launcher(root, found, progress)


def _runs(python: str) -> bool:
    """Version managers leave a `python3.12` in PATH that only says which versions there are."""
    return subprocess.run([python, "-c", ""], capture_output=True, timeout=30, check=False).returncode == 0


def _make_environment(older: str, found: Path, progress: Progress) -> str:
    folder = found.parents[1]
    progress(f"installing pjsua2 for {Path(older).name}")
    try:
        _run(older, "-m", "venv", str(folder))
        _run(str(found), "-m", "pip", "install", "--quiet", _PJSUA2)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return str(found)


def _make_launcher(root: Path, found: Path, progress: Progress) -> str:
    """A `python` that runs the one in `root` with the libraries there: it sees this machine's files, as it would not by chroot."""
    loaders = sorted(root.glob("usr/lib/*/ld-linux*.so.*"))
    if not loaders:
        raise LabError(f"phones: expected Debian's loader in {root}/usr/lib/…, found none")
    progress(f"installing pjsua2 for Python {_VERSION}")
    packages = root / "opt/pjsua2"
    _run(
        sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(packages),
        "--python-version", _VERSION, "--implementation", "cp", "--only-binary", ":all:", _PJSUA2,
    )  # fmt: skip
    home, libraries, python = root / "usr", loaders[0].parent, root / f"usr/bin/python{_VERSION}"
    words = [str(part) for part in (loaders[0], "--library-path", libraries, python)]
    found.parent.mkdir(parents=True, exist_ok=True)
    script = found.with_name("python.new")
    script.write_text(
        f'#!/bin/sh\nPYTHONHOME={shlex.quote(str(home))} PYTHONPATH={shlex.quote(str(packages))} exec {shlex.join(words)} "$@"\n'
    )
    script.chmod(0o755)
    script.replace(found)  # whole, or not there
    return str(found)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"phones need pjsua2: {' '.join(command[1:4])}: {error}") from None
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise LabError(f"phones need pjsua2: {' '.join(command[1:4])} failed: {said}")
