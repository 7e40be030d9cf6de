"""What one leg is to hear: translated speech that comes in bursts, as frames of 20 ms. Other parties' own voices are added to them last (`originals`).

Speech waits here, deep and bounded; what goes out is one frame at a time. A talkspurt begins after a short wait (see `rtp.playout`), is carried over
a gap by repeating its last pitch periods, and ends when nothing has come for two frames. Speech that waits too long is caught up with (`audio.catchup`).
"""

from __future__ import annotations

from typing import Protocol

from kallglot_ari.audio import catchup
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.frame import FRAME_MS
from kallglot_ari.audio.mix import Mixer
from kallglot_ari.errors import MediaError
from kallglot_ari.media.hurry import UNHURRIED, Hurry
from kallglot_ari.media.source import Source
from kallglot_ari.media.stored import Stored
from kallglot_ari.rtp.playout import Prebuffer

SPEAKERS_MAX = 64
"""Who may be heard by one leg at once: more than a conference has, and few enough to mix in a tick whoever names them."""
_BURST_MS = 200
"""With so much of it there a talkspurt begins at once: it did not come at the pace of speech."""


class Way(Protocol):
    """Where it is noted that further pieces of a talkspurt may go by."""

    def begin(self, source: str, first_at: float, queued: int) -> None:
        """From now on they do: the talkspurt's first piece came at `first_at`, `queued` bytes came up to now."""
        ...

    def end(self) -> int:
        """They no longer do; the bytes that came up to now."""
        ...


class Speech:
    """All that one leg hears."""

    __slots__ = (
        "_bound", "_codec", "_form", "_hurry", "_lags", "_mixer", "_most", "_passing", "_prebuffer", "_second", "_sources", "_unit", "_way", "hurries", "lag", "started_at",
    )  # fmt: skip

    def __init__(
        self,
        codec: Codec,
        prebuffer: Prebuffer,
        backlog_max_ms: int,
        lag_max_ms: int,
        lags: list[float],
        hurry: Hurry,
        way: Way | None = None,
    ) -> None:
        """`lags` is given the most that each talkspurt was behind, in seconds, when it is over; `hurry` is what all legs share; `way` is told of speech that may go by without asking here."""
        self._codec = codec
        self._form = Stored.of(codec)
        self._unit = self._form.unit
        self._second = self._unit * 1000 // FRAME_MS
        self._prebuffer = prebuffer
        self._most = self._unit * (backlog_max_ms // FRAME_MS)
        self._bound = lag_max_ms / 1000
        self._lags = lags
        self._hurry = hurry
        self.hurries = True
        """Whether it catches up when it is behind."""
        self.lag = 0.0
        """Seconds by which what was taken last was behind."""
        self._mixer = Mixer(codec.sample_rate)
        self._sources: dict[str, Source] = {}
        self._way = way
        self._passing: Source | None = None
        """Whose speech goes by without lying here and without being asked about, until anything else happens here."""
        self.started_at: list[float] = []
        """`received_at` of talkspurts that began since the caller last took them."""

    @property
    def under_way(self) -> bool:
        """Whether speech is being said or waits: `next` may have something to say, now or soon."""
        return any(s.size or s.started for s in self._sources.values())

    @property
    def queued_frames(self) -> float:
        """Frames of speech that wait."""
        return sum(s.size for s in self._sources.values()) / self._unit

    @property
    def alone(self) -> bool:
        """Whether frames go out as they lie here: one speaker."""
        return len(self._sources) == 1 or sum(1 for s in self._sources.values() if s.size or s.started) == 1

    @property
    def dry(self) -> bool:
        """Whether `next` would make its frame up, of nothing but what was said before."""
        return self.alone and any(source.dry for source in self._sources.values())

    def play(self, name: str, encoding: str, rate: int, payload: bytes, now: float, received_at: float) -> int:
        """Queue a piece of speech; the number of 20 ms frames dropped because too much waits already, the oldest.

        :raises MediaError: when it is no sound of that encoding, or too many speak already. :raises ValueError: for an impossible rate.
        """
        self._stop_passing()
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = self._new_source()
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

    def _new_source(self) -> Source:
        if len(self._sources) >= SPEAKERS_MAX:
            for name in [name for name, source in self._sources.items() if not source.size and not source.started]:
                del self._sources[name]
            if len(self._sources) >= SPEAKERS_MAX:
                raise MediaError(f"speech: expected at most {SPEAKERS_MAX} speakers at once, found one more")
        return Source(self._codec, self._form, self._hurry)

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
        source.passed(size)
        if self._way is not None:
            self._passing = source
            self._way.begin(name, source.first_at, source.queued)
        return True

    def _stop_passing(self) -> None:
        """What goes by from now on, is asked about; what went by is counted."""
        if self._passing is not None and self._way is not None:
            self._passing.passed(self._way.end() - self._passing.queued)
            self._passing = None

    def plain(self, now: float, frames: int) -> bytes:
        """Up to `frames` frames, joined, that need no mixing, or none: ask `next` then."""
        self._stop_passing()
        if not self.alone or self._mixer.gain != 1.0:
            return b""
        for source in self._sources.values():
            if self._ready(source, now):
                self.lag = source.lag(now)
                if self._speed(self.lag) is None:
                    return source.plain(frames)
                return b"" if self._hurry.budget.left else source.plain(UNHURRIED)
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
        behind = 0.0
        for name, source in list(self._sources.items()):
            if not self._ready(source, now):
                continue
            lag = source.lag(now)
            behind = max(behind, lag)
            speed = self._speed(lag)
            data = source.next(speed if speed is None or self._hurry.budget.take() else None)
            if data is not None:
                stored.append((source, data))
                continue
            self._lags.append(source.worst_lag)
            if len(self._sources) > 16:
                del self._sources[name]
        self.lag = behind
        if not stored:
            self._mixer.rest()
            return None
        if len(stored) == 1 and self._mixer.gain == 1.0:
            return stored[0][1]
        mixed = self._mixer.mix([source.pcm(data) for source, data in stored])
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
                source.fade_out()
