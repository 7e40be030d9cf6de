"""The queue of what one speaker says to one leg, and how a gap in it is carried over."""

from __future__ import annotations

from collections import deque

import numpy as np

from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.conceal import Concealer
from kallglot_ari.audio.frame import FRAME_MS, Pcm, silence
from kallglot_ari.audio.mix import cross_fade, ramp
from kallglot_ari.audio.resample import Resampler
from kallglot_ari.media.hurry import Hurried, Hurry
from kallglot_ari.media.stored import Stored

_CARRY_FRAMES = 2
"""Frames of repetition before a talkspurt is over."""
_FADE_MS = 10

_ANEW, _ANEW_SECONDS = 0.8, 0.3
"""A piece that comes sooner after the one before than this share of its length, and than that, is of the same burst: it waits because it is early."""


class Source:
    """The queue of one speaker. Unit: the bytes of a frame as `Speech` stores them, G.711 or 16-bit samples."""

    __slots__ = (
        "_anew", "_carried", "_catch_up", "_codec", "_concealer", "_ending", "_fade", "_form", "_hurry", "_last", "_law", "_offset", "_parts", "_put", "_recent", "_resampler", "_second", "_unit", "_width", "first_at", "queued", "received_at", "size", "started", "worst_lag",
    )  # fmt: skip

    def __init__(self, codec: Codec, form: Stored, hurry: Hurry) -> None:
        self._codec = codec
        self._hurry = hurry
        self._form = form
        self._law = form.is_law
        self._unit = unit = form.unit
        self._second = unit * 1000 // FRAME_MS
        self._width = unit // codec.frame_samples
        self._fade = codec.sample_rate * _FADE_MS // 1000
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
        self._catch_up: Hurried | None = None
        self._put = 0
        """Bytes that were ever put in."""
        self._anew: tuple[float, int] | None = None
        """The last piece that was no further part of a burst: when it came, and how many bytes had been put in before it. None: it went by."""
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
        if not self.size or self._anew is None:
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

    def _front(self, size: int) -> tuple[bytes, int]:
        """Where up to `size` stored bytes, those that come next, lie in one piece: the piece, and the place in it."""
        parts = self._parts
        there = len(parts[0]) - self._offset
        if there < min(size, self.size):
            joined = [parts.popleft()[self._offset :]]
            while there < size and parts:
                joined.append(parts.popleft())
                there += len(joined[-1])
            parts.appendleft(b"".join(joined))
            self._offset = 0
        return parts[0], self._offset

    def drop_oldest(self, size: int) -> None:
        """Leave out `size` bytes: what would come next goes over, within 10 ms, into what comes after them."""
        fade = min(self._fade * self._width, size, max(0, self.size - size))
        before = self.pcm(self.take(fade))
        self.take(size - fade)
        after = self.pcm(self.take(fade))
        self.put_back(self.store(cross_fade(before if self.started else silence(after.size), after)))

    def let_pass(self) -> bool:
        """Whether speech that comes now may be sent without lying here: under way, nothing waits, no gap is being joined. No gap is carried any more if so."""
        if not self.started or self.size or self._concealer is not None or self._ending:
            return False
        self._carried = 0
        return True

    def passed(self, size: int) -> None:
        """`size` bytes went out past here: none of them, should they come back unsent, is behind."""
        self.queued += size
        self._put += size
        self._anew = None

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
        if self._catch_up is not None:
            self._catch_up.rest()
        whole = min(frames, self.size // self._unit)
        if whole:
            self._carried = 0
        return self.take(whole * self._unit)

    def next(self, speed: float | None = None) -> bytes | None:
        """One frame of stored bytes, with gaps carried over; None when the talkspurt is over. With a `speed`, some of it is left out."""
        data = self._caught_up(speed)
        if len(data) == self._unit and self._concealer is None:
            self._carried = 0
            self._recent.append(data)
            return data
        concealer = self._concealer
        if concealer is None:
            concealer = self._concealer = self._new_concealer()
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

    def _new_concealer(self) -> Concealer:
        """One that has heard what was sent last."""
        concealer = Concealer(self._codec.sample_rate)
        concealer.heard(self.pcm(b"".join(self._recent)))
        return concealer

    def _caught_up(self, speed: float | None) -> bytes:
        """The next frame, or what there is of one; with a `speed` something may be left out."""
        if speed is None or self.size <= self._unit:
            if self._catch_up is not None:
                self._catch_up.rest()
            return self.take(self._unit)
        if self._catch_up is None:
            self._catch_up = self._hurry.begin()
        ahead = self._catch_up.ahead
        data, at = self._front(ahead)
        frame, used = self._catch_up.next(data, at, min(ahead, self.size), speed)
        taken = self.take(used)
        return taken if frame is None else frame

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

    def fade_out(self) -> None:
        """Keep the next 10 ms, faded to nothing, and drop the rest; where there are none, they are made up."""
        data = self.take(self._fade * self._width)
        self._parts.clear()
        self._offset = self.size = 0
        if not self.started or (not data and (self._ending or self._carried >= _CARRY_FRAMES)):
            self.stop()
            return
        pcm, missing = self.pcm(data), self._fade - len(data) // self._width
        if missing or self._concealer is not None:
            concealer = self._concealer or self._new_concealer()
            self._concealer = None
            pcm = np.concatenate([concealer.heard(pcm), concealer.lost(missing)])
        tail = np.concatenate([ramp(pcm, 1.0, 0.0), silence(self._codec.frame_samples)])
        self.put(self.store(tail)[: self._unit])
        self._ending = True
