"""`python -m tests.faults.jumping serve`: the service, with handles on what cannot be reached from outside.

- AHEAD: the wall clock jumps an hour ahead. BACK: two hours back.
- STALL: the event loop stands still for 2 s, while the media thread goes on.
- COUNT: asyncio tasks, threads, objects by type and the allocator's figures go into the file `tasks.json` of the working directory.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import signal
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kallglot_ari.cli import main
from kallglot_ari.clock import SystemClock

AHEAD, BACK, STALL, COUNT = (signal.SIGRTMIN + n for n in range(4))
STALL_SECONDS = 2.0
COUNTED = "tasks.json"

_SMALL = 99
"""Bytes of one of Python's small blocks, on average in this service."""

_off = timedelta(0)


class _Mallinfo2(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def _jump(by: timedelta) -> None:
    global _off
    _off += by


def _wall(_: SystemClock) -> datetime:
    return datetime.now(UTC) + _off


def _used() -> float:
    """MB that are in use of what the C library and Python's own allocator hold; the rest is free, but not given back."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0.0
    libc.mallinfo2.restype = _Mallinfo2
    figures = libc.mallinfo2()
    small = sys.getallocatedblocks() * _SMALL
    return float(figures.uordblks + figures.hblkhd + small) / 1e6


def _count(*_: object) -> None:
    gc.collect()
    tasks = sorted(task.get_name() for task in asyncio.all_tasks(asyncio.get_running_loop()))
    objects = Counter(type(thing).__qualname__ for thing in gc.get_objects())
    part = Path(f"{COUNTED}.part")
    said = {"tasks": tasks, "threads": threading.active_count(), "objects": objects, "used": _used()}
    part.write_text(json.dumps(said))
    part.rename(COUNTED)


if __name__ == "__main__":
    SystemClock.wall = _wall  # type: ignore[method-assign,assignment]
    signal.signal(AHEAD, lambda *_: _jump(timedelta(hours=1)))
    signal.signal(BACK, lambda *_: _jump(timedelta(hours=-2)))
    signal.signal(STALL, lambda *_: time.sleep(STALL_SECONDS))
    signal.signal(COUNT, _count)
    sys.exit(main())
