"""Who hears whom, told by tones: each party says one of its own, and its translation is that tone, higher by what the language adds.

All sums differ by 78 Hz at least.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np

from kallglot_ari.lab.phones import Phone
from kallglot_ari.tasks import Tasks
from tests.audio_checks import dominant_frequency, tone, tone_presence
from tests.double.g711 import Pcm
from tests.double.server import KallglotDouble
from tests.double.session import DoubleSession

HZ = {"customer": 431.0, "agent": 601.0, "agent2": 797.0, "agent3": 967.0, "phone01": 1153.0}
SHIFT = {"de": 1000.0, "en": 1444.0, "fr": 1888.0}
KNOWN = {hz + more for hz in HZ.values() for more in (0.0, *SHIFT.values())}
RATE = 8000


class Interpreter:
    """Listens to every session of a double; while a speaker says its tone, it says that tone's translation."""

    def __init__(self, double: KallglotDouble) -> None:
        self._double = double
        self._tasks = Tasks("interpreter")

    async def __aenter__(self) -> Interpreter:
        self._tasks.spawn(self._run(), name="run")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()

    async def _run(self) -> None:
        """100 ms at a time, in real time."""
        chunks: dict[tuple[str, str], int] = {}
        spoken: dict[tuple[str, str], int] = {}
        due = time.monotonic()
        while True:
            for session in self._double.open_sessions:
                for speaker, audio in list(session.audio.items()):
                    key, count = (session.id, speaker), len(audio.arrivals)
                    if session.connected and key in chunks and count > chunks[key] and (hz := _said(audio.latest(800))):
                        await self._say(session, speaker, hz, spoken.get(key, 0))
                        spoken[key] = spoken.get(key, 0) + RATE // 10
                    chunks[key] = count
            due += 0.1
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _say(self, session: DoubleSession, speaker: str, hz: float, position: int) -> None:
        into = "target_language" if speaker.startswith("customer") else "source_language"
        hz += SHIFT[str(session.request[into])]
        await session.speak(speaker, tone(hz, 0.1, RATE, phase=2 * np.pi * hz * position / RATE), burst=True)


def _said(pcm: Pcm) -> float | None:
    found = dominant_frequency(pcm, RATE) if np.any(pcm) else 0.0
    return next((hz for hz in HZ.values() if abs(hz - found) < 15), None)


async def hears(phone: Phone, wanted: set[float], *, timeout: float = 12, seconds: float = 0.6) -> None:
    """Wait until the phone hears all tones of `wanted`, and of all others that are known none, for `seconds` on end."""
    deadline = time.monotonic() + timeout
    while True:
        await asyncio.sleep(0.2)
        heard = phone.recording.since(time.monotonic() - seconds - 0.1)
        there = {hz for hz in KNOWN | wanted if share(heard.samples, heard.rate, hz) > 0.03}
        if there == wanted and len(heard.samples) > 0.8 * seconds * heard.rate:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{phone.name} should hear {sorted(wanted)} Hz, hears {sorted(there)} Hz")


def share(pcm: Pcm, rate: int, hz: float) -> float:
    """How much of the power lies at `hz` in most windows of 50 ms."""
    if len(pcm) < rate // 20 or not np.any(pcm):
        return 0.0
    return float(np.median(tone_presence(pcm, rate, hz, window_ms=50)))
