"""Finding or making an Asterisk: what is asked for, what is found, and every way it can fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kallglot_ari.errors import LabError
from kallglot_ari.lab import roots


def program(folder: Path, name: str, script: str) -> Path:
    """A program in a folder of PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine: nothing in PATH but sh and timeout, an own lab folder, root."""
    folder = tmp_path / "bin"
    for name in ("sh", "timeout", "cat", "mkdir", "sleep"):
        found = subprocess.run(["sh", "-c", f"command -v {name}"], capture_output=True, text=True, check=True)
        folder.mkdir(exist_ok=True)
        (folder / name).symlink_to(found.stdout.strip())
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("KALLGLOT_LAB_DIR", str(tmp_path / "lab"))
    monkeypatch.delenv("KALLGLOT_LAB_ASTERISK_22", raising=False)
    monkeypatch.delenv("KALLGLOT_LAB_ASTERISK_16", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(roots, "SYSTEM_FOLDERS", "")
    return folder


def quiet(_: str) -> None:
    return


DEBOOTSTRAP = """
echo "I: Retrieving x 1"
mkdir -p "$4/usr/sbin" "$4/etc"
echo "$@" > "$4/arguments"
"""


def machine(folder: Path, debootstrap: str = DEBOOTSTRAP) -> None:
    """A machine on which an Asterisk can be made."""
    program(
        folder,
        "apt-get",
        'test "$1" = indextargets && echo http://mirror.test/debian-security/ http://mirror.test/debian/',
    )
    program(folder, "debootstrap", debootstrap)
    program(folder, "umount", "exit 0")
    program(folder, "chroot", "echo Asterisk 22.10.1")


def test_the_machines_own_is_taken_when_it_is_the_version_asked_for(path: Path) -> None:
    program(path, "asterisk", "echo Asterisk 22.4.0")
    found = roots.find_or_make("22", quiet)
    assert found.version == "22.4.0"
    assert not found.chrooted
    assert found.command("-V") == [str(path / "asterisk"), "-V"]
    assert roots.find_or_make(None, quiet) == found


def test_the_machines_own_of_another_version_is_taken_only_when_any_will_do(path: Path) -> None:
    program(path, "asterisk", "echo Asterisk 20.1.0")
    assert roots.find_or_make(None, quiet).version == "20.1.0"
    with pytest.raises(LabError, match="apt-get"):
        roots.find_or_make("22", quiet)


def test_a_folder_made_elsewhere_is_named_by_the_environment(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(path)
    program(tmp_path / "other/usr/sbin", "asterisk", "exit 0")
    (tmp_path / "other/etc").mkdir()
    monkeypatch.setenv("KALLGLOT_LAB_ASTERISK_22", str(tmp_path / "other"))
    found = roots.find_or_make("22", quiet)
    assert found.folder == tmp_path / "other"
    assert found.command("-f")[:2] == ["chroot", str(tmp_path / "other")]
    monkeypatch.setenv("KALLGLOT_LAB_ASTERISK_22", str(tmp_path / "none"))
    with pytest.raises(LabError, match=r"KALLGLOT_LAB_ASTERISK_22: expected a folder with usr/sbin/asterisk"):
        roots.find_or_make("22", quiet)


def test_one_is_made_once_and_from_the_machines_own_mirror(path: Path, tmp_path: Path) -> None:
    machine(path)
    told: list[str] = []
    found = roots.find_or_make("22", told.append)
    arguments = (found.folder / "arguments").read_text()
    assert arguments.split()[2:] == ["sid", str(found.folder), "http://mirror.test/debian/"]
    assert any("making Asterisk 22" in line for line in told)
    told.clear()
    assert roots.find_or_make("22", told.append) == found
    assert told == []


def test_an_interrupted_one_is_noticed_and_made_again(path: Path, tmp_path: Path) -> None:
    machine(path)
    unfinished = tmp_path / "lab/asterisk-sid"
    (unfinished / "half").mkdir(parents=True)
    told: list[str] = []
    roots.find_or_make("22", told.append)
    assert not (unfinished / "half").exists()
    assert any("unfinished" in line for line in told)


def test_makers_wait_for_one_another(path: Path, tmp_path: Path) -> None:
    machine(path)
    (tmp_path / "lab").mkdir()
    lock = tmp_path / "lab/asterisk-sid.lock"
    with subprocess.Popen(
        ["/usr/bin/env", "-S", "flock", str(lock), "sh", "-c", "echo held; sleep 0.5"],
        stdout=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        told: list[str] = []
        roots.find_or_make("22", told.append)
    assert any("waiting for it" in line for line in told)


def test_a_failed_making_says_why_and_is_made_again_later(path: Path) -> None:
    machine(path, 'mkdir -p "$4"; echo "E: no route to mirror"; exit 1')
    with pytest.raises(LabError, match=r"debootstrap sid failed \(status 1.*no route to mirror"):
        roots.find_or_make("22", quiet)
    machine(path)
    assert roots.find_or_make("22", quiet).version == "22.10.1"


def test_without_root_one_line_says_what_to_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(path)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="run as root, or install asterisk"):
        roots.find_or_make("22", quiet)


def test_without_apt_one_line_says_what_to_install(path: Path) -> None:
    with pytest.raises(LabError, match="no apt-get to install debootstrap with"):
        roots.find_or_make("22", quiet)


@pytest.mark.parametrize("apt", ["echo http://mirror.test/ubuntu/", None])
def test_where_apt_names_no_debian_archive_debootstraps_own_is_used_and_checked(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apt: str | None
) -> None:
    monkeypatch.setattr(roots, "KEYS", tmp_path / "keys.gpg")
    (tmp_path / "keys.gpg").touch()
    machine(path, DEBOOTSTRAP.replace("$4", "$6"))
    program(path, "apt-get", apt) if apt else (path / "apt-get").unlink()
    found = roots.find_or_make("22", quiet)
    arguments = (found.folder / "arguments").read_text().split()
    assert arguments[1:3] == [f"--keyring={tmp_path / 'keys.gpg'}", "--force-check-gpg"]
    assert arguments[4:] == ["sid", str(found.folder)]


def test_debians_keys_are_installed_where_they_are_missing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "KEYS", tmp_path / "keys.gpg")
    machine(path, DEBOOTSTRAP.replace("$4", "$6"))
    program(path, "apt-get", f'test "$1" = indextargets || echo "$@" >> {tmp_path}/asked')
    roots.find_or_make("22", quiet)
    assert "debian-archive-keyring" in (tmp_path / "asked").read_text()


def test_a_package_that_cannot_be_installed(path: Path) -> None:
    program(path, "apt-get", 'test "$4" = update || { echo "Unable to fetch" >&2; exit 100; }')
    with pytest.raises(LabError, match=r"debootstrap cannot be installed .*Unable to fetch"):
        roots.find_or_make("22", quiet)


def test_something_else_that_calls_itself_asterisk(path: Path) -> None:
    program(path, "asterisk", "echo a star")
    with pytest.raises(LabError, match="expected 'Asterisk VERSION', found 'a star"):
        roots.find_or_make(None, quiet)


def test_a_lab_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KALLGLOT_LAB_DIR", str(tmp_path / "file/lab"))
    with pytest.raises(LabError, match="set KALLGLOT_LAB_DIR"):
        roots.lab_folder()


def test_modules_are_found_wherever_debian_puts_them(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="expected its modules"):
        roots.Root("16.28", tmp_path).modules()
    (tmp_path / "usr/lib/asterisk/modules").mkdir(parents=True)
    assert roots.Root("16.28", tmp_path).modules() == tmp_path / "usr/lib/asterisk/modules"
