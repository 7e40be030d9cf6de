"""Whether speech really arrived: the echo engine's must look like what was said, the offline engine's must be understood."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import InterpreterError, LabError
from kallglot_ari.lab.recording import Recording
from kallglot_ari.lab.roots import Progress
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import InterpreterSettings

SPOKEN_DBFS = -45.0
"""A 20 ms block louder than this is speech."""
ALIKE = 0.65
"""Likeness from which on two recordings are the same speech: codecs, gains and a busy machine leave over 0.8, other speech up to 0.5."""
_PIECE = 0.4
_SLIP = 0.4
"""Seconds: of a piece that is compared, and how much earlier or later than the whole it may be."""
LISTENINGS = (None, 0.3, 0.15, 0.6)
"""Silence around the speech, in seconds, each time that it is listened to; None: as it was recorded."""
_BLOCK_MS = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a listener heard of one turn, and whether it is what they should have heard."""

    arrived: bool
    evidence: str
    """For people: `likeness 0.93`, or what was recognised."""


def speech(recording: Recording) -> list[tuple[float, float]]:
    """Stretches of speech as (from, to) in the recording's time; pauses under 0.3 s do not part them."""
    block = recording.rate * _BLOCK_MS // 1000
    count = len(recording.samples) // block
    blocks = recording.samples[: count * block].reshape(count, block).astype(np.float64) / 32768
    loud = np.sqrt((blocks**2).mean(axis=1)) > 10 ** (SPOKEN_DBFS / 20) if count else np.zeros(0, bool)
    found: list[tuple[float, float]] = []
    for index in np.flatnonzero(loud):
        begins = recording.start + float(index) * _BLOCK_MS / 1000
        ends = begins + _BLOCK_MS / 1000
        if found and begins - found[-1][1] < 0.3:
            found[-1] = (found[-1][0], ends)
        else:
            found.append((begins, ends))
    return found


def likeness(said: Recording, heard: Recording) -> float:
    """Mean correlation (0 to 1) of what was said, piece by piece, with what was heard about where it should be.

    A jitter buffer, here or in a phone, may make a pause longer or shorter: all that follows is then a little late or early, and
    the correlation of the whole is that of the longer part. Both are compared at the same rate, from 300 to 3400 Hz, so that the
    telephone's band does not count as a difference.
    """
    if said.rate != heard.rate:
        raise LabError(f"expected recordings of one rate, found {said.rate} and {heard.rate} Hz")
    a, b = _band(said), _band(heard)
    lag = _best(a, b)[1]
    size, slip = round(_PIECE * said.rate), round(_SLIP * said.rate)
    found: list[float] = []
    weights: list[float] = []
    for begin in range(0, max(1, len(a) - size // 2), size):
        piece = a[begin : begin + size]
        first = max(0, begin + lag - slip)
        found.append(_best(piece, b[first : max(first, begin + lag + size + slip)])[0])
        weights.append(float(np.sqrt((piece**2).sum())))
    return float(np.average(found, weights=weights)) if sum(weights) else 0.0


def _best(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> tuple[float, int]:
    """The greatest normalised cross-correlation, and by how many samples `a` is later in `b`."""
    if not len(a) or not len(b) or not a.any() or not b.any():
        return 0.0, 0
    size = 1 << (len(a) + len(b) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)
    energy = np.concatenate([[0.0], np.cumsum(b**2)])
    lags = np.arange(-(len(a) - 1), len(b))
    starts, ends = np.clip(lags, 0, len(b)), np.clip(lags + len(a), 0, len(b))
    window = energy[ends] - energy[starts]
    enough = window > 0.2 * float((b**2).sum()) / max(1.0, len(b) / len(a))
    if not enough.any():
        return 0.0, 0
    likely = np.abs(product[lags[enough]]) / np.sqrt(float((a**2).sum()) * window[enough])
    best = int(np.argmax(likely))
    return min(1.0, float(likely[best])), int(lags[enough][best])


def _band(recording: Recording) -> npt.NDArray[np.float64]:
    samples = recording.samples.astype(np.float64)
    if not len(samples):
        return samples
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / recording.rate)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    band: npt.NDArray[np.float64] = np.fft.irfft(spectrum, len(samples))
    return band


def same_speech(said: Recording, heard: Recording) -> Verdict:
    """For the echo engine."""
    found = likeness(said, heard)
    return Verdict(found >= ALIKE, f"likeness {found:.2f}, at least {ALIKE} expected")


def framed(recording: Recording, around: float) -> Recording:
    """Its speech, with `around` seconds of silence on both sides; without speech as it is."""
    parts = speech(recording)
    if not parts:
        return recording
    first, last = (round((at - recording.start) * recording.rate) for at in (parts[0][0], parts[-1][1]))
    pause = np.zeros(round(around * recording.rate), np.int16)
    samples = np.concatenate([pause, recording.samples[first:last], pause])
    return Recording(parts[0][0] - around, recording.rate, samples)


def has_words(text: str, groups: tuple[tuple[str, ...], ...]) -> bool:
    """Whether, for each of `groups`, a word of `text` begins with one of it, capitals and accents aside."""
    plain = _plain(text)
    return all(any(re.search(rf"(?<!\w){re.escape(_plain(word))}", plain) for word in group) for group in groups)


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


class Understanding:
    """Recognises what a phone heard, with the offline interpreter's own recogniser. Blocks for about a second a turn.

    A small recogniser mishears a word of a machine's voice now and then, and differently with other silence around it. So it may listen
    again before a turn counts as not arrived: other words than those that were spoken it does not hear the better for it.
    """

    def __init__(self) -> None:
        """:raises LabError: without the recogniser or its model."""
        try:
            from kallglot_ari.interpreter.lockfile import locked, models_dir
            from kallglot_ari.interpreter.whisper import WhisperHost

            folder = locked()["whisper-base"].folder(models_dir(InterpreterSettings()))
            self._host = WhisperHost({"model": str(folder)})
        except (ImportError, InterpreterError) as error:
            raise LabError(f"what the phones heard cannot be checked: {error}") from None

    def text(self, heard: Recording, language: str) -> str:
        """What was said, empty when nothing was understood."""
        if not len(heard.samples):
            return ""
        header = {"rate": heard.rate, "language": language, "partial": False}
        answer = self._host.handle(header, heard.samples.astype("<i2").tobytes(), lambda: False)
        return str(answer["text"])

    def verdict(self, heard: Recording, language: str, words: tuple[tuple[str, ...], ...]) -> Verdict:
        """For the offline engine: the first listening that gives the words, else the first of all."""
        texts: list[str] = []
        for around in LISTENINGS:
            text = self.text(heard if around is None else framed(heard, around), language)
            if has_words(text, words):
                return Verdict(True, f"understood: {text}")
            texts.append(text)
        wanted = " and ".join("/".join(group) for group in words)
        return Verdict(False, f"understood: {texts[0] or 'nothing'}; expected {wanted}")


def need_models(source: str, target: str, progress: Progress) -> None:
    """Have what the offline interpreter needs for these languages, fetching models. Blocks. :raises LabError: it cannot be had."""
    from kallglot_ari.interpreter.engine import OfflineEngine
    from kallglot_ari.interpreter.lockfile import locked, models_dir
    from kallglot_ari.interpreter.models import run_models

    settings = InterpreterSettings()
    folder = models_dir(settings)
    missing = [name for name, model in locked().items() if model.problem(folder)]
    if missing:
        size = sum(locked()[name].size for name in missing) / 1e9
        progress(f"fetching models, {size:.1f} GB in all, once: {', '.join(missing)}")
        run_models(["fetch", *missing])
    directions = ((source, target), (target, source))
    try:
        problems = OfflineEngine(settings, Metrics(), SystemClock()).check(*directions)
    except InterpreterError as error:
        problems = [str(error)]
    if problems:
        raise LabError(
            f"speech cannot be translated on this machine: {'; '.join(problems)}; "
            "the call alone can be shown, untranslated: make demo ENGINE=echo (or --engine echo)"
        )
