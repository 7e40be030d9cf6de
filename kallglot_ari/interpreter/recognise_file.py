"""What a WAV file says: for checks of recordings, not for live calls."""

from __future__ import annotations

from pathlib import Path

from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.ears import Ears
from kallglot_ari.interpreter.engine import OfflineEngine
from kallglot_ari.interpreter.protocols import Recogniser, Sound
from kallglot_ari.interpreter.turns import Kind
from kallglot_ari.interpreter.vad import SileroVoiceActivity
from kallglot_ari.interpreter.voices import read_wav
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import InterpreterSettings


async def recognise_file(path: str | Path, language: str, *, settings: InterpreterSettings | None = None) -> str:
    """The words of a 16-bit WAV file (its first channel, any rate), turn by turn; empty when nobody speaks.

    :raises InterpreterError: when it is no such file, or a model is missing.
    """
    engine = OfflineEngine(settings or InterpreterSettings(), Metrics(), SystemClock())
    try:
        return await recognise_sound(_read(Path(path)), language, engine.recogniser)
    finally:
        await engine.close()


async def recognise_sound(sound: Sound, language: str, recogniser: Recogniser) -> str:
    """The same for samples, with a recogniser that is loaded already."""
    texts = []
    for turn in split(sound):
        found = await recogniser.recognise(turn, language)
        texts.append(found.text if found else "")
    return " ".join(text for text in texts if text)


def split(sound: Sound) -> list[Sound]:
    """The turns in a recording, by the same ears as in a call."""
    import soxr

    rate = 8000 if sound.sample_rate <= 8000 else 16000
    pcm = soxr.resample(sound.pcm, sound.sample_rate, rate) if sound.sample_rate != rate else sound.pcm
    ears = Ears(SileroVoiceActivity(rate), rate)
    heard = [*ears.hear(pcm), *ears.missing(1000), *ears.flush()]
    return [event.sound for event in heard if event.kind is Kind.ENDED and event.sound is not None]


def _read(path: Path) -> Sound:
    try:
        return read_wav(path.read_bytes())
    except OSError as error:
        raise InterpreterError(f"{path}: cannot be read: {error.strerror}") from None
    except InterpreterError as error:
        raise InterpreterError(f"{path}: {error}") from None
