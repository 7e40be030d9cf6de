"""What a leg said and what it heard, as two channels of one file: left said, right heard."""

from __future__ import annotations

import errno
import importlib.util
import os
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.codecs.registry import loud_share, stream_to_pcm
from kallglot_ari.audio.frame import Pcm, silence
from kallglot_ari.audio.resample import Resampler
from kallglot_ari.errors import ConfigError

Form = Literal["wav", "opus"]

_BLOCK = 1.0
"""Seconds gathered before they are written."""
_SLACK = 2.0
"""Seconds one side may be silent before the other is written without it."""
_GAP = 0.060
"""Seconds by which what is heard may come later than counted before that is silence."""
_STRAY, _STRAY_MOST = 0.030, 0.500
"""Seconds that what is said may lie beside when it came before it is moved: in a pause, and in any case. Its place goes by its sender's clock, which is not ours."""
_STEADY = 64
"""Pieces over which that is averaged."""
_LOUD_IN_PAUSE = 0.01
"""Share of samples that may be loud in a pause: a line hisses."""
_BIT_RATE = 48000
_OPUS_RATE = 48000
_MOST_BYTES = 2**32 - 4096
"""Of a WAV's sound: its header counts them, and itself, in 32 bits."""


def check(form: Form) -> None:
    """:raises ConfigError: when recordings of that form cannot be written on this machine."""
    if form == "opus" and importlib.util.find_spec("av") is None:
        raise ConfigError("debug.record: opus needs the package av, found none; pip install 'kallglot-ari[recording]'")


class _Sink(Protocol):
    def write(self, stereo: Pcm) -> None:
        """Samples of shape (n, 2). :raises OSError: when the disk does not take them."""
        ...

    def close(self) -> None: ...


class _Wav:
    """The file is a whole one after each write. It ends at 4 GiB: 37 h at 8 kHz, 18 h at 16 kHz, 6 h at 48 kHz."""

    def __init__(self, path: Path, rate: int) -> None:
        self._raw = path.open("wb")
        self._file = wave.open(self._raw, "wb")  # noqa: SIM115 - closed by `close`
        self._file.setnchannels(2)
        self._file.setsampwidth(2)
        self._file.setframerate(rate)
        self._room = _MOST_BYTES

    def write(self, stereo: Pcm) -> None:
        self._room -= stereo.size * 2
        if self._room < 0:
            raise OSError(errno.EFBIG, "a WAV holds 4 GiB at most; record = opus holds more")
        self._file.writeframes(stereo.astype("<i2").tobytes())
        self._raw.flush()

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._raw.close()


class _OggOpus:
    def __init__(self, path: Path, rate: int) -> None:
        import av

        self._rate = rate
        self._frame: Any = av.AudioFrame
        self._written = 0
        self._file = av.open(str(path), "w", format="ogg")
        self._stream: Any = self._file.add_stream("libopus", rate=_OPUS_RATE, layout="stereo")
        self._stream.bit_rate = _BIT_RATE
        self._resampler = av.AudioResampler(format="s16", layout="stereo", rate=_OPUS_RATE)

    def write(self, stereo: Pcm) -> None:
        frame = self._frame.from_ndarray(np.ascontiguousarray(stereo).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = self._rate
        frame.pts = self._written
        frame.time_base = Fraction(1, self._rate)
        self._written += len(stereo)
        for part in self._resampler.resample(frame):
            self._file.mux(self._stream.encode(part))

    def close(self) -> None:
        try:
            for part in self._resampler.resample(None):
                self._file.mux(self._stream.encode(part))
            self._file.mux(self._stream.encode(None))
        finally:
            self._file.close()


class _Channel:
    """Sound of one side, at the file's rate, from position `start` on."""

    def __init__(self, source_rate: int, rate: int) -> None:
        self._resampler = Resampler(source_rate, rate)
        self._parts: list[Pcm] = []
        self.end = 0
        """Position up to which there is sound."""

    def pad(self, position: int) -> None:
        if position > self.end:
            self._parts.append(silence(position - self.end))
            self.end = position

    def add(self, pcm: Pcm) -> None:
        pcm = self._resampler.process(pcm)
        self._parts.append(pcm)
        self.end += pcm.size

    def take(self, samples: int) -> Pcm:
        whole = np.concatenate(self._parts) if self._parts else silence(0)
        self._parts = [whole[samples:]] if whole.size > samples else []
        return whole[:samples]


class Recording:
    """One leg's file. Its methods run on the writer's thread. :raises OSError: when the disk does not take it."""

    def __init__(self, path: Path, form: Form, codec: Codec, encoding: str, stream_rate: int) -> None:
        self._codec = codec
        self._decoder = codec.decoder()
        self._encoding = encoding
        self.rate = max(codec.sample_rate, stream_rate)
        self._said = _Channel(stream_rate, self.rate)
        self._heard = _Channel(codec.sample_rate, self.rate)
        self._payloads: list[bytes] = []
        self._waiting = 0
        self._began: float | None = None
        self._stream_rate = stream_rate
        self._said_from: int | None = None
        self._stray = 0.0
        """Samples by which what is said lies later than when it came."""
        self._written = 0
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        self._sink: _Sink = _OggOpus(path, self.rate) if form == "opus" else _Wav(path, self.rate)

    def said(self, at: float, timestamp_ms: int, payload: bytes) -> None:
        """Stream bytes that begin at `timestamp_ms` of the leg's own time and came at `at`."""
        position, came = timestamp_ms * self.rate // 1000, self._position(at)
        if self._said_from is None:
            self._said_from = came - position
        pcm = self._in_step(payload, position, came)
        self._said.pad(self._said_from + position)
        self._said.add(pcm)
        self._write()

    def _in_step(self, payload: bytes, position: int, came: int) -> Pcm:
        """What was said, without its beginning where it has come to lie too late; where too early, positions count from later on."""
        assert self._said_from is not None
        pcm = stream_to_pcm(self._encoding, payload)
        self._stray += (max(self._said.end, self._said_from + position) - came - self._stray) / _STEADY
        off = abs(self._stray) / self.rate
        if off < _STRAY or (off < _STRAY_MOST and loud_share(self._encoding, payload) > _LOUD_IN_PAUSE):
            return pcm
        moved = min(int(self._stray), pcm.size * self.rate // self._stream_rate)
        self._said_from -= moved
        self._stray -= moved
        return pcm[max(0, moved) * self._stream_rate // self.rate :]

    def heard(self, at: float, payload: bytes) -> None:
        """20 ms that were sent at `at`."""
        expected = self._heard.end + self._waiting
        position = self._position(at)
        if position - expected > _GAP * self.rate:
            self._decode()
            self._heard.pad(position)
        self._payloads.append(payload)
        self._waiting += self.rate // 50
        if self._waiting >= _BLOCK * self.rate:
            self._decode()
            self._write()

    def close(self) -> None:
        """Write the rest and end the file."""
        try:
            self._decode()
            self._flush(max(self._said.end, self._heard.end))
        finally:
            self._sink.close()

    def abandon(self) -> None:
        """End the file as it is: the disk takes no more."""
        self._sink.close()

    def _position(self, at: float) -> int:
        if self._began is None:
            self._began = at
        return max(0, int((at - self._began) * self.rate))

    def _decode(self) -> None:
        payloads, self._payloads, self._waiting = self._payloads, [], 0
        for payload in payloads:
            self._heard.add(self._decoder.decode(payload))

    def _write(self) -> None:
        both = min(self._said.end, self._heard.end)
        either = max(self._said.end, self._heard.end) - int(_SLACK * self.rate)
        if max(both, either) - self._written >= _BLOCK * self.rate:
            self._flush(max(both, either))

    def _flush(self, until: int) -> None:
        size = until - self._written
        if size <= 0:
            return
        self._said.pad(until)
        self._heard.pad(until)
        self._written = until
        self._sink.write(np.stack([self._said.take(size), self._heard.take(size)], axis=1))
