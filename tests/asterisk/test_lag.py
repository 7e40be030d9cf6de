"""Translation that comes a tenth faster than it can be heard, on a real Asterisk: it stays within its bound, and the phone hears every tone of it."""

from __future__ import annotations

import asyncio
import time
from itertools import groupby

import numpy as np
import pytest

from tests.asterisk.running import LONG, until
from tests.asterisk.stage import Stage
from tests.audio_checks import dominant_frequency, tone
from tests.double.session import DoubleSession

pytestmark = [pytest.mark.asterisk, pytest.mark.phones]

TONES = (431.0, 601.0, 797.0, 967.0, 1153.0, 1747.0)
SOUNDS, PACE = 0.7, 1.1
SECONDS = 60 if LONG else 12
BOUND = 2.0


async def too_fast(session: DoubleSession) -> list[float]:
    """One tone after the other, without a pause, in pieces of 100 ms; which."""
    order = [TONES[number % len(TONES)] for number in range(round(SECONDS * PACE / SOUNDS))]
    said = np.concatenate([tone(hz, SOUNDS, 8000) for hz in order])
    begun = time.monotonic()
    for number, at in enumerate(range(0, said.size, 800)):
        await asyncio.sleep(max(0.0, begun + number * 0.1 / PACE - time.monotonic()))
        await session.speak("agent", said[at : at + 800], burst=True)
    return order


async def test_a_tenth_too_fast_stays_within_its_bound_and_is_understood(stage: Stage) -> None:
    customer, _ = await stage.call()
    session = await stage.double.wait_session()
    began = time.monotonic()
    lags: list[float] = []

    def quality() -> tuple[float, float]:
        leg = next(leg for leg in stage.service.calls()[0].legs if leg.speaker == "customer")
        return leg.quality.lag_ms / 1000, leg.quality.backlog_ms

    async def watch() -> None:
        while time.monotonic() < began + SECONDS + BOUND:
            lags.append(quality()[0])
            await asyncio.sleep(0.1)

    order, _ = await asyncio.gather(too_fast(session), watch())
    await until(lambda: quality()[1] == 0, what="all of it is heard")
    await asyncio.sleep(0.5)
    heard = customer.recording.since(began)
    size = heard.rate // 20
    blocks = [heard.samples[at : at + size] for at in range(0, heard.samples.size - size, size)]
    said = [dominant_frequency(block, heard.rate) if np.abs(block).max() > 1000 else 0.0 for block in blocks]
    near = [next((hz for hz in TONES if abs(hz - found) < 25), 0.0) for found in said]
    loud = [number for number, hz in enumerate(near) if hz]
    print(f"{SECONDS} s at {PACE}: {max(lags):.2f} s behind at most, heard within {(loud[-1] - loud[0]) / 20:.1f} s")
    assert max(lags) < BOUND
    assert [hz for hz, run in groupby(near) if hz and len(list(run)) > 3] == order
    assert near[loud[0] : loud[-1]].count(0.0) <= len(loud) // 20, "unbroken"
    await stage.over(customer)
