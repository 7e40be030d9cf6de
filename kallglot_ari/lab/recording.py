"""Sound of the lab's phones: 16-bit samples, one channel."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from kallglot_ari.errors import LabError

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Recording:
    """What a phone heard, silence included."""

    start: float
    """`time.monotonic()` of the first sample."""
    rate: int
    samples: Samples

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def since(self, when: float, until: float | None = None) -> Recording:
        """The part from `when` on, up to `until`."""
        first = max(0, round((when - self.start) * self.rate))
        last = len(self.samples) if until is None else max(first, round((until - self.start) * self.rate))
        return Recording(self.start + first / self.rate, self.rate, self.samples[first:last])

    def save(self, path: Path) -> Path:
        """Write a WAV file."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(self.samples.astype("<i2").tobytes())
        return path


def at_rate(sound: Path | Samples, rate: int, wanted: int) -> Samples:
    """`sound` as samples at `wanted` Hz. :raises LabError: a file that is not mono or stereo 16-bit WAV."""
    if isinstance(sound, Path):
        try:
            with wave.open(str(sound)) as file:
                rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
                data = file.readframes(file.getnframes())
        except (OSError, EOFError, wave.Error) as error:
            raise LabError(f"{sound}: expected a WAV file ({error})") from None
        if width != 2:
            raise LabError(f"{sound}: expected 16-bit samples, found {8 * width}-bit")
        samples = np.frombuffer(data, "<i2").reshape(-1, channels)[:, 0].astype(np.int16)
    else:
        samples = sound
    if rate == wanted:
        return samples
    converted: Samples = soxr.resample(samples, rate, wanted)
    return converted
