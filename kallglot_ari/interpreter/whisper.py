"""Recognition by faster-whisper: the model in a worker process, and the Recogniser in the service that asks it.

Whisper always listens to 30 s; most turns of a telephone call are shorter than 8. The encoder is given a window of the turn's own
size, which makes it four times as fast; where the decoder then begins to loop, or stops in the middle, the whole window is tried.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import to_little_endian
from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.languages import AUTO
from kallglot_ari.interpreter.lockfile import locked
from kallglot_ari.interpreter.pool import WorkerPool
from kallglot_ari.interpreter.protocols import Recognition, Sound

RATE = 16000
WINDOWS = (1000, 1500, 3000)
"""Encoder windows, in frames of 10 ms. Below 1000 the decoder loops too often."""
ROOM = 100
"""Silence that a window must leave after the speech, in frames."""
BEAM = 5
MAX_COMPRESSION = 2.2
"""Text that zlib makes this much smaller repeats itself."""
NO_SPEECH = 0.8
"""A short window makes the model doubt speech more than the whole one does, and voice activity has heard some already."""
GUESS = -1.2
"""With `NO_SPEECH`, a mean log probability under this is nothing."""
NONSENSE = -1.8
"""Under this it is nothing in any case."""
SLOWEST, AROUND = 9, 0.5
"""Bytes of text a second of speech below which some of it is missing, and the seconds of a turn's sound that are none (`ears`)."""
FASTEST = 15
"""Characters a second from which a sentence that is there twice was said once."""
STOCK = re.compile(
    r"untertitel|amara\.org|subtitles? by|sous-titr|subtítulos|thanks for watching|thank you for watching|copyright|www\.",
    re.IGNORECASE,
)
"""What Whisper's training data taught it to say when nobody speaks."""


def compression(text: str) -> float:
    """How many times smaller zlib makes it."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def loops(text: str) -> bool:
    """The decoder got stuck: a phrase three times in a row, or one character for ever."""
    return (
        compression(text) > MAX_COMPRESSION
        or re.search(r"(\S)\1{9}", text) is not None
        or re.search(r"(\b\S.{3,80}?)(?:[\s,.!?-]+\1){2}", text) is not None
    )


def breaks_off(text: str, seconds: float) -> bool:
    """Nobody speaks as slowly: the decoder has stopped before the end of so many seconds of sound."""
    return len(text.encode()) < SLOWEST * (seconds - AROUND)


def unloop(text: str) -> str:
    """What was said before it began to repeat."""
    text = re.sub(r"(\S)\1{9,}", r"\1", text)
    return re.sub(r"(\b\S.{3,80}?)(?:[\s,.!?-]+\1){2,}.*", r"\1", text).strip()


def undouble(text: str, seconds: float) -> str:
    """The short windows make the decoder say a sentence once more, where nobody could have spoken so fast."""
    twice = re.fullmatch(r"(\S.{6,}\w)([.!?]?)\s+\1[.!?]?", text, re.IGNORECASE)
    return twice[1] + twice[2] if twice and len(text) > FASTEST * seconds else text


class WhisperHost:
    """In the worker: CTranslate2's Whisper with faster-whisper's features and tokens."""

    lanes = 1

    def __init__(self, config: dict[str, Any]) -> None:
        """:raises InterpreterError: naming the extra or the model."""
        folder = Path(config["model"])
        try:
            import ctranslate2
            from faster_whisper import WhisperModel
            from faster_whisper.tokenizer import Tokenizer
        except ImportError as error:
            raise InterpreterError(
                f"recognition: faster-whisper is not installed ({error.name}); pip install 'kallglot-ari[recognise]'"
            ) from None
        if not (folder / "model.bin").exists():
            instead = "set interpreter.recogniser to a name of `models list` or a folder"
            advice = "kallglot-ari models fetch" if folder.name in locked() else instead
            raise InterpreterError(f"recognition: no model in {folder}; {advice}")
        try:
            self._model: Any = WhisperModel(
                str(folder), device="cpu", compute_type="int8", cpu_threads=int(config.get("threads", 2)),
                num_workers=1, local_files_only=True,
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError) as error:
            raise InterpreterError(
                f"recognition: the model in {folder} cannot be loaded ({error}); kallglot-ari models fetch --verify"
            ) from None
        self._storage: Any = ctranslate2.StorageView
        self._tokenizer: Any = Tokenizer
        self._tokenizers: dict[str, Any] = {}
        self._languages = frozenset(config.get("languages", ()))
        self._one(np.zeros(RATE, dtype=np.float32), "en", 1, WINDOWS[0])

    def handle(self, header: dict[str, Any], blob: bytes, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """`blob` is 16-bit PCM at `rate`; answers text, language, probability, confidence and milliseconds."""
        began = time.monotonic()
        audio = _upsample(np.frombuffer(blob, dtype="<i2").astype(np.float32) / np.float32(32768), int(header["rate"]))
        language, probability = header["language"], 1.0
        window = next((w for w in WINDOWS if audio.size // 160 + ROOM <= w), WINDOWS[-1])
        if language == AUTO:
            language, probability = self._detect(audio, window)
        beam = 1 if header.get("partial") else BEAM
        text, score, silent = self._one(audio, language, beam, window)
        unsure = loops(text) or breaks_off(text, audio.size / RATE)
        if unsure and window < WINDOWS[-1] and not header.get("partial") and not cancelled():
            text, score, silent = self._one(audio, language, beam, WINDOWS[-1])
        text = undouble(unloop(text) if loops(text) else text, audio.size / RATE)
        if (
            (silent > NO_SPEECH and score < GUESS)
            or score < NONSENSE
            or STOCK.search(text)
            or not re.search(r"\w", text)
        ):
            text = ""
        return {
            "text": text, "language": language, "probability": probability, "confidence": score,
            "ms": (time.monotonic() - began) * 1000,
        }  # fmt: skip

    def _encode(self, audio: NDArray[np.float32], window: int) -> Any:
        features = self._model.feature_extractor(audio)
        frames = np.zeros((features.shape[0], window), dtype=np.float32)
        size = min(window, features.shape[1])
        frames[:, :size] = features[:, :size]
        return self._model.model.encode(self._storage.from_array(frames[None]))

    def _detect(self, audio: NDArray[np.float32], window: int) -> tuple[str, float]:
        """The likeliest of the languages we can do something with."""
        ranking = [
            (token.strip("<|>"), probability)
            for token, probability in self._model.model.detect_language(self._encode(audio, window))[0]
        ]
        known = [entry for entry in ranking if not self._languages or entry[0] in self._languages]
        language, probability = (known or ranking)[0]
        total = sum(p for _, p in known) or 1.0
        return language, probability / total

    def _one(self, audio: NDArray[np.float32], language: str, beam: int, window: int) -> tuple[str, float, float]:
        tokenizer = self._tokenizers.get(language)
        if tokenizer is None:
            if language not in self._model.supported_languages:
                raise InterpreterError(f"recognition: the model does not know the language {language!r}")
            tokenizer = self._tokenizer(
                self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language=language
            )
            self._tokenizers[language] = tokenizer
        result = self._model.model.generate(
            self._encode(audio[: window * 160], window),
            [[*tokenizer.sot_sequence, tokenizer.no_timestamps]],
            beam_size=beam,
            max_length=min(224, 24 + int(audio.size / RATE * 9)),
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=[-1],
        )[0]
        text = tokenizer.decode([t for t in result.sequences_ids[0] if t < tokenizer.eot]).strip()
        return text, float(result.scores[0]), float(result.no_speech_prob)


def _upsample(audio: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    if rate == RATE:
        return audio
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(audio, rate, RATE)
    return resampled


class WhisperRecogniser:
    """In the service: asks the pool."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    async def recognise(self, sound: Sound, language: str, *, partial: bool = False) -> Recognition | None:
        """A `partial` one is only begun while a worker has nothing else to do."""
        if partial and not self._pool.idle:
            return None
        answer = await self._pool.run(
            {"rate": sound.sample_rate, "language": language, "partial": partial}, to_little_endian(sound.pcm)
        )
        return Recognition(
            text=str(answer["text"]),
            language=str(answer["language"]),
            language_probability=float(answer["probability"]),
            confidence=float(answer["confidence"]),
        )
