"""Who hears whom, told by tones: each party says one of its own, and the interpreter says it back 200 Hz higher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import numpy as np

from kallglot_ari.lab.phones import Phone
from kallglot_ari.tasks import Tasks
from tests.audio_checks import dominant_frequency, tone, tone_presence
from tests.double.server import KallglotDouble
from tests.double.session import DoubleSession

SHIFT_HZ = 200.0
RATE = 8000


class Interpreter:
    """Listens to every session of a double; while a speaker says a tone, it says that tone plus 200 Hz as the translation."""

    def __init__(self, double: KallglotDouble, tones: Mapping[str, float]) -> None:
        self._double = double
        self._tones = list(tones.values())
        self._tasks = Tasks("interpreter")

    async def __aenter__(self) -> Interpreter:
        self._tasks.spawn(self._run(), name="run")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()

    async def _run(self) -> None:
        """100 ms at a time, in real time."""
        said: dict[tuple[str, str], int] = {}
        phase: dict[tuple[str, str], int] = {}
        due = time.monotonic()
        while True:
            for session in self._double.open_sessions:
                for speaker, audio in list(session.audio.items()):
                    if not session.connected:
                        continue
                    key = session.id, speaker
                    samples = sum(arrival.samples for arrival in audio.arrivals)
                    if key in said and samples > said[key] and (hz := self._heard(audio.pcm[-800:])):
                        await self._say(session, speaker, hz, phase.get(key, 0))
                        phase[key] = phase.get(key, 0) + RATE // 10
                    said[key] = samples
            due += 0.1
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _heard(self, pcm: np.ndarray) -> float | None:
        found = dominant_frequency(pcm, RATE) if np.any(pcm) else 0.0
        return next((hz for hz in self._tones if abs(hz - found) < 15), None)

    async def _say(self, session: DoubleSession, speaker: str, hz: float, position: int) -> None:
        whole = tone(hz + SHIFT_HZ, 0.1, RATE, phase=2 * np.pi * (hz + SHIFT_HZ) * position / RATE, level_dbfs=-20)
        await session.speak(speaker, whole, burst=True)


async def hears(
    phone: Phone, wanted: set[float], known: set[float], *, timeout: float = 10, seconds: float = 0.6
) -> None:
    """Wait until the phone hears all tones of `wanted` and none else of `known`, for `seconds` on end."""
    deadline = time.monotonic() + timeout
    others = known - wanted
    while True:
        await asyncio.sleep(0.2)
        heard = phone.recording.since(time.monotonic() - seconds - 0.1)
        there = {hz for hz in wanted | others if share(heard.samples, heard.rate, hz) > 0.04}
        if there == wanted and len(heard.samples) > 0.8 * seconds * heard.rate:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{phone.name} should hear {sorted(wanted)} Hz, hears {sorted(there)} Hz")


def share(pcm: np.ndarray, rate: int, hz: float) -> float:
    """How much of the power of the loud half of the windows lies at `hz`, in windows of 50 ms."""
    if len(pcm) < rate // 20 or not np.any(pcm):
        return 0.0
    presence = tone_presence(pcm, rate, hz, window_ms=50)
    return float(np.median(presence))
