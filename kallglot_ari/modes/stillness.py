"""What of the machine explains a hole in all calls at once: the process stood still, or the clock was set."""

from __future__ import annotations

import asyncio

from kallglot_ari import log
from kallglot_ari.clock import Clock

EVERY = 1.0
"""Seconds between two looks at the clocks."""
STILL = 1.0
"""Seconds that the event loop may be late before it is told: what it does by itself takes a tenth of that at most."""
SET = 1.0
"""Seconds that the wall clock may go otherwise than the monotonic one. A suspended machine shows here, for both stop in its sleep."""

_log = log.get(__name__)


async def watch(clock: Clock) -> None:
    """Look until cancelled."""
    while True:
        now, wall = clock.now(), clock.wall()
        await asyncio.sleep(EVERY)
        passed = clock.now() - now
        if passed - EVERY > STILL:
            _log.warning("stood_still", seconds=round(passed - EVERY, 1))
        stepped = (clock.wall() - wall).total_seconds() - passed
        if abs(stepped) > SET:
            _log.warning("clock_set", seconds=round(stepped, 1))
