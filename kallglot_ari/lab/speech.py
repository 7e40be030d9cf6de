"""Spoken lines: those of the default demo are shipped, so that it sounds the same everywhere; all others are made by Pico or espeak-ng.

The shipped German is SVOX Pico's (Apache-2.0), the English Piper's voice `en_US-joe-medium` (CC0).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from kallglot_ari.errors import LabError
from kallglot_ari.lab.recording import Recording, at_rate
from kallglot_ari.lab.roots import Progress, apt_install

ASSETS = Path(__file__).with_name("assets")
VOICES = {"de": "de+m3", "en": "en-gb+klatt2", "es": "es+klatt4", "fr": "fr+klatt4"}
PICO = {"de": "de-DE", "en": "en-GB", "es": "es-ES", "fr": "fr-FR"}
"""Machine voices that a recogniser understands better, where the interpreter's extra `speak` is installed."""
RATE = 16000
PAUSE_SECONDS = 0.6
"""Silence before and after a line, as between people."""


def shipped(language: str, number: int) -> Path:
    """Where the shipped file of a line of the dialogue is, if there is one."""
    return ASSETS / f"{language}-{number + 1}.wav"


def have_espeak(progress: Progress) -> bool:
    """Whether espeak-ng can be had; installs it where we may."""
    if shutil.which("espeak-ng"):
        return True
    if os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            apt_install(["espeak-ng"], progress)
        except LabError as error:
            progress(str(error))
    return shutil.which("espeak-ng") is not None


def have_pico() -> bool:
    """Whether the extra `speak` is installed."""
    return importlib.util.find_spec("py_nanotts") is not None


def speak(text: str, language: str, path: Path) -> Path:
    """Write `text` as a WAV file of 16 kHz, mono. Blocks for some 200 ms. :raises LabError: the voice failed."""
    if have_pico():
        voice = ["-m", "py_nanotts", text, "-o", str(path), "-v", PICO[language], "--volume", "0.4"]
        command = [sys.executable, *voice]
    else:
        command = ["espeak-ng", "-v", VOICES[language], "-s", "130", "-w", str(path), "--", text]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"espeak-ng cannot be run ({error}): install espeak-ng") from None
    if done.returncode:
        raise LabError(f"{Path(command[0]).name} failed for {language}: {done.stderr.strip()[-200:]}")
    return _padded(path, path)


def line(text: str, language: str, number: int, folder: Path, espeak: bool) -> Path:
    """The WAV file of a line of the dialogue. :raises LabError: no shipped file, and no espeak-ng."""
    path = folder / f"line-{number + 1}-{language}.wav"
    if shipped(language, number).exists():
        return _padded(shipped(language, number), path)
    if espeak or have_pico():
        return speak(text, language, path)
    raise LabError(f"no voice for {language!r}: install espeak-ng (without it only German to English can be shown)")


def _padded(source: Path, target: Path) -> Path:
    samples = at_rate(source, RATE, RATE)
    pause = np.zeros(int(PAUSE_SECONDS * RATE), np.int16)
    return Recording(0, RATE, np.concatenate([pause, samples, pause])).save(target)
