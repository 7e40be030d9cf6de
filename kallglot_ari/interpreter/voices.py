"""Speech by espeak-ng and Piper: separate programs (GPL), reached over pipes only."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import json
import re
import shutil
import sys
import tempfile
import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.languages import Language
from kallglot_ari.interpreter.prompt import clean
from kallglot_ari.interpreter.protocols import Sound, Voice
from kallglot_ari.tasks import Tasks

ESPEAK_WORDS_PER_MINUTE = 130
ANSWER_SECONDS = 15.0
START_SECONDS = 60.0
_KEEP_MS = 40
"""Of the silence before speech."""


def read_wav(data: bytes) -> Sound:
    """A WAV's first channel. Programs that write to a pipe do not know the length: what the header says of it is not believed.

    :raises InterpreterError: when it is not 16-bit PCM.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise InterpreterError(f"speech: expected a WAV, found {len(data)} bytes that are none: {error}") from None
    if width != 2:
        raise InterpreterError(f"speech: expected 16-bit samples, found {8 * width}")
    body = data[data.index(b"data") + 8 :]
    pcm = np.frombuffer(body[: len(body) - len(body) % (2 * channels)], dtype="<i2").astype(np.int16)
    return Sound(pcm[::channels], rate)


def trimmed(sound: Sound) -> Sound:
    """Without the silence before the first sound: nobody should wait for it."""
    loud = np.flatnonzero(np.abs(sound.pcm.astype(np.int32)) > 200)
    if loud.size == 0:
        return sound
    start = max(0, int(loud[0]) - sound.sample_rate * _KEEP_MS // 1000)
    return Sound(sound.pcm[start:], sound.sample_rate)


class EspeakVoice:
    """espeak-ng, one short-lived process a sentence: 10 to 30 ms."""

    def __init__(self, languages: Mapping[str, Language]) -> None:
        self._languages = languages

    @property
    def name(self) -> str:
        return "espeak-ng"

    @staticmethod
    def missing() -> str:
        """Empty, or what to install."""
        if shutil.which("espeak-ng"):
            return ""
        return "speech: espeak-ng is not in PATH; on Debian: apt install espeak-ng"

    def supports(self, language: str) -> bool:
        return language in self._languages and not self.missing()

    async def prepare(self, language: str) -> None:
        await self.speak(".", language)

    async def speak(self, text: str, language: str) -> Sound:
        if reason := self.missing():
            raise InterpreterError(reason)
        try:
            process = await asyncio.create_subprocess_exec(
                "nice", "-n", "5", "espeak-ng", "-v", self._languages[language].espeak,
                "-s", str(ESPEAK_WORDS_PER_MINUTE), "--stdin", "--stdout",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise InterpreterError(f"speech: espeak-ng cannot be started: {error}") from None
        try:
            out, words = await asyncio.wait_for(process.communicate(clean(text).encode()), ANSWER_SECONDS)
        except TimeoutError:
            raise InterpreterError("speech: espeak-ng gave no answer") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode or not out:
            said = words.decode("utf-8", "replace").strip().partition("\n")[0]
            raise InterpreterError(f"speech: espeak-ng ended with {process.returncode}: {said}")
        return trimmed(read_wav(out))


class _Piper:
    """One voice, loaded in a Piper of its own: a line of text in, the name of a WAV file out."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._process: asyncio.subprocess.Process | None = None
        self._tasks = Tasks(f"interpreter.piper.{model.stem}")
        self._lock = asyncio.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def speak(self, text: str) -> Sound:
        """Who stops waiting leaves a sentence that is still spoken to its end: to load the voice again would take longer."""
        async with self._lock:
            await self._tasks.join(START_SECONDS)
            spoken = self._tasks.spawn(self._speak(text), name="speak")
            result = await asyncio.shield(spoken)
        if isinstance(result, InterpreterError):
            raise result
        return result

    async def _speak(self, text: str) -> Sound | InterpreterError:
        try:
            return await self._ask(text)
        except (TimeoutError, ConnectionError):
            await self._end()
            return InterpreterError(f"speech: Piper gave no answer for {self._model.name}")
        except InterpreterError as error:
            await self._end()
            return error
        except (OSError, ValueError) as error:  # no descriptor, memory or room; a line without end
            await self._end()
            return InterpreterError(f"speech: Piper failed for {self._model.name}: {error}")

    async def _ask(self, text: str) -> Sound:
        process = self._process if self._process and self._process.returncode is None else None
        patience = ANSWER_SECONDS if process else START_SECONDS
        if process is None:
            process = await self._start()
        assert process.stdin is not None
        process.stdin.write(clean(text).encode() + b"\n")
        file = await asyncio.wait_for(self._written(process), patience)
        data = file.read_bytes()
        file.unlink(missing_ok=True)
        return read_wav(data)

    async def _start(self) -> asyncio.subprocess.Process:
        await self._end()
        self._folder = tempfile.TemporaryDirectory(prefix="kallglot-piper-", ignore_cleanup_errors=True)
        program = [sys.executable, "-m", "piper"] if importlib.util.find_spec("piper") else ["piper"]
        self._process = await asyncio.create_subprocess_exec(
            "nice", "-n", "5", *program, "--model", str(self._model), "--output-dir", self._folder.name,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return self._process

    async def _written(self, process: asyncio.subprocess.Process) -> Path:
        assert process.stderr is not None
        last = ""
        while line := await process.stderr.readline():
            text = line.decode("utf-8", "replace").strip()
            if (found := re.search(r"(\S+\.wav)$", text)) and Path(found[1]).exists():
                return Path(found[1])
            last = text or last
        raise InterpreterError(f"speech: Piper ended ({await process.wait()}): {last[:200]}")

    async def close(self) -> None:
        await self._tasks.close()
        await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class PiperVoice:
    """Piper, one process for each language's voice."""

    def __init__(self, models: Mapping[str, Path]) -> None:
        """:param models: language to the voice's `.onnx`, whose `.onnx.json` lies beside it."""
        self._models = models
        self._voices: dict[str, _Piper] = {}

    @property
    def name(self) -> str:
        return "piper"

    @staticmethod
    def missing() -> str:
        """Empty, or what to install."""
        if importlib.util.find_spec("piper") or shutil.which("piper"):
            return ""
        return "speech: Piper is not installed; pip install 'kallglot-ari[speak]'"

    def supports(self, language: str) -> bool:
        return language in self._models and not self.missing()

    async def prepare(self, language: str) -> None:
        await self.speak("1.", language)

    async def speak(self, text: str, language: str) -> Sound:
        if reason := self.missing():
            raise InterpreterError(reason)
        voice = self._voices.setdefault(language, _Piper(self._models[language]))
        return trimmed(await voice.speak(text))

    async def close(self) -> None:
        """Stop every Piper."""
        await asyncio.gather(*(voice.close() for voice in self._voices.values()))


def piper_models(folder: Path) -> dict[str, Path]:
    """The voices in `folder`, by language: the first of each, by name."""
    found: dict[str, Path] = {}
    for model in sorted(folder.glob("**/*.onnx")):
        config = model.with_name(model.name + ".json")
        try:
            language = json.loads(config.read_text(encoding="utf-8"))["espeak"]["voice"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.setdefault(str(language).partition("-")[0], model)
    return found


class Voices:
    """The voices in order of preference."""

    def __init__(self, voices: list[Voice]) -> None:
        self._voices = voices

    @property
    def name(self) -> str:
        return "+".join(voice.name for voice in self._voices)

    def supports(self, language: str) -> bool:
        return any(voice.supports(language) for voice in self._voices)

    def voice_of(self, language: str) -> str:
        """The name of the voice that speaks it. :raises InterpreterError: nobody does."""
        return self._first(language)[0].name

    async def prepare(self, language: str) -> None:
        await self._first(language)[0].prepare(language)

    async def speak(self, text: str, language: str) -> Sound:
        """By the first voice that can. :raises InterpreterError: the last one's."""
        failure: InterpreterError | None = None
        for voice in self._first(language):
            try:
                return await voice.speak(text, language)
            except InterpreterError as error:
                failure = error
        assert failure is not None
        raise failure

    def _first(self, language: str) -> list[Voice]:
        found = [voice for voice in self._voices if voice.supports(language)]
        if not found:
            raise InterpreterError(
                f"speech: no voice for {language!r}; pip install 'kallglot-ari[speak]', or on Debian: apt install espeak-ng"
            )
        return found
