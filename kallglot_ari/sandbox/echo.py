"""The echo engine: says back what it heard, at once. Nothing is understood; everything else is as with a real one. Pure.

Each chunk with sound in it goes out as it came in, and so do the pauses of up to half a second within speech, so that a steady
tone comes back without a hole. Longer silence is not passed on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.calls.model import AGENT, StreamAudio, TranscriptTurn, of_customer
from kallglot_ari.sandbox.engine import EngineSink

QUIET_DBFS = -55.0
"""A 20 ms block quieter than this is silence."""
SILENCE_MS = 500
"""Silence that ends an utterance."""
PARTIAL_MS = 500
"""Speech between two partials."""
_ALONE = frozenset({"ai_agent", "help_chat_voice"})
_WIDTH = {"mulaw": 1, "alaw": 1, "pcm_16": 2, "pcm_8": 1}


def _mulaw_table() -> NDArray[np.float32]:
    codes = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (codes >> 4) & 7, codes & 15
    return ((((mantissa.astype(np.int32) << 3) + 132) << exponent) - 132).astype(np.float32) / np.float32(32768)


def _alaw_table() -> NDArray[np.float32]:
    codes = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((codes >> 4) & 7).astype(np.int32), (codes & 15).astype(np.int32)
    linear = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 264) << np.maximum(exponent - 1, 0))
    return linear.astype(np.float32) / np.float32(32768)


_TABLES: dict[str, NDArray[np.float32]] = {
    "mulaw": _mulaw_table(),
    "alaw": _alaw_table(),
    "pcm_8": (np.abs(np.arange(-128, 128)) / 128).astype(np.float32),
}
"""Magnitudes of 8-bit codes (ITU-T G.711), full scale = 1."""


def loudest(audio: StreamAudio) -> float:
    """Level of the loudest 20 ms block in dBFS; -120 for digital silence."""
    if audio.encoding == "pcm_16":
        samples = np.frombuffer(audio.payload, "<i2").astype(np.float32) / np.float32(32768)
    else:
        samples = _TABLES[audio.encoding][np.frombuffer(audio.payload, np.uint8)]
    if not samples.size:
        return -120.0
    block = max(1, audio.sample_rate // 50)
    starts = np.arange(0, samples.size, block)
    sums = np.add.reduceat(samples * samples, starts)
    counts = np.diff(np.append(starts, samples.size))
    return float(10 * np.log10(max(1e-12, float((sums / counts).max()))))


class _Utterance:
    """What one speaker is saying."""

    def __init__(self) -> None:
        self.number = 0
        self.speech_ms = 0.0
        """Of the running utterance; 0 = nobody speaks."""
        self.silence_ms = 0.0
        self.told_ms = 0.0
        """`speech_ms` at the last partial."""
        self.next_ms: float | None = None
        """Where the next chunk starts if nothing is missing."""


class Echo:
    """Implements `Engine`; there is nothing to load."""

    def __call__(
        self,
        *,
        session_id: str,
        mode: str,
        source_language: str,
        target_language: str,
        metadata: Mapping[str, str],
        sink: EngineSink,
    ) -> EchoSession:
        return EchoSession(mode, source_language, target_language, sink)

    async def warm(self, *directions: tuple[str, str]) -> None:
        pass

    async def close(self) -> None:
        pass


class EchoSession:
    """Implements `EngineSession`."""

    def __init__(self, mode: str, source_language: str, target_language: str, sink: EngineSink) -> None:
        self._mode = mode
        self._languages = (_known(source_language), _known(target_language))
        self._sink = sink
        self._speakers: dict[str, _Utterance] = {}

    def feed(self, speaker: str, audio: StreamAudio, timestamp_ms: int) -> None:
        said = self._speakers.setdefault(speaker, _Utterance())
        length = len(audio.payload) / _WIDTH[audio.encoding] / audio.sample_rate * 1000
        if said.next_ms is not None and timestamp_ms - said.next_ms >= SILENCE_MS:
            self._finish(speaker, said)
        said.next_ms = timestamp_ms + length
        if loudest(audio) >= QUIET_DBFS:
            said.speech_ms += said.silence_ms + length
            said.silence_ms = 0.0
            if said.told_ms == 0.0 or said.speech_ms - said.told_ms >= PARTIAL_MS:
                said.told_ms = said.speech_ms
                self._tell(speaker, said, final=False)
        elif said.speech_ms == 0.0:
            return
        else:
            said.silence_ms += length
        self._say(speaker, audio)
        if said.silence_ms >= SILENCE_MS:
            self._finish(speaker, said)

    async def close(self) -> None:
        for speaker, said in self._speakers.items():
            self._finish(speaker, said)

    def _say(self, speaker: str, audio: StreamAudio) -> None:
        if self._mode in _ALONE:
            self._sink.speech(AGENT, audio)
        elif self._mode != "assistive_translation" or not of_customer(speaker):
            self._sink.speech(speaker, audio)

    def _finish(self, speaker: str, said: _Utterance) -> None:
        if said.speech_ms:
            self._tell(speaker, said, final=True)
            said.number += 1
        said.speech_ms = said.silence_ms = said.told_ms = 0.0

    def _tell(self, speaker: str, said: _Utterance, *, final: bool) -> None:
        text = f"[heard {said.speech_ms / 1000:.1f} s of speech]"
        own, other = self._languages if of_customer(speaker) else self._languages[::-1]
        self._sink.transcript(
            TranscriptTurn(
                id=f"{speaker}-{said.number}",
                speaker=speaker,
                language=own,
                text=text,
                final=final,
                translation_language=other if final else "",
                translation=text if final else "",
            )
        )


def _known(language: str) -> str:
    """``und`` (ISO 639-2) where the language is to be detected: an echo does not know it."""
    return "und" if language == "auto" else language
