"""A Python for the phones, where pjsua2 has no wheel for this one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kallglot_ari.errors import LabError
from kallglot_ari.lab import phone_python, roots
from kallglot_ari.lab.phone_python import python_with_pjsua2

LOADER = '#!/bin/sh\ntest "$1" = --library-path || exit 9\nshift 2\nexec "$@"\n'


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose Python pjsua2 has no wheel for, as root; its lab folder, which has a blank in its name."""
    monkeypatch.delenv("KALLGLOT_LAB_PHONE_PYTHON", raising=False)
    monkeypatch.setenv("KALLGLOT_LAB_DIR", str(tmp_path / "the lab"))
    monkeypatch.setattr(phone_python, "find_spec", lambda _: None)
    monkeypatch.setattr(phone_python, "HAS_WHEEL", False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path / "the lab"


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def debian(*_: object) -> None:
    """In the place of `roots.make_folder`: a Debian whose Python says what it was given."""
    folder = next(part for part in _ if isinstance(part, Path))
    executable(folder / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", LOADER)
    executable(folder / "usr/bin/python3.11", '#!/bin/sh\necho "$PYTHONHOME|$PYTHONPATH|$*"\n')


def ran(commands: list[tuple[str, ...]], status: int = 0) -> Callable[..., subprocess.CompletedProcess[str]]:
    """In the place of `subprocess.run`: notes what would be run."""

    def run(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(tuple(command))
        return subprocess.CompletedProcess(command, status, "", "no network\n")

    return run


def test_debians_is_unpacked_once_and_runs_with_its_own_libraries(newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, commands = subprocess.run, list[tuple[str, ...]]()
    monkeypatch.setattr(roots, "make_folder", debian)
    monkeypatch.setattr("subprocess.run", ran(commands))
    told: list[str] = []
    python = python_with_pjsua2(told.append)
    assert told
    assert [command[1:4] for command in commands] == [("-m", "pip", "install")]
    assert {"--python-version", "3.11", str(newer / "python-bookworm/opt/pjsua2")} <= set(commands[0])
    assert python_with_pjsua2(told.append) == python
    assert len(commands) == 1
    said = real([python, "-u", "phone process.py"], capture_output=True, text=True, check=True).stdout
    home, packages, arguments = said.rstrip("\n").split("|")
    assert (home, packages) == (f"{newer}/python-bookworm/usr", f"{newer}/python-bookworm/opt/pjsua2")
    assert arguments == "-u phone process.py"


def test_what_could_not_be_installed_is_said_and_tried_again(newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(roots, "make_folder", debian)
    monkeypatch.setattr("subprocess.run", ran(commands, 1))
    for _ in range(2):
        with pytest.raises(LabError, match="pip install failed: no network"):
            python_with_pjsua2()
    assert len(commands) == 2


def test_the_machines_own_older_one_comes_first(newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "python3.11" else None)
    monkeypatch.setattr("subprocess.run", ran(commands))
    assert python_with_pjsua2() == str(newer / "phone-python/bin/python")
    assert [command[0] for command in commands[1:]] == ["/usr/bin/python3.11", str(newer / "phone-python/bin/python")]


def test_without_root_one_line_says_what_to_do(newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"run as root.*or set KALLGLOT_LAB_PHONE_PYTHON") as raised:
        python_with_pjsua2()
    assert "\n" not in str(raised.value)


def test_a_python_that_is_named_is_taken(newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALLGLOT_LAB_PHONE_PYTHON", "/opt/python")
    assert python_with_pjsua2() == "/opt/python"
