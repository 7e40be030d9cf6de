"""systemd is told what it wants to know, and nobody else anything."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from kallglot_ari.notify import Notify


@pytest.mark.parametrize("abstract", [False, True])
def test_each_message(tmp_path: Path, abstract: bool) -> None:
    name = f"@kallglot-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        notify = Notify({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
        assert notify.watchdog == 30.0
        notify.ready("3 calls")
        notify.status("draining")
        notify.alive()
        notify.extend(1.5)
        notify.stopping()
        assert [manager.recv(100).decode() for _ in range(5)] == [
            "READY=1\nSTATUS=3 calls",
            "STATUS=draining",
            "WATCHDOG=1",
            "EXTEND_TIMEOUT_USEC=1500000",
            "STOPPING=1",
        ]


def test_nobody_listens(tmp_path: Path) -> None:
    Notify({}).ready("")
    Notify({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("")
    assert Notify({}).watchdog == 0.0
    assert Notify({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog == 0.0
    assert Notify({"WATCHDOG_USEC": "soon"}).watchdog == 0.0
