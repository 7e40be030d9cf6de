"""Six turns between two phones: who says what when, and what the other one hears of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kallglot_ari.lab.dialogue import Line
from kallglot_ari.lab.phones import Phone
from kallglot_ari.lab.recording import Recording, at_rate
from kallglot_ari.lab.verify import Verdict, speech

ARRIVE_SECONDS = 60.0
"""How long a translation may take to begin."""
QUIET_SECONDS = 1.2
"""Silence after which a translation is over."""
POLL_SECONDS = 0.1


@dataclass
class Turn:
    """One line, said and heard. Times are `time.monotonic()`."""

    number: int
    line: Line
    said_from: float
    said_to: float
    """The end of speech, without the file's trailing silence."""
    said: Recording
    heard: Recording
    """What the listener's phone played from the line's beginning to the translation's end."""
    heard_from: float | None
    heard_to: float | None
    verdict: Verdict | None = None

    @property
    def latency(self) -> float | None:
        """From the end of speech to the first sound of its translation, seconds; below 0 when it began during it."""
        return None if self.heard_from is None else self.heard_from - self.said_to

    @property
    def wait(self) -> str:
        """The latency for people: most translations begin after the speech, an echo during it."""
        if self.latency is None or self.heard_from is None:
            return "nothing heard"
        if self.latency >= 0:
            return f"{self.latency:.2f} s after its end"
        return f"{self.heard_from - self.said_from:.2f} s after its beginning"


async def converse(
    phones: dict[str, Phone], lines: list[tuple[Line, Path]], on_turn: Callable[[Turn], None]
) -> list[Turn]:
    """Let the phones say the lines in turn, each after the translation of the one before was heard."""
    turns = []
    for number, (line, path) in enumerate(lines):
        turn = await _turn(number, line, path, phones)
        turns.append(turn)
        on_turn(turn)
    return turns


async def _turn(number: int, line: Line, path: Path, phones: dict[str, Phone]) -> Turn:
    speaker, listener = phones[line.speaker], phones[line.listener]
    began, ended = await speaker.wait_spoken(await speaker.play(path), timeout=60)
    samples = await asyncio.to_thread(at_rate, path, speaker.rate, speaker.rate)
    said = Recording(began, speaker.rate, samples)
    parts = speech(said)
    said_from, said_to = (parts[0][0], parts[-1][1]) if parts else (began, ended)
    heard_from, heard_to = await _listen(listener, said_from, said_to)
    heard = listener.recording.since(said_from, (heard_to or time.monotonic()) + 0.4)
    return Turn(number, line, said_from, said_to, said, heard, heard_from, heard_to)


async def _listen(listener: Phone, since: float, said_to: float) -> tuple[float | None, float | None]:
    """Wait until the listener has heard something and then nothing for a while."""
    deadline = said_to + ARRIVE_SECONDS
    while True:
        await asyncio.sleep(POLL_SECONDS)
        now = time.monotonic()
        parts = await asyncio.to_thread(lambda: speech(listener.recording.since(since)))
        if parts and now - max(parts[-1][1], said_to) > QUIET_SECONDS:
            return parts[0][0], parts[-1][1]
        if now > deadline and not parts:
            return None, None
        if now > deadline + ARRIVE_SECONDS:
            return parts[0][0], parts[-1][1]
