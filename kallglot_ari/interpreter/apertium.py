"""Translation by Apertium (a separate program, GPL): its pipeline of processes is kept running, 2 to 5 ms a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.languages import Language

MODES = (Path("/usr/share/apertium/modes"), Path("/usr/local/share/apertium/modes"))
ANSWER_SECONDS = 5.0
END = "[][\n]"
"""A superblank: Apertium's own way to say that a text ends here."""
_SPECIAL = re.compile(r"([\\^$\[\]{}/@<>])")

_WRITTEN = re.compile(r"\\(.)|\[(?:\\.|[^\]\\])*\]", re.DOTALL)


def escape(text: str) -> str:
    """Text for Apertium's stream format, whose special characters need a backslash."""
    return _SPECIAL.sub(r"\\\1", text.replace("\0", " "))


def unescape(text: str) -> str:
    """The opposite, with the superblanks taken out and spaces put in order."""
    plain = _WRITTEN.sub(lambda match: match[1] if match[1] is not None else " ", text)
    return re.sub(r"\s+", " ", plain).strip()


def pipeline(mode: str) -> str:
    """A shell pipeline for a mode file's content, each part flushing at NUL, unknown words left as they are."""
    parts = []
    for part in mode.strip().split("|"):
        words = ["-n" if word == "$1" else word for word in shlex.split(part) if word != "$2"]
        if not words:
            raise InterpreterError("apertium: a mode file with an empty part in its pipeline")
        parts.append(shlex.join([words[0], "-z", *words[1:]]))
    return " | ".join(parts)


class _Pair:
    """One running pipeline."""

    def __init__(self, name: str, mode: Path) -> None:
        self._name = name
        self._mode = mode
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def translate(self, text: str) -> str:
        async with self._lock:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write((escape(text) + END).encode() + b"\0")
                answer = await asyncio.wait_for(process.stdout.readuntil(b"\0"), ANSWER_SECONDS)
            except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
                await self.close()
                raise InterpreterError(f"apertium: {self._name} gave no answer") from None
            except asyncio.CancelledError:
                await self.close()  # its answer would be taken for the next one's
                raise
            return unescape(answer[:-1].decode("utf-8", "replace"))

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            try:
                command = pipeline(self._mode.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InterpreterError(f"apertium: {self._mode} cannot be read: {error}") from None
            try:
                self._process = await asyncio.create_subprocess_exec(
                    "nice", "-n", "10", "sh", "-c", command,
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
            except (OSError, ValueError) as error:
                raise InterpreterError(f"apertium: {self._name} cannot be started: {error}") from None
        return self._process

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()


class ApertiumTranslator:
    """The installed pairs."""

    def __init__(self, languages: Mapping[str, Language], folders: tuple[Path, ...] = MODES) -> None:
        self._languages = languages
        self._folders = folders
        self._pairs: dict[tuple[str, str], _Pair] = {}

    @property
    def name(self) -> str:
        return "apertium"

    def _mode(self, source: str, target: str) -> Path | None:
        names = [f"{source}-{target}.mode"]
        ours, theirs = self._languages.get(source), self._languages.get(target)
        if ours and theirs and ours.apertium and theirs.apertium:
            names.append(f"{ours.apertium}-{theirs.apertium}.mode")
        return next((folder / name for folder in self._folders for name in names if (folder / name).exists()), None)

    def supports(self, source: str, target: str) -> bool:
        return self._mode(source, target) is not None

    async def prepare(self, source: str, target: str) -> None:
        await self.translate(".", source, target)

    async def translate(self, text: str, source: str, target: str) -> str:
        pair = self._pairs.get((source, target))
        if pair is None:
            mode = self._mode(source, target)
            if mode is None:
                raise InterpreterError(f"apertium: no pair {source}-{target}; on Debian: apt install apertium-…")
            pair = self._pairs[source, target] = _Pair(mode.stem, mode)
        return await pair.translate(text)

    async def close(self) -> None:
        """Stop every pipeline."""
        await asyncio.gather(*(pair.close() for pair in self._pairs.values()))
