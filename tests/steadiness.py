"""When the machine stood still: seen by a process of its own, so that a test of real time is not blamed for it.

    python -m tests.steadiness PID

prints a line for each standstill, until its input closes. There are two kinds:

- a core let nobody run: a thread that is bound to it woke up late by `STALL` (a virtual machine that its host held up, mostly);
- a thread of process PID or of its children waited for a core, ready to run, for `STARVED` within two samples, by the kernel's own books
  (the second figure of `/proc/PID/task/TID/schedstat`).

What a process does to itself is neither: an event loop that computes for 50 ms is late, but waits for no core.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

STALL = 0.015
"""Seconds by which a core's own thread woke up late."""
STARVED = 0.030
"""Seconds that a thread waited for a core within two samples."""
_BEAT = 0.004
_SAMPLE = 0.020
_LOOK = 0.5
"""Seconds between looks at which threads there are."""
_CORES = 8
"""Cores watched at most."""


class Standstill(NamedTuple):
    """When it ended (monotonic seconds), how long it was (seconds), and who stood still."""

    at: float
    seconds: float
    who: str

    def __str__(self) -> str:
        return f"{self.who} for {self.seconds * 1000:.0f} ms"


class Watch:
    """The watching process, and what it has seen."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.steadiness", str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._output: IO[bytes] = self._process.stdout
        assert self._output.readline() == b"watching\n"
        flags = fcntl.fcntl(self._output, fcntl.F_GETFL)
        fcntl.fcntl(self._output, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        self._rest = b""

    def seen(self) -> list[Standstill]:
        """Standstills that were noted since the last call. :raises AssertionError: when nobody watches any more."""
        assert self._process.poll() is None, "the watch has ended"
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._output.fileno(), 65536):
                self._rest += piece
        *lines, self._rest = self._rest.split(b"\n")
        parts = (line.decode().split(" ", 2) for line in lines)
        return [Standstill(float(at), float(seconds), who) for at, seconds, who in parts]

    def stop(self) -> None:
        self._process.communicate()


def _say(seconds: float, who: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{time.monotonic():.3f} {seconds:.4f} {who}\n".encode())


def _stay_on(core: int) -> None:
    """Wake up on `core` every few milliseconds and say when that came late."""
    os.sched_setaffinity(0, {core})
    while True:
        due = time.monotonic() + _BEAT
        time.sleep(_BEAT)
        if (late := time.monotonic() - due) >= STALL:
            _say(late, f"core {core} stood still")


class _Thread:
    """How long one thread has waited for a core."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "schedstat", os.O_RDONLY)
        self._name = (folder / "comm").read_text().strip()
        self._waited = [self._read()] * 3

    def _read(self) -> int:
        return int(os.pread(self._file, 64, 0).split()[1])

    def look(self) -> None:
        """:raises OSError: when it has ended."""
        self._waited = [*self._waited[1:], self._read()]
        seconds = (self._waited[2] - self._waited[0]) / 1e9
        if seconds >= STARVED:
            _say(seconds, f"{self._name} waited for a core")
            self._waited = self._waited[2:] * 3

    def close(self) -> None:
        os.close(self._file)


def _tree(pid: int) -> Iterator[Path]:
    """The threads of a process and of its children, as folders of /proc; not our own."""
    if pid == os.getpid():
        return
    with contextlib.suppress(OSError):
        for folder in Path(f"/proc/{pid}/task").iterdir():
            yield folder
            for child in (folder / "children").read_text().split():
                yield from _tree(int(child))


def _look_at(pid: int) -> None:
    """Say when a thread of `pid`'s tree was kept waiting."""
    threads: dict[Path, _Thread] = {}
    looked = 0.0
    while True:
        if time.monotonic() - looked > _LOOK:
            looked = time.monotonic()
            for folder in set(_tree(pid)) - threads.keys():
                with contextlib.suppress(OSError, IndexError):
                    threads[folder] = _Thread(folder)
        for folder, thread in list(threads.items()):
            try:
                thread.look()
            except OSError:
                threads.pop(folder).close()
        time.sleep(_SAMPLE)


def main(pid: int) -> None:
    os.write(1, b"watching\n")
    for core in sorted(os.sched_getaffinity(0))[:_CORES]:
        threading.Thread(target=_stay_on, args=(core,), daemon=True).start()
    threading.Thread(target=_look_at, args=(pid,), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
