"""What a voice makes of a sentence, with the programs themselves."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.engine import OfflineEngine
from kallglot_ari.interpreter.languages import shipped
from kallglot_ari.interpreter.lockfile import models_dir
from kallglot_ari.interpreter.pico import PicoVoice
from kallglot_ari.interpreter.voices import EspeakVoice, PiperVoice, Voices, piper_models
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import InterpreterSettings


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[OfflineEngine]:
    it = OfflineEngine(InterpreterSettings(models_dir=str(tmp_path)), Metrics(), SystemClock())
    yield it
    await it.close()


@pytest.mark.parametrize("language", ["de", "en", "es", "fr"])
async def test_pico_speaks_every_shipped_language_and_no_markup(engine: OfflineEngine, language: str) -> None:
    if reason := PicoVoice.missing():
        pytest.skip(reason)
    assert engine.voice.voice_of(language) == "pico"
    plain = await engine.voice.speak("4711 und 15.", language)
    marked = await engine.voice.speak('<speed level="20">4711 und 15.</speed>', language)
    assert plain.sample_rate == 16000
    assert 1 < plain.seconds < 6
    assert np.abs(plain.pcm.astype(int)).max() < 32767
    assert marked.seconds > plain.seconds  # it is read aloud, and obeyed by nobody


@pytest.mark.models
async def test_a_sentence_that_nobody_waits_for_any_more_does_not_end_piper() -> None:
    models = piper_models(models_dir(InterpreterSettings()))
    if reason := PiperVoice.missing() or ("" if "en" in models else "no English voice for Piper"):
        pytest.skip(reason)
    voice = PiperVoice({"en": models["en"]})
    try:
        whole = await voice.speak("The technician will come on Monday at nine.", "en")
        processes = {child.pid for child in psutil.Process().children()}
        for after in (0.0, 0.01, 0.03):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(voice.speak("This sentence is thrown away before it is spoken.", "en"), after)
            again = await voice.speak("The technician will come on Monday at nine.", "en")
            assert abs(again.seconds - whole.seconds) < 0.5
            assert {child.pid for child in psutil.Process().children()} == processes
    finally:
        await voice.close()


async def test_a_language_without_any_voice_is_one_clear_line(engine: OfflineEngine) -> None:
    with pytest.raises(InterpreterError, match="no voice for 'tlh'; pip install"):
        await engine.voice.speak("Qapla'.", "tlh")


class Full:
    """Stands for what the machine has no more of."""

    def __init__(self, error: int) -> None:
        self.error = error

    async def __call__(self, *args: object, **more: object) -> None:
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM])
async def test_a_machine_that_starts_no_program_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: int
) -> None:
    monkeypatch.setattr(asyncio, "create_subprocess_exec", Full(error))
    monkeypatch.setattr(PiperVoice, "missing", staticmethod(lambda: ""))
    monkeypatch.setattr(EspeakVoice, "missing", staticmethod(lambda: ""))
    piper = PiperVoice({"en": tmp_path / "en.onnx"})
    espeak = EspeakVoice(shipped())
    for voice in (piper, espeak, Voices([piper, espeak])):
        with pytest.raises(InterpreterError, match=os.strerror(error)):
            await voice.speak("Hello.", "en")
    await piper.close()


async def test_a_full_disk_is_one_clear_line_from_piper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    monkeypatch.setattr(PiperVoice, "missing", staticmethod(lambda: ""))
    piper = PiperVoice({"en": tmp_path / "en.onnx"})
    with pytest.raises(InterpreterError, match=os.strerror(errno.ENOSPC)):
        await piper.speak("Hello.", "en")
    await piper.close()
