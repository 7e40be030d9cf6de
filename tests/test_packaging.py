"""The wheel: everything that is not Python is in it, and it runs outside the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import kallglot_ari
from tests.asterisk.conftest import missing

TREE = Path(__file__).parents[1]
PACKAGE = TREE / "kallglot_ari"
SHARED = "share/kallglot-ari"


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    env = {name: value for name, value in (os.environ if env is None else env).items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the tree, and without the network."""
    try:
        setuptools = version("setuptools")
    except PackageNotFoundError:
        setuptools = "0.0"
    if tuple(map(int, setuptools.split(".")[:2])) < (70, 1):
        missing(f"setuptools {setuptools}: 70.1 builds a wheel by itself")
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "*.so")
    for name in ("kallglot_ari", "asterisk-conf"):
        shutil.copytree(TREE / name, folder / "src" / name, ignore=unwanted)
    for name in ("setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(TREE / name, folder / "src" / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q")
    run(*pip, "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, folder / "src", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fresh environment's programs; what we depend on comes from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv/bin/python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "-q")
    run(*pip, "--no-index", "--no-deps", wheel, cwd=folder)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return folder / "venv/bin"


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    here = {
        path.relative_to(TREE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".c"
    }
    assert here - names == set()
    (data,) = {name.split("/")[0] for name in names if ".data/" in name}
    conf = {
        f"{data}/data/{SHARED}/{path.relative_to(TREE).as_posix()}"
        for path in (TREE / "asterisk-conf").rglob("*")
        if path.is_file()
    }
    assert conf
    assert conf - names == set()
    assert not [name for name in names if name.startswith("tests/")]


def test_it_runs_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = installed / "kallglot-ari"
    assert run(command, "--version", cwd=tmp_path, env=env).strip() == f"kallglot-ari {kallglot_ari.__version__}"
    for kind in ("asterisk", "freeswitch", "cucm"):
        assert run(command, "config", kind, "--out", tmp_path / kind, cwd=tmp_path, env=env).count("\n") >= 2
    assert "de" in run(command, "models", "list", cwd=tmp_path, env=env)
    # The demo's Asterisk, its phones and its sentences, and the dashboard.
    found = run(
        installed / "python",
        "-c",
        "import kallglot_ari.lab.conf as c, kallglot_ari.web.server as s, kallglot_ari.lab.speech;"
        "print(c.shipped()); print(len(s._read('dashboard.html')), c.__file__)",
        cwd=tmp_path,
        env=env,
    )
    assert str(TREE) not in found
    assert f"{SHARED}/asterisk-conf" in found
