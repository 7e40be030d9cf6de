"""What a voice makes of a sentence, with the programs themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import InterpreterError
from kallglot_ari.interpreter.engine import OfflineEngine
from kallglot_ari.interpreter.pico import PicoVoice
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


async def test_a_language_without_any_voice_is_one_clear_line(engine: OfflineEngine) -> None:
    with pytest.raises(InterpreterError, match="no voice for 'tlh'; pip install"):
        await engine.voice.speak("Qapla'.", "tlh")
