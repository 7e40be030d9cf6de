"""Translation by OPUS-MT models in CTranslate2's form: a folder for each direction, one worker process for all.

A folder `opus-mt-de-en` holds CTranslate2's `model.bin` and the model's own `source.spm` and `target.spm`
(`ct2-opus-mt-converter` and a copy of the two files make it).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.pool import WorkerPool
from kallglot_ari.interpreter.prompt import clean

NEEDED = ("model.bin", "source.spm", "target.spm")


def folders(places: list[Path]) -> dict[tuple[str, str], Path]:
    """Every direction found: each place is such a folder, or holds some."""
    found: dict[tuple[str, str], Path] = {}
    for place in places:
        for folder in (place, *sorted(place.glob("*opus-mt-*"))) if place.is_dir() else ():
            match = re.search(r"opus-mt-(?:[a-z]+-)*?([a-z]{2,3})-([a-z]{2,3})$", folder.name)
            if match and all((folder / name).exists() for name in NEEDED):
                found.setdefault((match[1], match[2]), folder)
    return found


class OpusHost:
    """In the worker: a model is loaded when its direction is first wanted."""

    lanes = 1

    def __init__(self, config: dict[str, Any]) -> None:
        """:raises InterpreterError: naming the extra."""
        try:
            import ctranslate2
            import sentencepiece
        except ImportError as error:
            raise InterpreterError(
                f"translation: {error.name} is not installed; pip install 'kallglot-ari[translate]'"
            ) from None
        self._ctranslate2: Any = ctranslate2
        self._sentencepiece: Any = sentencepiece
        self._threads = int(config.get("threads", 2))
        self._loaded: dict[str, tuple[Any, Any, Any]] = {}

    def handle(self, header: dict[str, Any], blob: bytes, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Translate `text` with the model in `folder`; an empty text only loads it."""
        model, source, target = self._load(Path(header["folder"]))
        if not header["text"]:
            return {"text": ""}
        pieces = [*source.encode(header["text"], out_type=str), "</s>"]
        result = model.translate_batch([pieces], beam_size=2, max_decoding_length=len(pieces) * 3 + 16)[0]
        return {"text": str(target.decode(result.hypotheses[0]))}

    def _load(self, folder: Path) -> tuple[Any, Any, Any]:
        key = str(folder)
        if key not in self._loaded:
            try:
                self._loaded[key] = (
                    self._ctranslate2.Translator(
                        key, device="cpu", compute_type="int8", intra_threads=self._threads, inter_threads=1
                    ),
                    self._sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm")),
                    self._sentencepiece.SentencePieceProcessor(model_file=str(folder / "target.spm")),
                )
            except (RuntimeError, ValueError, OSError) as error:
                raise InterpreterError(f"translation: the model in {folder} cannot be loaded: {error}") from None
        return self._loaded[key]


class OpusTranslator:
    """In the service."""

    def __init__(self, pool: WorkerPool, found: dict[tuple[str, str], Path]) -> None:
        self._pool = pool
        self._folders = found

    @property
    def name(self) -> str:
        return "opus-mt"

    def supports(self, source: str, target: str) -> bool:
        return (source, target) in self._folders

    async def prepare(self, source: str, target: str) -> None:
        await self._pool.run({"folder": str(self._folders[source, target]), "text": ""})

    async def translate(self, text: str, source: str, target: str) -> str:
        answer = await self._pool.run({"folder": str(self._folders[source, target]), "text": clean(text)})
        return clean(str(answer["text"]))
