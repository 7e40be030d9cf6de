"""`python -m tests.faults.jumping serve`: the service, with handles on what cannot be reached from outside.

- AHEAD: the wall clock jumps an hour ahead. BACK: two hours back.
- STALL: the event loop stands still for 2 s, while the media thread goes on.
- COUNT: the number of asyncio tasks and threads goes into the file `tasks.json` of the working directory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kallglot_ari.cli import main
from kallglot_ari.clock import SystemClock

AHEAD, BACK, STALL, COUNT = (signal.SIGRTMIN + n for n in range(4))
STALL_SECONDS = 2.0
COUNTED = "tasks.json"

_off = timedelta(0)


def _jump(by: timedelta) -> None:
    global _off
    _off += by


def _wall(_: SystemClock) -> datetime:
    return datetime.now(UTC) + _off


def _count(*_: object) -> None:
    gc.collect()
    tasks = sorted(task.get_name() for task in asyncio.all_tasks(asyncio.get_running_loop()))
    part = Path(f"{COUNTED}.part")
    part.write_text(json.dumps({"tasks": tasks, "threads": threading.active_count()}))
    part.rename(COUNTED)


if __name__ == "__main__":
    SystemClock.wall = _wall  # type: ignore[method-assign,assignment]
    signal.signal(AHEAD, lambda *_: _jump(timedelta(hours=1)))
    signal.signal(BACK, lambda *_: _jump(timedelta(hours=-2)))
    signal.signal(STALL, lambda *_: time.sleep(STALL_SECONDS))
    signal.signal(COUNT, _count)
    sys.exit(main())
