"""Which translator takes a direction, and what happens when its answer cannot be trusted."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence

from kallglot_ari import log
from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.check import append_numbers, check
from kallglot_ari.interpreter.languages import Language
from kallglot_ari.interpreter.pool import Overloaded
from kallglot_ari.interpreter.protocols import Translator
from kallglot_ari.metrics import Metrics

_ABBREVIATIONS = re.compile(
    r"\b(?:[A-Za-zÄÖÜ]|Dr|Hr|Fr|Mr|Mrs|Ms|St|Sr|Sra|Nr|No|Mme|M|ca|bzw|usw|etc|Str|Tel)\.$|\d\.$"
)
_log = log.get(__name__)


def sentences(text: str) -> list[str]:
    """The sentences of a turn, so that the first can be heard while the next is translated.

    Abbreviations and ordinals (`3. Mai`) end none.
    """
    parts: list[str] = []
    for piece in re.split(r"(?<=[.!?…])\s+", text.strip()):
        if parts and (_ABBREVIATIONS.search(parts[-1]) or len(parts[-1]) < 4):
            parts[-1] += " " + piece
        elif piece:
            parts.append(piece)
    return parts


class Chain:
    """Translators in order of preference."""

    def __init__(self, translators: Sequence[Translator], languages: Mapping[str, Language], metrics: Metrics) -> None:
        self._translators = translators
        self._languages = languages
        self._metrics = metrics

    def candidates(self, source: str, target: str) -> list[Translator]:
        return [translator for translator in self._translators if translator.supports(source, target)]

    async def prepare(self, source: str, target: str) -> None:
        """Have the first choice ready, or the first that can be. :raises InterpreterError: when nobody translates this direction."""
        failure: InterpreterError | None = None
        for translator in self._candidates(source, target):
            try:
                return await translator.prepare(source, target)
            except InterpreterError as error:
                failure = failure or error
                _log.warning("translator_failed", translator=translator.name, reason=str(error))
        assert failure is not None
        raise failure

    async def translate(self, text: str, source: str, target: str) -> AsyncIterator[str]:
        """The turn's sentences, each as soon as it is translated. :raises InterpreterError:"""
        for sentence in sentences(text):
            yield await self.sentence(sentence, source, target)

    async def sentence(self, text: str, source: str, target: str) -> str:
        """One sentence, by the first translator whose answer passes the check.

        If none passes, the best of the rejected ones with the numbers said after it; if there is none, the last error.
        """
        rejected, failure = "", None
        for translator in self._candidates(source, target):
            try:
                answer = await translator.translate(text, source, target)
            except Overloaded:
                raise
            except InterpreterError as error:
                failure = error
                self._metrics.interpreter_dropped.labels("translator_failed").inc()
                _log.warning("translator_failed", translator=translator.name, reason=str(error))
                continue
            verdict = check(text, answer, self._languages[source], self._languages[target])
            if not verdict.reason:
                return verdict.text
            self._metrics.interpreter_dropped.labels("translation_rejected").inc()
            _log.info("translation_rejected", translator=translator.name, reason=verdict.reason.partition(":")[0])
            if not rejected and verdict.reason.startswith("a n"):
                rejected = verdict.text
        if rejected:
            return append_numbers(text, rejected)
        raise failure or InterpreterError(f"translation {source} to {target}: no answer could be trusted")

    def knows(self, code: str) -> bool:
        return code in self._languages

    def need(self, *codes: str) -> None:
        """:raises InterpreterError: a language that is in no table."""
        for code in codes:
            if code not in self._languages:
                raise InterpreterError(
                    f"unknown language {code!r}: expected one of {', '.join(self._languages)}, or add it to languages.toml in the models folder"
                )

    def _candidates(self, source: str, target: str) -> list[Translator]:
        self.need(source, target)
        found = self.candidates(source, target)
        if not found:
            raise InterpreterError(
                f"nothing translates {source} to {target}: kallglot-ari models fetch, or set interpreter.translator_url"
            )
        return found
