"""Translation by a local GGUF model through xllamacpp: the model in a worker process, one warm slot for each direction."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter import prompt
from kallglot_ari.interpreter.languages import Language
from kallglot_ari.interpreter.pool import WorkerPool

SLOTS = 4
"""Directions that stay warm. A direction that has to take a slot from another costs 1 to 3 s once."""
CONTEXT = 1024
"""Tokens for each slot."""
LANES = 2


class GgufHost:
    """In the worker: llama.cpp's server core, without a socket."""

    lanes = LANES

    def __init__(self, config: dict[str, Any]) -> None:
        """:raises InterpreterError: naming the extra or the model."""
        model = Path(config["model"])
        try:
            import xllamacpp
        except ImportError as error:
            raise InterpreterError(
                f"translation: xllamacpp is not installed ({error.name}); pip install 'kallglot-ari[translate]'"
            ) from None
        try:
            with model.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise InterpreterError(
                f"translation: {model} cannot be read ({error.strerror}); kallglot-ari models fetch"
            ) from None
        if magic != b"GGUF":
            raise InterpreterError(f"translation: {model} is no GGUF file; kallglot-ari models fetch --verify")
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_parallel = SLOTS
        params.n_ctx = CONTEXT * SLOTS
        params.kv_unified = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(config.get("threads", 2))
        params.cpuparams.poll = params.cpuparams_batch.poll = (
            0  # threads that spin cost 4 s a sentence on a busy machine
        )
        params.verbosity = -1
        try:
            self._server: Any = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise InterpreterError(
                f"translation: {model} cannot be loaded ({error}); kallglot-ari models fetch --verify"
            ) from None

    def handle(self, header: dict[str, Any], blob: bytes, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Continue `prompt` in `slot`; with `tokens` 0 only warm the slot up."""
        said: list[str] = []

        def take(chunk: Any) -> bool:
            for part in chunk if isinstance(chunk, list) else [chunk]:
                if "content" in part:
                    said.append(str(part["content"] or ""))
                elif part.get("choices"):
                    said.append(str(part["choices"][0].get("text") or ""))
            return cancelled()

        try:
            self._server.handle_completions(
                {
                    "prompt": header["prompt"], "n_predict": int(header["tokens"]), "temperature": 0, "stream": True,
                    "id_slot": int(header["slot"]), "cache_prompt": True, "stop": prompt.STOP,
                },
                take,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise InterpreterError(f"translation: the model failed: {error}") from None
        return {"text": "".join(said)}


class Slots:
    """Which direction is in which slot: the least recently used one gives way. Pure."""

    def __init__(self, size: int) -> None:
        self._slot: dict[tuple[str, str], int] = {}
        self._used: dict[tuple[str, str], int] = {}
        self._clock = itertools.count()
        self._size = size

    def get(self, source: str, target: str) -> int:
        key = (source, target)
        if key not in self._slot:
            if len(self._slot) < self._size:
                self._slot[key] = len(self._slot)
            else:
                oldest = min(self._used, key=self._used.__getitem__)
                self._slot[key] = self._slot.pop(oldest)
                del self._used[oldest]
        self._used[key] = next(self._clock)
        return self._slot[key]


class GgufTranslator:
    """In the service."""

    def __init__(self, pool: WorkerPool, languages: Mapping[str, Language]) -> None:
        self._pool = pool
        self._languages = languages
        self._slots = Slots(SLOTS)
        self._locks = [asyncio.Lock() for _ in range(SLOTS)]
        self._warm: dict[int, tuple[str, str]] = {}

    @property
    def name(self) -> str:
        return "llm"

    def supports(self, source: str, target: str) -> bool:
        return source in self._languages and target in self._languages and source != target

    async def prepare(self, source: str, target: str) -> None:
        slot = self._slots.get(source, target)
        async with self._locks[slot]:
            if self._warm.get(slot) == (source, target):
                return
            await self._ask(slot, prompt.table(self._languages[source], self._languages[target]), 1)
            self._warm[slot] = (source, target)

    async def translate(self, text: str, source: str, target: str) -> str:
        slot = self._slots.get(source, target)
        async with self._locks[slot]:
            question = prompt.completion(self._languages[source], self._languages[target], text)
            answer = await self._ask(slot, question, min(200, 24 + len(text)))
            self._warm[slot] = (source, target)
        return prompt.completion_answer(answer)

    async def _ask(self, slot: int, question: str, tokens: int) -> str:
        answer = await self._pool.run({"prompt": question, "slot": slot, "tokens": tokens})
        return str(answer["text"])
