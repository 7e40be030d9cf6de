"""The engine behind the embedded Kallglot: one set of models for every session, and a session for every call."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from kallglot_ari import log
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.clock import Clock
from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter import languages as language_table
from kallglot_ari.interpreter import vad
from kallglot_ari.interpreter.apertium import ApertiumTranslator
from kallglot_ari.interpreter.chain import Chain
from kallglot_ari.interpreter.context import Context, Engines, Sink
from kallglot_ari.interpreter.endpoint import EndpointTranslator
from kallglot_ari.interpreter.gguf import LANES, GgufTranslator
from kallglot_ari.interpreter.languages import AUTO, Language
from kallglot_ari.interpreter.lockfile import locked, models_dir
from kallglot_ari.interpreter.opus import OpusTranslator
from kallglot_ari.interpreter.opus import folders as opus_folders
from kallglot_ari.interpreter.pico import PicoVoice
from kallglot_ari.interpreter.pool import WorkerPool
from kallglot_ari.interpreter.protocols import Translator, Voice
from kallglot_ari.interpreter.speaker import Speaker
from kallglot_ari.interpreter.voices import EspeakVoice, PiperVoice, Voices, piper_models
from kallglot_ari.interpreter.whisper import WhisperRecogniser
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import InterpreterSettings
from kallglot_ari.tasks import Tasks

RECOGNISER_PREFIX = "whisper-"
DEFAULT_GGUF = "qwen2.5-coder-1.5b-instruct"
BACKLOG = 8
"""Requests that may wait before a pool of workers, over all sessions."""
_log = log.get(__name__)


class OfflineSession:
    """One session; fits the sandbox's `EngineSession`."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._speakers: dict[str, Speaker] = {}
        self._tasks = Tasks(f"interpreter.{context.session_id}")
        self._own_voice = False
        self._tasks.spawn(self._prepare(), name="prepare")

    async def _prepare(self) -> None:
        """Warm both directions while the phones still ring; what cannot be had is said at once."""
        context = self.context
        source, target = (language_table.base(code) for code in (context.source_language, context.target_language))
        steps = []
        if AUTO not in (source, target) and source != target:
            steps += [context.chain.prepare(source, target), context.chain.prepare(target, source)]
        known = [code for code in dict.fromkeys((source, target)) if context.chain.knows(code)]
        steps += [context.voice.prepare(code) for code in known]
        for result in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(result, InterpreterError):
                self._cannot(str(result))
            elif isinstance(result, Exception):
                _log.error("prepare_crashed", session=context.session_id, exc_info=result)
                self._cannot(f"{type(result).__name__}, see the log")
            elif isinstance(result, BaseException):
                raise result

    def _cannot(self, reason: str) -> None:
        self.context.problem("interpreter_unavailable", reason)
        self._own_voice = True
        for speaker in self._speakers.values():
            speaker.own_voice = True

    def feed(self, speaker: str, audio: StreamAudio, timestamp_ms: int) -> None:
        """Take a chunk; neither blocks nor raises."""
        party = self._speakers.get(speaker)
        if party is None:
            party = self._speakers[speaker] = Speaker(speaker, self.context, own_voice=self._own_voice)
        party.feed(audio, timestamp_ms)

    async def close(self) -> None:
        """Take back whatever is under way."""
        await asyncio.gather(self._tasks.close(), *(speaker.close() for speaker in self._speakers.values()))


class OfflineEngine:
    """Fits the sandbox's `EngineFactory`; owns worker processes and programs until `close`."""

    def __init__(self, settings: InterpreterSettings, metrics: Metrics, clock: Clock) -> None:
        """:raises InterpreterError: for a configuration that cannot work whatever is installed."""
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._folder = models_dir(settings)
        self.languages: Mapping[str, Language] = language_table.load(self._folder)
        threads = max(1, min(4, (os.cpu_count() or 2) // settings.workers))
        self._whisper = self._pool(
            "recogniser", {"engine": "whisper", "model": str(self._recogniser_folder()), "threads": threads,
                           "languages": sorted(self.languages)}, settings.workers, 1,
        )  # fmt: skip
        self._gguf = self._pool(
            "llm", {"engine": "gguf", "model": str(self._gguf_file()), "threads": threads}, 1, LANES
        )
        self._opus = self._pool("opus-mt", {"engine": "opus-mt", "threads": threads}, 1, 1)
        self._apertium = ApertiumTranslator(self.languages)
        self._endpoint = self._make_endpoint()
        self._pico = self._pool("pico", {"engine": "pico"}, 1, 1)
        self._piper = PiperVoice(piper_models(self._folder))
        self.recogniser = WhisperRecogniser(self._whisper)
        self.chain = Chain(self._translators(), self.languages, metrics)
        self.voice = Voices(self._voices())
        self._engines = Engines(vad.SileroVoiceActivity, self.recogniser, self.chain, self.voice)

    def __call__(
        self,
        *,
        session_id: str,
        mode: str,
        source_language: str,
        target_language: str,
        metadata: Mapping[str, str],
        sink: Sink,
    ) -> OfflineSession:
        """A session's side. Nothing that is missing keeps a call from being connected."""
        return OfflineSession(
            Context(
                session_id,
                mode,
                source_language,
                target_language,
                dict(metadata),
                self._engines,
                sink,
                self._clock,
                self._metrics,
            )
        )

    @property
    def pids(self) -> list[int]:
        """The worker processes that run."""
        return [*self._whisper.pids, *self._gguf.pids, *self._opus.pids, *self._pico.pids]

    async def warm(self, *directions: tuple[str, str]) -> None:
        """Load what is used by every call, and these directions. :raises InterpreterError: for what cannot be had."""
        await self._whisper.warm()
        for source, target in directions:
            await self.chain.prepare(source, target)
            await self.voice.prepare(target)

    async def close(self) -> None:
        """Stop every process."""
        await asyncio.gather(
            self._whisper.close(), self._gguf.close(), self._opus.close(), self._pico.close(), self._apertium.close(),
            self._piper.close(), *([self._endpoint.close()] if self._endpoint else []),
        )  # fmt: skip

    def check(self, *directions: tuple[str, str]) -> list[str]:
        """A line for everything that is missing, each saying what to do; empty when calls in `directions` can be translated."""
        lines = [line for line in (vad.missing(),) if line]
        if find_spec("faster_whisper") is None:
            lines.append("recognition: faster-whisper is not installed; pip install 'kallglot-ari[recognise]'")
        folder = self._recogniser_folder()
        model = locked().get(folder.name) if folder.parent == self._folder else None
        if model and (problem := model.problem(self._folder)):
            lines.append(f"recognition: model {model.name}: {problem}; kallglot-ari models fetch {model.name}")
        elif not (folder / "model.bin").is_file():
            lines.append(
                f"recognition: no model in {folder}; set interpreter.recogniser to a name of `models list` or a folder"
            )
        for source, target in directions or (("de", "en"), ("en", "de")):
            lines += self._check_direction(source, target)
        return list(dict.fromkeys(lines))

    def _check_direction(self, source: str, target: str) -> list[str]:
        unknown = [code for code in (source, target) if code not in self.languages]
        if unknown:
            return [
                f"unknown language {unknown[0]!r}: expected one of {', '.join(self.languages)}, or add it to {self._folder / 'languages.toml'}"
            ]
        lines = []
        usable = [
            found for found in self.chain.candidates(source, target) if found.name != "llm" or not self._gguf_problem()
        ]
        if not usable:
            lines.append(
                self._gguf_problem()
                or f"translation: nothing translates {source} to {target} with translator = {self._settings.translator!r}"
            )
        if not self.voice.supports(target):
            lines.append(EspeakVoice.missing() or f"speech: no voice for {target!r}; kallglot-ari models fetch")
        return lines

    def _gguf_problem(self) -> str:
        if self._settings.translator not in ("auto", "llm"):
            return ""
        if not importlib.util.find_spec("xllamacpp"):
            return "translation: xllamacpp is not installed; pip install 'kallglot-ari[translate]'"
        file = self._gguf_file()
        model = locked()[DEFAULT_GGUF]
        if file.parent == model.folder(self._folder):
            problem = model.problem(self._folder)
            return (
                f"translation: model {model.name}: {problem}; kallglot-ari models fetch {model.name}" if problem else ""
            )
        return "" if file.is_file() else f"translation: interpreter.translator_model: {file} is no file"

    def _pool(self, name: str, config: dict[str, object], size: int, lanes: int) -> WorkerPool:
        return WorkerPool(name, config, size=size, lanes=lanes, limit=BACKLOG, metrics=self._metrics, clock=self._clock)

    def _recogniser_folder(self) -> Path:
        name = self._settings.recogniser
        if "/" in name or Path(name).is_dir():
            return Path(name).expanduser()
        return self._folder / (name if name in locked() else RECOGNISER_PREFIX + name)

    def _gguf_file(self) -> Path:
        if self._settings.translator_model.endswith(".gguf"):
            return Path(self._settings.translator_model).expanduser()
        model = locked()[DEFAULT_GGUF]
        return model.folder(self._folder) / model.files[0].name

    def _make_endpoint(self) -> EndpointTranslator | None:
        settings = self._settings
        if not settings.translator_url:
            return None
        return EndpointTranslator(
            settings.translator_url,
            settings.translator_model,
            settings.translator_api_key.get_secret_value(),
            self.languages,
        )

    def _translators(self) -> list[Translator]:
        """`auto`: what was pointed at by hand, OPUS-MT folders, the local model if it is here, Apertium where it has the pair."""
        places = [self._folder, *([Path(self._settings.translator_model)] if self._settings.translator_model else [])]
        every: dict[str, Translator | None] = {
            "openai": self._endpoint,
            "opus-mt": OpusTranslator(self._opus, opus_folders(places)),
            "llm": GgufTranslator(self._gguf, self.languages),
            "apertium": self._apertium,
        }
        wanted: list[str] = list(every) if self._settings.translator == "auto" else [self._settings.translator]
        if self._settings.translator == "auto" and self._gguf_problem():
            wanted.append(wanted.pop(wanted.index("llm")))
        return [translator for name in wanted if (translator := every[name]) is not None]

    def _voices(self) -> list[Voice]:
        every: list[Voice] = [self._piper, PicoVoice(self._pico, self.languages), EspeakVoice(self.languages)]
        return [voice for voice in every if self._settings.voice in ("auto", voice.name)]
