"""The thread that owns the tick."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from kallglot_ari.clock import Clock
from kallglot_ari.media.plane import PHASES, TICK, Command, Plane, Report
from kallglot_ari.rtp.pacer import Deadlines

log = logging.getLogger(__name__)

_CATCH_UP = 3 * PHASES
"""Ticks made good after a stall; the rest is skipped."""
_IDLE = 0.5
"""Seconds between looks at the socket while there is no leg."""
_NICE = -10
_SWITCH = 0.001
"""Seconds after which a thread that wants to run gets to, Python's default being 5 ms."""


class Worker:
    """Runs a `Plane` against absolute deadlines until told to stop. `deliver` is called on the worker's thread."""

    def __init__(self, plane: Plane, clock: Clock, deliver: Callable[[Report], None]) -> None:
        self.plane = plane
        self._clock = clock
        self._deliver = deliver
        self._commands: deque[Command] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._idle = True
        self._thread = threading.Thread(target=self._run, name="kallglot-media", daemon=True)

    def start(self) -> None:
        # the event loop holds the interpreter's lock for as long as it has work, or for this long if the tick waits for it
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH))
        self._thread.start()

    def command(self, name: str, args: tuple[Any, ...]) -> None:
        """Run a command of the plane at the next tick; from any thread."""
        self._commands.append((name, args))
        if self._idle:
            self._wake.set()

    def stop(self) -> None:
        """End the thread; returns when it has ended, which takes a tick."""
        self._stopping = True
        self._wake.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        if hasattr(os, "setpriority"):
            with contextlib.suppress(OSError):  # only root may; without it the tick still runs, only less punctually
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        deadlines = Deadlines(TICK, self._clock.now(), catch_up=_CATCH_UP)
        while not self._stopping:
            if self.plane.idle and not self._commands:
                self._rest()
                deadlines = Deadlines(TICK, self._clock.now(), catch_up=_CATCH_UP)
                continue
            wait = deadlines.next - self._clock.now()
            if wait > 0:
                time.sleep(wait)
                continue
            self._beats(deadlines)
        while self._commands:
            self._execute(self._clock.now())
        report = self.plane.take(everything=True)
        if report is not None:
            self._deliver(report)

    def _beats(self, deadlines: Deadlines) -> None:
        due = deadlines.next
        now = self._clock.now()
        beats, skipped = deadlines.due(now)
        try:
            self._execute(now)
            for beat in range(beats):
                self.plane.report.lateness.append(max(0.0, now - due - beat * TICK))
                self.plane.tick(now, skipped=skipped if beat == 0 else 0)
        except Exception:
            log.exception("media_tick_failed")
            self.plane.report.discarded["tick_failed"] += 1
        report = self.plane.take()
        if report is not None:
            self._deliver(report)

    def _execute(self, now: float) -> None:
        self.plane.execute(self._commands, now)

    def _rest(self) -> None:
        self._idle = True
        if not self._commands and not self._stopping:
            self._wake.wait(_IDLE)
        self._wake.clear()
        self._idle = False
        if self._commands:  # what has come may be for a leg that is just being opened
            return
        self.plane.receive(self._clock.now())
        report = self.plane.take()
        if report is not None:
            self._deliver(report)
