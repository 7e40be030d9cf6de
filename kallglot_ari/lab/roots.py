"""Finds an Asterisk to run, or makes one: Debian's packages in a folder of the lab's cache, on Ubuntu too.

In order: `$KALLGLOT_LAB_ASTERISK_22` (or `_16`) names a folder made elsewhere; an `asterisk` in PATH of the version asked for;
a folder made earlier; a new one, by debootstrap, as root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kallglot_ari.errors import LabError

Version = Literal["22", "16"]
Progress = Callable[[str], None]
"""Told one line at a time what is being done."""

SUITES: dict[Version, str] = {"22": "sid", "16": "bullseye"}
"""The suite of Debian that has this Asterisk."""
PACKAGES = ("asterisk", "asterisk-modules", "asterisk-core-sounds-en-gsm")
DEBOOTSTRAP_SECONDS = 900.0
APT_SECONDS = 300.0
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SYSTEM_FOLDERS = os.pathsep + "/usr/sbin"
"""Added to PATH: su without a login leaves them out."""
_COMPLETE = ".kallglot-lab-complete"
_REPOSITORY = re.compile(r"/debian/?$")


@dataclass(frozen=True, slots=True)
class Root:
    """An installed Asterisk. `folder` is `/` for the machine's own, else it is entered by chroot."""

    version: str
    """As Asterisk tells it: `22.10.1`, with Debian's suffix."""
    folder: Path
    binary: str = "/usr/sbin/asterisk"
    """Path of the program, seen from inside `folder`."""

    @property
    def chrooted(self) -> bool:
        return self.folder != Path("/")

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs Asterisk with these arguments."""
        inside = [self.binary, *arguments]
        return ["chroot", str(self.folder), *inside] if self.chrooted else inside

    def outside(self, path: str) -> Path:
        """Where a path of the inside is found from here."""
        return self.folder / path.lstrip("/")

    def modules(self) -> Path:
        """The folder of the modules, as a path from here. :raises LabError: when there is none."""
        for pattern in ("usr/lib/*/asterisk/modules", "usr/lib/asterisk/modules", "usr/lib64/asterisk/modules"):
            for found in sorted(self.folder.glob(pattern)):
                return found
        raise LabError(f"Asterisk in {self.folder}: expected its modules in usr/lib/…/asterisk/modules, found none")


def lab_folder() -> Path:
    """`$KALLGLOT_LAB_DIR`, else `kallglot-ari` in the user's cache folder; made when missing."""
    named = os.environ.get("KALLGLOT_LAB_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(named) if named else Path(cache) / "kallglot-ari"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"lab folder {folder}: cannot be made ({error.strerror}); set KALLGLOT_LAB_DIR") from None
    return folder.resolve()


def find_or_make(version: Version | None, progress: Progress) -> Root:
    """The Asterisk to run. Blocks, for half a minute or so when one has to be made.

    :param version: `22` or `16`; None takes the machine's own, whatever its version, else 22.
    :raises LabError: it can neither be found nor made; says what to install or allow.
    """
    wanted: Version = version or "22"
    variable = f"KALLGLOT_LAB_ASTERISK_{wanted}"
    if named := os.environ.get(variable):
        folder = Path(named).resolve()
        if not (folder / "usr/sbin/asterisk").exists():
            raise LabError(f"{variable}: expected a folder with usr/sbin/asterisk in it, found {named}")
        return _probe(folder)
    if own := _own(version):
        return own
    folder = lab_folder() / f"asterisk-{SUITES[wanted]}"
    if not (folder / _COMPLETE).exists():
        make(wanted, folder, progress)
    return _probe(folder)


def _own(version: Version | None) -> Root | None:
    """The machine's own Asterisk, when it is the one asked for."""
    found = shutil.which("asterisk", path=os.environ.get("PATH", "") + SYSTEM_FOLDERS)
    if not found:
        return None
    root = Root(_version_of([found, "-V"]), Path("/"), found)
    return root if version is None or root.version.startswith(version + ".") else None


def _probe(folder: Path) -> Root:
    if os.geteuid() != 0:
        raise LabError(f"Asterisk in {folder} is entered by chroot, which needs root: run as root, or install asterisk")
    root = Root("", folder)
    _name_the_host(folder)
    return Root(_version_of(root.command("-V")), folder)


def _name_the_host(folder: Path) -> None:
    """Let the inside resolve the machine's own name: Asterisk looks it up for every call, and would wait for a name server."""
    hosts = folder / "etc/hosts"
    text = hosts.read_text() if hosts.exists() else "127.0.0.1 localhost\n"
    name = socket.gethostname()
    if name not in text.split():
        hosts.write_text(f"{text.rstrip()}\n127.0.1.1 {name}\n")


def _version_of(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(command)}: cannot be run ({error})") from None
    match = re.match(r"Asterisk (\S+)", done.stdout)
    if done.returncode or not match:
        raise LabError(f"{' '.join(command)}: expected 'Asterisk VERSION', found {(done.stdout + done.stderr)[:200]!r}")
    return match[1]


def make(version: Version, folder: Path, progress: Progress) -> None:
    """Make `folder` with an Asterisk. :raises LabError: says what to install or allow."""
    if os.geteuid() != 0:
        raise LabError(f"no Asterisk {version} in PATH, and making one needs root: run as root, or install asterisk")
    make_folder(f"Asterisk {version}", SUITES[version], PACKAGES, folder, progress)


def make_folder(what: str, suite: str, packages: tuple[str, ...], folder: Path, progress: Progress) -> None:
    """Make `folder` of Debian's `packages` and all they need by debootstrap, as root, unless it is there.

    Several makers wait for one another; one that was interrupted is made anew. :raises LabError: says what to install or allow.
    """
    with locked(folder.with_name(folder.name + ".lock"), what, progress):
        if (folder / _COMPLETE).exists():
            return
        if folder.exists():
            progress(f"removing an unfinished {folder}")
            _remove(folder)
        _need_debootstrap(progress)
        mirror = _mirror()
        if not mirror:
            _need_keys(progress)
        progress(f"making {what} from Debian {suite} in {folder} (half a minute and up to 500 MB)")
        try:
            _debootstrap(suite, packages, folder, mirror, progress)
        finally:
            _unmount(folder)
        shutil.rmtree(folder / "var/cache/apt/archives", ignore_errors=True)
        (folder / _COMPLETE).write_text(suite + "\n")
        progress(f"{what} is ready in {folder}")


@contextlib.contextmanager
def locked(path: Path, what: str, progress: Progress) -> Iterator[None]:
    """Hold the lock file; the kernel lets go of it when its holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process is making this {what}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(folder: Path) -> None:
    _unmount(folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise LabError(f"an unfinished {folder} cannot be removed ({error}); remove it by hand") from None


def _unmount(folder: Path) -> None:
    """Take away what debootstrap mounted below `folder`."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    below = [m.split()[1] for m in mounts if m.split()[1].startswith(f"{folder}/")]
    for mount in sorted(below, reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)


def _need_debootstrap(progress: Progress) -> None:
    if shutil.which("debootstrap", path=os.environ.get("PATH", "") + SYSTEM_FOLDERS):
        return
    if not shutil.which("apt-get"):
        raise LabError(
            "no asterisk in PATH, and no apt-get to install debootstrap with: install asterisk or debootstrap"
        )
    apt_install(["debootstrap"], progress)


def apt_install(packages: list[str], progress: Progress) -> None:
    """Install Debian packages. :raises LabError: when that fails."""
    progress(f"installing {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-qq", "-o", "DPkg::Lock::Timeout=120"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run(
                ["apt-get", *options, *command],
                check=False,
                env=environment,
                capture_output=True,
                text=True,
                timeout=APT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LabError(f"apt-get {command[0]}: {error}; install {' '.join(packages)} by hand") from None
        if done.returncode and command[0] == "install":
            tail = " ".join(done.stderr.split()[-30:])
            raise LabError(f"{' '.join(packages)} cannot be installed (network? root?): apt-get says {tail!r}")


def _mirror() -> str:
    """The Debian archive that this machine's own apt uses; empty where it names none (Ubuntu's does not), for debootstrap knows one."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line for line in done.stdout.split() if _REPOSITORY.search(line)), "")


def _need_keys(progress: Progress) -> None:
    """Debian's keys, where apt does not use any: what debootstrap fetches is checked by them."""
    if not KEYS.exists():
        apt_install(["debian-archive-keyring"], progress)


def _debootstrap(suite: str, packages: tuple[str, ...], folder: Path, mirror: str, progress: Progress) -> None:
    where = [mirror] if mirror else []
    check = [] if mirror else [f"--keyring={KEYS}", "--force-check-gpg"]
    command = [
        "debootstrap", "--variant=minbase", *check, f"--include={','.join(packages)}", suite, str(folder), *where,
    ]  # fmt: skip
    steps: dict[str, int] = {}
    tail = ""
    with subprocess.Popen(
        ["timeout", str(int(DEBOOTSTRAP_SECONDS)), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.match(r"I: (Retrieving|Validating|Extracting|Unpacking|Configuring) ", line):
                step = steps[match[1]] = steps.get(match[1], 0) + 1
                if step == 1 or step % 25 == 0:
                    progress(f"{match[1].lower()} packages: {step}")
            elif line.startswith(("E:", "W:")):
                tail = line.strip()
    if process.returncode:
        log = folder / "debootstrap/debootstrap.log"
        if log.exists():
            tail += " " + " ".join(log.read_text(errors="replace").split()[-30:])
        raise LabError(f"debootstrap {suite} failed (status {process.returncode}; network? disk?): {tail}")
