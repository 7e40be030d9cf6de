"""Speech by SVOX Pico (PyPI `py-nanotts`, Apache-2.0): four of our languages in 5 MB, the synthesiser in a worker process."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.languages import Language
from kallglot_ari.interpreter.pool import WorkerPool
from kallglot_ari.interpreter.prompt import clean
from kallglot_ari.interpreter.protocols import Sound
from kallglot_ari.interpreter.voices import trimmed

RATE = 16000
VOLUME = 0.4
"""At 1 its German and Spanish clip."""
_MARKUP = re.compile(r"[<>&\\]")


class PicoHost:
    """In the worker. The library holds the GIL while it speaks, 10 to 80 ms a sentence."""

    lanes = 1

    def __init__(self, config: dict[str, Any]) -> None:
        """:raises InterpreterError: naming the extra."""
        if reason := PicoVoice.missing():
            raise InterpreterError(reason)
        import py_nanotts

        self._pico: Any = py_nanotts.NanoTTS()

    def handle(self, header: dict[str, Any], blob: bytes, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Answers with `blob`, 16-bit PCM at `RATE`."""
        try:
            return {"blob": self._pico.speak(header["text"], voice=header["voice"], volume=VOLUME)}
        except (RuntimeError, ValueError, MemoryError) as error:
            raise InterpreterError(f"speech: Pico failed: {error}") from None


class PicoVoice:
    """In the service."""

    def __init__(self, pool: WorkerPool, languages: Mapping[str, Language]) -> None:
        self._pool = pool
        self._languages = languages

    @property
    def name(self) -> str:
        return "pico"

    @staticmethod
    def missing() -> str:
        """Empty, or what to install."""
        if importlib.util.find_spec("py_nanotts"):
            return ""
        return "speech: py-nanotts is not installed; pip install 'kallglot-ari[speak]'"

    def supports(self, language: str) -> bool:
        return language in self._languages and bool(self._languages[language].pico) and not self.missing()

    async def prepare(self, language: str) -> None:
        await self.speak("1.", language)

    async def speak(self, text: str, language: str) -> Sound:
        plain = _MARKUP.sub(" ", clean(text))
        answer = await self._pool.run({"text": plain, "voice": self._languages[language].pico})
        return trimmed(Sound(np.frombuffer(answer["blob"], dtype="<i2").astype(np.int16), RATE))
