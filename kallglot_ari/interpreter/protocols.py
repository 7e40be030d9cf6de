"""The interpreter's four parts, each a small Protocol; any engine that fits can stand behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import Pcm


@dataclass(frozen=True, slots=True)
class Sound:
    """Mono samples, shape (n,), and their rate in Hz."""

    pcm: Pcm
    sample_rate: int

    @property
    def seconds(self) -> float:
        return self.pcm.size / self.sample_rate


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was said. `text` is empty when it was no speech."""

    text: str
    language: str
    """ISO 639-1, the one asked for or the one detected."""
    language_probability: float = 1.0
    confidence: float = 0.0
    """Mean log probability of a token: 0 is certain, below -1 is guessed."""


class VoiceActivity(Protocol):
    """Tells speech from everything else, window by window; one for each speaker, for it remembers."""

    @property
    def window(self) -> int:
        """Samples of a window: 32 ms."""
        ...

    def probability(self, window: NDArray[np.float32]) -> float:
        """0 to 1 that there is speech in `window`, shape (window,), full scale 1.0. Well under a millisecond."""
        ...


class Recogniser(Protocol):
    """Speech to text."""

    async def recognise(self, sound: Sound, language: str, *, partial: bool = False) -> Recognition | None:
        """What `sound` says in `language` (`auto`: detect).

        A `partial` one gives way: None when there is no room for it now. :raises InterpreterError:
        """
        ...


class Translator(Protocol):
    """Text to text."""

    @property
    def name(self) -> str: ...

    def supports(self, source: str, target: str) -> bool: ...

    async def prepare(self, source: str, target: str) -> None:
        """Have this direction ready, so that the first sentence does not wait. :raises InterpreterError:"""
        ...

    async def translate(self, text: str, source: str, target: str) -> str:
        """One sentence. It is data: whatever it asks for is translated, never done. :raises InterpreterError:"""
        ...


class Voice(Protocol):
    """Text to speech."""

    @property
    def name(self) -> str: ...

    def supports(self, language: str) -> bool: ...

    async def prepare(self, language: str) -> None:
        """Have the voice ready. :raises InterpreterError:"""
        ...

    async def speak(self, text: str, language: str) -> Sound:
        """One sentence, aloud. :raises InterpreterError:"""
        ...
