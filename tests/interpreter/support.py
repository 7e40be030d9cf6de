"""Sessions without a server: a sink that remembers, and a caller that speaks in real time."""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import soxr

from kallglot_ari.audio.codecs.registry import pcm_to_stream, stream_to_pcm
from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.calls.model import StreamAudio, TranscriptTurn
from kallglot_ari.interpreter.engine import OfflineSession
from kallglot_ari.interpreter.voices import read_wav


@dataclass
class Recorder:
    """An `EngineSink`."""

    turns: list[TranscriptTurn] = field(default_factory=list)
    spoken: list[tuple[float, str, StreamAudio]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def transcript(self, turn: TranscriptTurn) -> None:
        self.turns.append(turn)

    def speech(self, speaker: str, audio: StreamAudio) -> None:
        self.spoken.append((time.monotonic(), speaker, audio))

    def problem(self, code: str, message: str) -> None:
        self.problems.append((code, message))

    def finals(self, speaker: str) -> list[TranscriptTurn]:
        return [turn for turn in self.turns if turn.final and turn.speaker == speaker]

    def heard(self, speaker: str) -> Pcm:
        """Everything the others heard of `speaker`."""
        return np.concatenate(
            [stream_to_pcm(a.encoding, a.payload) for _, who, a in self.spoken if who == speaker] or [silence(0)]
        )


def say(text: str, voice: str, rate: int = 8000, *, speed: int = 130) -> Pcm:
    """espeak-ng's speech without silence around it."""
    run = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text], capture_output=True, check=True
    )
    sound = read_wav(run.stdout)
    pcm: Pcm = soxr.resample(sound.pcm, sound.sample_rate, rate)
    loud = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 150)
    return pcm[loud[0] : loud[-1] + 1]


async def talk(
    session: OfflineSession,
    speaker: str,
    pcm: Pcm,
    *,
    rate: int = 8000,
    encoding: Literal["mulaw", "pcm_16"] = "mulaw",
    after: float = 2.0,
) -> float:
    """Feed `pcm` and silence after it in chunks of 100 ms, in real time; monotonic time at which the speech ended."""
    step = rate // 10
    whole = np.concatenate([silence(rate * 6 // 10), pcm, silence(int(rate * after))])
    began = time.monotonic()
    for number, start in enumerate(range(0, whole.size, step)):
        await asyncio.sleep(max(0.0, began + (number + 1) * 0.1 - time.monotonic()))
        session.feed(
            speaker, StreamAudio(encoding, rate, pcm_to_stream(encoding, whole[start : start + step])), number * 100
        )
    return began + 0.6 + pcm.size / rate
