"""What tests measure sound with. Samples are int16 arrays, mono; levels are dB below full scale (a full sine is -3 dBFS RMS).

A steady tone is the sharpest probe there is: every lost, doubled or damaged frame shows as a hole, a jump of phase or a
click. Its frequency must not repeat within a frame, or a doubled frame would be invisible; `TONE_HZ` is a good one.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.int16]
Floats = NDArray[np.float64]

TONE_HZ = 1013.0
FULL = 32768.0


# --- making -----------------------------------------------------------------------------------------------------------


def tone(freq: float, seconds: float, rate: int, *, level_dbfs: float = -12.0, phase: float = 0.0) -> Pcm:
    """A sine whose peak lies at `level_dbfs`."""
    t = np.arange(round(seconds * rate)) / rate
    return _pcm(10 ** (level_dbfs / 20) * np.sin(2 * np.pi * freq * t + phase))


def chirp(low: float, high: float, seconds: float, rate: int, *, level_dbfs: float = -12.0) -> Pcm:
    """A linear sweep: unlike a tone, it aligns at one place only."""
    t = np.arange(round(seconds * rate)) / rate
    return _pcm(10 ** (level_dbfs / 20) * np.sin(2 * np.pi * (low * t + (high - low) * t * t / (2 * seconds))))


def silence(seconds: float, rate: int) -> Pcm:
    """Digital silence."""
    return np.zeros(round(seconds * rate), np.int16)


def write_wav(path: Path, pcm: Pcm, rate: int) -> Path:
    """A mono 16-bit WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.astype("<i2").tobytes())
    return path


def read_wav(path: Path) -> tuple[Pcm, int]:
    """A mono 16-bit WAV: samples and rate."""
    with wave.open(str(path), "rb") as file:
        form = (file.getnchannels(), file.getsampwidth())
        if form != (1, 2):
            raise ValueError(f"{path}: expected mono of 2 bytes a sample, found {form[0]} channels of {form[1]}")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16), file.getframerate()


# --- measuring --------------------------------------------------------------------------------------------------------


def level_dbfs(pcm: Pcm) -> float:
    """RMS level; -120 for silence."""
    rms = float(np.sqrt(np.mean(_float(pcm) ** 2))) if len(pcm) else 0.0
    return max(20 * np.log10(rms), -120.0) if rms else -120.0


def goertzel(pcm: Pcm, rate: int, freq: float) -> float:
    """Peak amplitude of the component at `freq`, 0 to 1."""
    n = np.arange(len(pcm))
    return float(2 * abs(np.dot(_float(pcm), np.exp(-2j * np.pi * freq / rate * n))) / max(len(pcm), 1))


def tone_presence(pcm: Pcm, rate: int, freq: float, *, window_ms: float = 20) -> Floats:
    """Per window: how much of its power lies at `freq`, 0 (none, or silence) to 1 (all)."""
    size = round(rate * window_ms / 1000)
    windows = _float(pcm[: len(pcm) // size * size]).reshape(-1, size)
    probe = np.exp(-2j * np.pi * freq / rate * np.arange(size))
    amplitude = 2 * np.abs(windows @ probe) / size
    power = np.mean(windows**2, axis=1)
    share = np.divide(amplitude**2 / 2, power, out=np.zeros_like(power), where=power > 1e-9)
    return np.asarray(np.minimum(share, 1.0))


def dominant_frequency(pcm: Pcm, rate: int) -> float:
    """Frequency of the strongest component in Hz, interpolated between the bins."""
    if not np.any(pcm):
        raise ValueError("dominant frequency: expected sound, found silence")
    spectrum = np.abs(np.fft.rfft(_float(pcm) * np.hanning(len(pcm))))
    spectrum[0] = 0
    peak = int(np.argmax(spectrum))
    if not 0 < peak < len(spectrum) - 1:
        return peak * rate / len(pcm)
    a, b, c = np.log(spectrum[peak - 1 : peak + 2] + 1e-12)
    return float((peak + 0.5 * (a - c) / (a - 2 * b + c)) * rate / len(pcm))


def align(reference: Pcm, signal: Pcm) -> tuple[int, float]:
    """Where `reference` begins in `signal` (samples, may be negative) and how alike they are there, -1 to 1.

    What of `reference` lies outside `signal` counts as unlike.
    """
    a, b = _float(reference), _float(signal)
    size = 1 << (len(a) + len(b)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)
    offset = int(np.argmax(correlation))
    offset = offset - size if offset > len(b) else offset
    piece, whole = _overlap(a, b, offset)
    norm = float(np.sqrt(np.sum(a**2) * np.sum(whole**2)))
    return offset, float(np.dot(piece, whole)) / norm if norm else 0.0


def segmental_snr(reference: Pcm, signal: Pcm, rate: int, *, segment_ms: float = 20) -> float:
    """Mean SNR in dB over segments that are not silent, each held to -10 to 35; the two must be aligned."""
    size = round(rate * segment_ms / 1000)
    length = min(len(reference), len(signal)) // size * size
    clean = _float(reference[:length]).reshape(-1, size)
    noise = np.sum((_float(signal[:length]).reshape(-1, size) - clean) ** 2, axis=1)
    power = np.sum(clean**2, axis=1)
    loud = power > 1e-5 * size
    if not np.any(loud):
        raise ValueError("segmental SNR: expected speech in the reference, found silence")
    return float(np.mean(np.clip(10 * np.log10(power[loud] / np.maximum(noise[loud], 1e-12)), -10, 35)))


def silent_gaps(pcm: Pcm, rate: int, *, min_ms: float, threshold_dbfs: float = -60) -> list[tuple[float, float]]:
    """(start in s, length in ms) of every run of samples under `threshold_dbfs` that is `min_ms` or longer."""
    quiet = np.abs(_float(pcm)) < 10 ** (threshold_dbfs / 20)
    return [(a / rate, (b - a) * 1000 / rate) for a, b in _runs(quiet) if (b - a) * 1000 / rate >= min_ms]


# --- the steady tone --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToneReport:
    """A tone looked at closely. Times are seconds from the beginning of the recording."""

    start: float
    seconds: float
    level_dbfs: float
    """Peak level."""
    frequency: float
    holes: list[tuple[float, float]]
    """(start in s, length in ms): where the level falls by more than 6 dB."""
    phase_jumps: list[tuple[float, float]]
    """(at in s, degrees)"""
    clicks: list[tuple[float, float]]
    """(at in s, height over the tone's amplitude)"""


def analyse_tone(
    pcm: Pcm, rate: int, freq: float, *, max_phase_degrees: float = 20, max_click: float = 0.3
) -> ToneReport:
    """Find the tone near `freq` and everything that is wrong with it.

    The signal is mixed down to 0 Hz and smoothed over four periods; a steady tone then stands still, and what is left
    after taking it away is clicks.
    """
    x = _float(pcm)
    half = max(round(2 * rate / freq), 2)
    window = np.hanning(2 * half + 1)
    window /= window.sum()
    n = np.arange(len(x))
    base = np.zeros(len(x), np.complex128)
    if len(x) > 2 * half:
        base[:] = np.convolve(x * np.exp(-2j * np.pi * freq / rate * n), window, mode="same")
    level = 2 * np.abs(base)
    if not len(x) or level.max() < 1e-3:
        raise AssertionError(f"expected a tone of {freq:g} Hz, found none (level {level_dbfs(pcm):.0f} dBFS)")
    loud = level > level.max() / 2
    amplitude = float(np.median(level[loud]))
    present = level > amplitude / 2
    first, last = int(np.argmax(present)), len(x) - int(np.argmax(present[::-1]))
    holes = [(first + a, first + b) for a, b in _runs(~present[first:last])]
    drift = _drift(base[first:last])
    base = base * np.exp(-1j * drift * n)
    sound = _away_from(holes, first, last, 3 * half, len(x))
    jumps = _phase_jumps(base, sound, 4 * half, np.radians(max_phase_degrees))
    carrier = np.exp(1j * (2 * np.pi * freq / rate + drift) * n)
    rest = np.where(sound, np.abs(x - 2 * np.real(base * carrier)), 0) / amplitude
    clicks = [(a / rate, float(rest[a:b].max())) for a, b in _merge(_runs(rest > max_click), round(0.005 * rate))]
    return ToneReport(
        start=first / rate,
        seconds=(last - first) / rate,
        level_dbfs=20 * float(np.log10(amplitude)),
        frequency=freq + drift * rate / (2 * np.pi),
        holes=[(a / rate, (b - a) * 1000 / rate) for a, b in holes],
        phase_jumps=[(at / rate, float(np.degrees(angle))) for at, angle in jumps],
        clicks=clicks,
    )


def assert_steady_tone(
    pcm: Pcm,
    rate: int,
    freq: float,
    min_seconds: float,
    max_dropout_ms: float = 5,
    *,
    max_phase_degrees: float = 20,
    max_click: float = 0.3,
    frame_ms: float = 20,
) -> ToneReport:
    """The tone lasts `min_seconds` without a hole of `max_dropout_ms` (measured to half a millisecond), a jump or a click.

    :raises AssertionError: saying what was found and when.
    :raises ValueError: when such a tone could not show the fault: it repeats within a frame, or is too low.
    """
    turns = freq * frame_ms / 1000
    if abs(turns - round(turns)) < 0.06:
        raise ValueError(
            f"{freq:g} Hz repeats every {frame_ms:g} ms: a doubled frame would be invisible; use {TONE_HZ:g}"
        )
    if 4000 / freq > max(max_dropout_ms, 1) + 1:
        raise ValueError(f"{freq:g} Hz is too low to show a hole of {max_dropout_ms:g} ms")
    report = analyse_tone(pcm, rate, freq, max_phase_degrees=max_phase_degrees, max_click=max_click)
    wrong = []
    if abs(report.frequency - freq) > max(2.0, 0.002 * freq):
        wrong.append(f"frequency {report.frequency:.1f} Hz")
    if report.seconds < min_seconds:
        wrong.append(f"it lasts {report.seconds:.3f} s")
    wrong += [f"hole of {ms:.1f} ms at {at:.3f} s" for at, ms in report.holes if ms >= max_dropout_ms - 0.5]
    wrong += [f"phase jumps by {angle:.0f}° at {at:.3f} s" for at, angle in report.phase_jumps]
    wrong += [f"click of {height:.2f} at {at:.3f} s" for at, height in report.clicks]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise AssertionError(f"expected {min_seconds:g} s of steady {freq:g} Hz, found: {'; '.join(wrong[:8])}{more}")
    return report


# --- inside -----------------------------------------------------------------------------------------------------------


def _float(pcm: Pcm) -> Floats:
    return pcm.astype(np.float64) / FULL


def _pcm(x: Floats) -> Pcm:
    return np.clip(np.round(x * FULL), -32768, 32767).astype(np.int16)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _merge(runs: list[tuple[int, int]], within: int) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for a, b in runs:
        if merged and a - merged[-1][1] <= within:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    return merged


def _overlap(a: Floats, b: Floats, offset: int) -> tuple[Floats, Floats]:
    start, end = max(offset, 0), min(offset + len(a), len(b))
    return a[start - offset : end - offset], b[start:end]


def _drift(base: NDArray[np.complex128]) -> float:
    """Radians per sample by which the tone is off; the median is deaf to single jumps."""
    step = max(len(base) // 50, 1)
    turn = np.angle(base[step:] * np.conj(base[:-step])) if len(base) > step else np.zeros(1)
    return float(np.median(turn)) / step


def _away_from(holes: list[tuple[int, int]], first: int, last: int, margin: int, length: int) -> NDArray[np.bool_]:
    sound = np.zeros(length, np.bool_)
    sound[first + margin : max(last - margin, 0)] = True
    for a, b in holes:
        sound[max(a - margin, 0) : b + margin] = False
    return sound


def _phase_jumps(
    base: NDArray[np.complex128], sound: NDArray[np.bool_], span: int, limit: float
) -> list[tuple[int, float]]:
    """Where the phase on the far side of `span` samples differs by more than `limit`: (middle sample, radians).

    Also across a hole, for a tone that comes back must be the same tone; there the reach is the hole and its margins.
    """
    index = np.flatnonzero(sound)
    if len(index) <= span:
        return []
    angle = np.angle(base[index[span:]] * np.conj(base[index[:-span]]))
    jumps = []
    for a, b in _runs(np.abs(angle) > limit):
        peak = a + int(np.argmax(np.abs(angle[a:b])))
        jumps.append((int(index[peak] + index[peak + span]) // 2, float(angle[peak])))
    return jumps
