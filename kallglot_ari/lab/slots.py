"""Blocks of ports for several labs at once: whoever holds a slot's lock file has its ports, and dies with the lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

from kallglot_ari.errors import LabError

FIRST = 12000
SIZE = 1000
COUNT = 20
"""12000 to 31999: below what Linux gives to sockets that ask for any port."""


class Slot:
    """A block of ports: five for servers, then 990 for RTP, enough for 120 translated calls."""

    def __init__(self, number: int, lock: IO[str]) -> None:
        self._lock = lock
        base = FIRST + number * SIZE
        self.number = number
        self.http, self.sip, self.sip_tls, self.manager, self.spare = range(base, base + 5)
        self.rtp = (base + 10, base + SIZE - 1)

    def free(self) -> None:
        """Let another have the ports."""
        self._lock.close()


def take() -> Slot:
    """A slot whose server ports are free now. :raises LabError: when all are taken."""
    folder = Path(tempfile.gettempdir()) / f"kallglot-lab-slots-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(COUNT):
        lock = (folder / str(number)).open("w")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            slot = Slot(number, lock)
            if all(_is_free(port) for port in (slot.http, slot.sip, slot.sip_tls, slot.manager)):
                return slot
        lock.close()
    raise LabError(
        f"all {COUNT} blocks of lab ports ({FIRST} to {FIRST + COUNT * SIZE - 1}) are in use: end another lab"
    )


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
