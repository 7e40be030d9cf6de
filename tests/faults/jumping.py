"""`python -m tests.faults.jumping serve`: the service, with a wall clock that jumps an hour ahead at SIGUSR1 and two back at SIGUSR2."""

from __future__ import annotations

import signal
import sys
from datetime import UTC, datetime, timedelta

from kallglot_ari.cli import main
from kallglot_ari.clock import SystemClock

_off = timedelta(0)


def _jump(by: timedelta) -> None:
    global _off
    _off += by


def _wall(_: SystemClock) -> datetime:
    return datetime.now(UTC) + _off


SystemClock.wall = _wall  # type: ignore[method-assign,assignment]
signal.signal(signal.SIGUSR1, lambda *_: _jump(timedelta(hours=1)))
signal.signal(signal.SIGUSR2, lambda *_: _jump(timedelta(hours=-2)))
sys.exit(main())
