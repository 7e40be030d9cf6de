"""What one leg is to hear: translated speech that comes in bursts, and other parties' own voices, as frames of 20 ms.

Speech waits here, deep and bounded; what goes out is one frame at a time. A talkspurt begins after a short wait (see `rtp.playout`), is carried over
a gap by repeating its last pitch periods, and ends when nothing has come for two frames. Speech that waits too long is caught up with (`audio.catchup`).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np

from kallglot_ari.audio import catchup
from kallglot_ari.audio.catchup import CatchUp
from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.conceal import Concealer
from kallglot_ari.audio.frame import FRAME_MS, Pcm, silence
from kallglot_ari.audio.mix import Mixer, ramp
from kallglot_ari.audio.resample import Resampler
from kallglot_ari.media.heard import HeardVoice
from kallglot_ari.media.stored import Stored
from kallglot_ari.rtp.playout import Prebuffer

_BURST_MS = 200
"""With so much of it there a talkspurt begins at once: it did not come at the pace of speech."""
_CARRY_FRAMES = 2
"""Frames of repetition before a talkspurt is over."""
_FADE_MS = 10

_ANEW, _ANEW_SECONDS = 0.8, 0.3
"""A piece that comes sooner after the one before than this share of its length, and than that, is of the same burst: it waits because it is early."""

_MAX_RATE = 192000


class Way(Protocol):
    """Where it is noted that further pieces of a talkspurt may go by."""

    def begin(self, source: str, first_at: float, queued: int) -> None:
        """From now on they do: the talkspurt's first piece came at `first_at`, `queued` bytes came up to now."""
        ...

    def end(self) -> int:
        """They no longer do; the bytes that came up to now."""
        ...


class Source:
    """The queue of one speaker. Unit: the bytes of a frame as `Speech` stores them, G.711 or 16-bit samples."""

    __slots__ = (
        "_anew", "_carried", "_catch_up", "_codec", "_concealer", "_ending", "_form", "_last", "_law", "_offset", "_parts", "_put", "_recent", "_resampler", "_second", "_unit", "_width", "first_at", "queued", "received_at", "size", "started", "worst_lag",
    )  # fmt: skip

    def __init__(self, codec: Codec, form: Stored) -> None:
        self._codec = codec
        self._form = form
        self._law = form.is_law
        self._unit = unit = form.unit
        self._second = unit * 1000 // FRAME_MS
        self._width = unit // codec.frame_samples
        self._parts: deque[bytes] = deque()
        self._offset = 0
        self.size = 0
        self.started = False
        self.first_at = 0.0
        """When the talkspurt's first piece came."""
        self.received_at = 0.0
        self.queued = 0
        """Bytes that came in this talkspurt."""
        self._recent: deque[bytes] = deque(maxlen=3)
        self._concealer: Concealer | None = None
        self._carried = 0
        self._resampler: Resampler | None = None
        self._ending = False
        """Flushed: what is left is the last of this talkspurt."""
        self._catch_up: CatchUp | None = None
        self._put = 0
        """Bytes that were ever put in."""
        self._anew = (0.0, 0)
        """The last piece that was no further part of a burst: when it came, and how many bytes had been put in before it."""
        self._last = (0.0, 0)
        """When the last piece came, and its bytes."""
        self.worst_lag = 0.0
        """The most this talkspurt has been behind, in seconds."""

    def convert(self, encoding: str, rate: int, payload: bytes) -> bytes:
        """Stream bytes as stored bytes. :raises MediaError: when they are none. :raises ValueError: for an impossible rate."""
        if rate == self._codec.sample_rate and encoding == self._form.encoding and len(payload) % self._width == 0:
            return payload
        if self._law and rate == 8000 and encoding in ("mulaw", "alaw"):
            table = g711.ULAW_TO_ALAW if encoding == "mulaw" else g711.ALAW_TO_ULAW
            return table[np.frombuffer(payload, dtype=np.uint8)].tobytes()
        pcm = registry.stream_to_pcm(encoding, payload)
        if rate != self._codec.sample_rate:
            if self._resampler is None or self._resampler.source_rate != rate:
                self._resampler = Resampler(rate, self._codec.sample_rate)
            pcm = self._resampler.process(pcm)
        return self.store(pcm)

    def store(self, pcm: Pcm) -> bytes:
        """Samples as stored bytes."""
        return self._codec.encoder().encode(pcm) if self._law else pcm.tobytes()

    def pcm(self, data: bytes) -> Pcm:
        """Stored bytes as samples."""
        return self._codec.decoder().decode(data) if self._law else np.frombuffer(data, dtype=np.int16)

    def arrived(self, size: int, at: float) -> None:
        """`size` bytes that came `at` are about to be put in: from when on they are waited for."""
        came, lasts = self._last
        self._last = (at, size)
        if not self.size or at - came >= min(_ANEW * lasts / self._second, _ANEW_SECONDS):
            self._anew = (at, self._put)

    def lag(self, now: float) -> float:
        """Seconds by which what waits is behind the time it would be heard at if it had been played as it came.

        Counted for the last piece that came by itself: the rest of its burst is behind by as much, and what waits before it delays it.
        """
        if not self.size:
            return 0.0
        came, before = self._anew
        lag = max(0.0, now - came - (self._put - self.size - before) / self._second)
        self.worst_lag = max(self.worst_lag, lag)
        return lag

    def put(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self.size += len(data)
            self._put += len(data)
            self.queued += len(data)
            self._ending = False

    def put_back(self, data: bytes) -> None:
        """Return what was taken last; it is next again."""
        if self._offset:
            self._parts[0] = self._parts[0][self._offset :]
            self._offset = 0
        if data:
            self._parts.appendleft(data)
            self.size += len(data)

    def take(self, size: int) -> bytes:
        """Up to `size` stored bytes."""
        parts = []
        wanted = min(size, self.size)
        self.size -= wanted
        while wanted:
            part = self._parts[0]
            piece = part[self._offset : self._offset + wanted]
            parts.append(piece)
            wanted -= len(piece)
            self._offset += len(piece)
            if self._offset >= len(part):
                self._parts.popleft()
                self._offset = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop_oldest(self, size: int) -> None:
        self.take(size)

    def let_pass(self) -> bool:
        """Whether speech that comes now may be sent without lying here: under way, nothing waits, no gap is being joined. No gap is carried any more if so."""
        if not self.started or self.size or self._concealer is not None or self._ending:
            return False
        self._carried = 0
        return True

    @property
    def dry(self) -> bool:
        """Whether what is said next must be made up: under way, not over, and nothing waits."""
        return self.started and not self.size and not self._ending

    def recall(self, frames: list[bytes]) -> None:
        """The last frames that were sent as they were."""
        self._recent.extend(frames)

    def plain(self, frames: int) -> bytes:
        """Up to `frames` whole frames as they are; none while a gap is being joined."""
        if self._concealer is not None:
            return b""
        whole = min(frames, self.size // self._unit)
        if whole:
            self._carried = 0
        return self.take(whole * self._unit)

    def next(self, speed: float | None = None) -> bytes | None:
        """One frame of stored bytes, with gaps carried over; None when the talkspurt is over. With a `speed`, some of it is left out."""
        data = self.take(self._unit) if speed is None else self._caught_up(speed)
        if len(data) == self._unit and self._concealer is None:
            self._carried = 0
            self._recent.append(data)
            return data
        concealer = self._concealer
        if concealer is None:
            concealer = self._concealer = Concealer(self._codec.sample_rate)
            concealer.heard(self.pcm(b"".join(self._recent)))
        pcm = concealer.heard(self.pcm(data))
        missing = self._codec.frame_samples - pcm.size
        if missing:
            if not data:
                self._carried += 1
                if self._ending or self._carried > _CARRY_FRAMES:
                    self.stop()
                    return None
            invented = concealer.lost(missing)
            if self._carried == _CARRY_FRAMES:
                invented = ramp(invented, 1.0, 0.0)
            pcm = np.concatenate([pcm, invented])
        elif not concealer.concealing:
            self._concealer = None
            self._carried = 0
        stored = self.store(pcm)
        self._recent.append(stored)
        return stored

    def _caught_up(self, speed: float) -> bytes:
        """The next frame, or what there is of one, while something is to be left out."""
        if self._catch_up is None:
            self._catch_up = CatchUp(self._codec.sample_rate)
        width = self._width
        data = self.take(max(self._unit, self._catch_up.ahead * width))
        frame, used = data[: self._unit], self._unit
        if len(data) > self._unit:
            pcm, samples = self._catch_up.next(self.pcm(data), speed)
            if samples != self._codec.frame_samples:
                frame, used = self.store(pcm), samples * width
        self.put_back(data[used:])
        return frame

    def stop(self) -> None:
        """The talkspurt is over."""
        self._catch_up = None
        self.started = False
        self.queued = 0
        self._carried = 0
        self._ending = False
        self._concealer = None
        self._recent.clear()
        if self._resampler is not None:
            self._resampler.reset()

    def fade_out(self, sample_rate: int) -> None:
        """Keep the next 10 ms, faded to nothing, and drop the rest."""
        width = self._width
        data = self.take(sample_rate * _FADE_MS // 1000 * width)
        self._parts.clear()
        self._offset = self.size = 0
        if not (self.started and data):
            self.stop()
            return
        tail = np.concatenate([ramp(self.pcm(data), 1.0, 0.0), silence(self._codec.frame_samples)])
        self.put(self.store(tail)[: self._unit])
        self._ending = True


class Speech:
    """All that one leg hears."""

    __slots__ = (
        "_bound", "_codec", "_form", "_lags", "_mixer", "_most", "_passing", "_prebuffer", "_second", "_sources", "_unit", "_way", "hurries", "lag", "started_at", "voices",
    )  # fmt: skip

    def __init__(
        self,
        codec: Codec,
        prebuffer: Prebuffer,
        backlog_max_ms: int,
        lag_max_ms: int,
        lags: list[float],
        way: Way | None = None,
    ) -> None:
        """`lags` is given the most that each talkspurt was behind, in seconds, when it is over; `way` is told of speech that may go by without asking here."""
        self._codec = codec
        self._form = Stored.of(codec)
        self._unit = self._form.unit
        self._second = self._unit * 1000 // FRAME_MS
        self._prebuffer = prebuffer
        self._most = self._unit * (backlog_max_ms // FRAME_MS)
        self._bound = lag_max_ms / 1000
        self._lags = lags
        self.hurries = True
        """Whether it catches up when it is behind."""
        self.lag = 0.0
        """Seconds by which what was taken last was behind."""
        self._mixer = Mixer(codec.sample_rate)
        self._sources: dict[str, Source] = {}
        self._way = way
        self._passing: Source | None = None
        """Whose speech goes by without lying here and without being asked about, until anything else happens here."""
        self.voices: dict[int, HeardVoice] = {}
        """Other legs' own voices, by their row."""
        self.started_at: list[float] = []
        """`received_at` of talkspurts that began since the caller last took them."""

    @property
    def active(self) -> bool:
        """Whether `next` may have something to say, now or soon."""
        return bool(self.voices) or any(s.size or s.started for s in self._sources.values())

    @property
    def queued_frames(self) -> float:
        """Frames of speech that wait."""
        return sum(s.size for s in self._sources.values()) / self._unit

    @property
    def alone(self) -> bool:
        """Whether frames go out as they lie here: one speaker, nobody's own voice."""
        if self.voices:
            return False
        return len(self._sources) == 1 or sum(1 for s in self._sources.values() if s.size or s.started) == 1

    @property
    def dry(self) -> bool:
        """Whether `next` would make its frame up, of nothing but what was said before."""
        return self.alone and any(source.dry for source in self._sources.values())

    def play(self, name: str, encoding: str, rate: int, payload: bytes, now: float, received_at: float) -> int:
        """Queue a piece of speech; the number of 20 ms frames dropped because too much waits already, the oldest.

        :raises MediaError: when it is no sound of that encoding. :raises ValueError: for an impossible rate.
        """
        self._stop_passing()
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = Source(self._codec, self._form)
        data = source.convert(encoding, rate, payload)
        if not data:
            return 0
        if not source.size and not source.started:
            source.first_at, source.received_at, source.queued, source.worst_lag = now, received_at, 0, 0.0
        elif source.queued:
            self._measure(source, now)
        source.arrived(len(data), received_at)
        source.put(data)
        excess = source.size - self._most
        if excess <= 0:
            return 0
        frames = -(-excess // self._unit)
        source.drop_oldest(frames * self._unit)
        return frames

    def passes(self, name: str, encoding: str, rate: int, size: int, now: float) -> bool:
        """Whether `size` bytes of `name`'s speech can go out as they are and at once, behind what is on its way; counts them if so."""
        self._stop_passing()
        source = self._sources.get(name)
        if (
            source is None
            or encoding != self._form.encoding
            or rate != self._codec.sample_rate
            or size % self._unit
            or not self.alone
            or self._mixer.gain != 1.0
            or not source.let_pass()
        ):
            return False
        self._measure(source, now)
        source.queued += size
        if self._way is not None:
            self._passing = source
            self._way.begin(name, source.first_at, source.queued)
        return True

    def _stop_passing(self) -> None:
        """What goes by from now on, is asked about; what went by is counted."""
        if self._passing is not None and self._way is not None:
            self._passing.queued = self._way.end()
            self._passing = None

    def plain(self, now: float, frames: int) -> bytes:
        """Up to `frames` frames, joined, that need no mixing, or none: ask `next` then."""
        self._stop_passing()
        if not self.alone or self._mixer.gain != 1.0:
            return b""
        for source in self._sources.values():
            if self._ready(source, now):
                self.lag = source.lag(now)
                return source.plain(frames) if self._speed(self.lag) is None else b""
        return b""

    def recall(self, frames: list[bytes]) -> None:
        """The last frames that went out by `plain` or past here: what a gap is filled from."""
        for source in self._sources.values():
            if source.started:
                source.recall(frames)

    def next(self, now: float) -> bytes | None:
        """One frame as it lies ready, or None for silence."""
        self._stop_passing()
        stored = []
        sounds: list[Pcm] = []
        behind = 0.0
        for name, source in list(self._sources.items()):
            if not self._ready(source, now):
                continue
            lag = source.lag(now)
            behind = max(behind, lag)
            data = source.next(self._speed(lag))
            if data is not None:
                stored.append((source, data))
                continue
            self._lags.append(source.worst_lag)
            if len(self._sources) > 16:
                del self._sources[name]
        self.lag = behind
        for row, voice in list(self.voices.items()):
            pcm = voice.next(under=bool(stored))
            if pcm is not None:
                sounds.append(pcm)
            if voice.gone:
                del self.voices[row]
        if len(stored) == 1 and not sounds and self._mixer.gain == 1.0:
            return stored[0][1]
        sounds.extend(source.pcm(data) for source, data in stored)
        if not sounds:
            return None
        mixed = self._mixer.mix(sounds)
        return self._codec.encoder().encode(mixed) if self._form.is_law else mixed.tobytes()

    def _speed(self, lag: float) -> float | None:
        return catchup.speed(lag, self._bound) if self.hurries else None

    def _measure(self, source: Source, now: float) -> None:
        self._prebuffer.arrived(now - source.first_at - source.queued / self._second)

    def _ready(self, source: Source, now: float) -> bool:
        if source.started:
            return True
        if not source.size:
            return False
        burst = source.size >= self._unit * (_BURST_MS // FRAME_MS)
        if not burst and not self._prebuffer.over(now, source.first_at, source.received_at):
            return False
        source.started = True
        self.started_at.append(source.received_at)
        return True

    def put_back(self, data: bytes) -> None:
        """Frames that were taken by `plain` and not sent after all."""
        self._stop_passing()
        for source in self._sources.values():
            if source.started:
                source.put_back(data)
                return

    def flush(self, name: str | None) -> None:
        """Drop what waits, of one speaker or all, fading out over 10 ms."""
        self._stop_passing()
        for key, source in self._sources.items():
            if name is None or key == name:
                source.fade_out(self._codec.sample_rate)

    def hear(self, row: int, gain: float, duck: float) -> HeardVoice | None:
        """Play leg `row`'s own voice at a factor `gain`, and another of `duck` while speech is played; 0 fades it out. The voice, if it is a new one."""
        self._stop_passing()
        voice = self.voices.get(row)
        if voice is not None and not voice.gone:
            voice.target_gain, voice.duck = gain, duck
            return None
        if gain == 0.0:
            return None
        voice = self.voices[row] = HeardVoice(self._codec.sample_rate, gain, duck)
        return voice

    def leave(self, row: int) -> None:
        """Leg `row` is closed: its voice fades out, and whoever has the row next is somebody else."""
        voice = self.voices.pop(row, None)
        if voice is not None:
            voice.target_gain = 0.0
            self.voices[min(0, 0, *self.voices) - 1] = voice

    def close(self) -> None:
        """Nobody listens here any more."""
        for voice in self.voices.values():
            voice.stop()


def rate_is_usable(rate: int) -> bool:
    """Whether speech of that sample rate can be played."""
    return 4000 <= rate <= _MAX_RATE
