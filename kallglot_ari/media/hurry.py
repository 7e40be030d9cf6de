"""Catching up for all legs: by machine code where there is some, and no more of it in a tick than a tick has time for.

After an overload everybody is behind at once. What catching up took then made the next tick late, and everybody further behind; so most of them wait for
their turn, and say meanwhile what they have to say as it came.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import numpy as np

from kallglot_ari.audio.catchup import ALIKE, PAUSE_AHEAD, PAUSE_FRAMES, CatchUp, measures
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.frame import Pcm
from kallglot_ari.media.budget import Budget
from kallglot_ari.media.legs import Legs
from kallglot_ari.media.native import Native
from kallglot_ari.media.stored import Stored

MOST, MOST_NUMPY = 32, 8
"""Frames hurried in one turn of the tick, with machine code and without."""
UNHURRIED = 5
"""Frames that are said as they came before a leg asks again."""


class Hurried(Protocol):
    """What of one speaker's stored speech is given out next while it is behind."""

    @property
    def ahead(self) -> int:
        """Bytes of what waits that `next` wants to see."""
        ...

    def next(self, data: bytes, at: int, size: int, speed: float) -> tuple[bytes | None, int]:
        """Of the `size` bytes that wait, more than a frame, `at` bytes into `data`: the next frame and how many it takes the place of; None as they lie."""
        ...

    def rest(self) -> None:
        """Something was given out as it came."""


class _HurryingFields(ctypes.Structure):
    """`hurrying` of hurry.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("frame", "least", "most", "blend", "pause_frames")),
        *((name, ctypes.c_double) for name in ("quiet", "alike")),
        *((name, ctypes.c_void_p) for name in ("fade", "across", "decode", "encode", "sound", "out")),
    ]


class _State(ctypes.Structure):
    """`hurried` of hurry.h."""

    _fields_ = [("pause", ctypes.c_int64), ("owed", ctypes.c_double)]


class Hurry:
    """What all speakers share who are heard by one codec."""

    def __init__(self, codec: Codec, library: Native | None) -> None:
        self._codec = codec
        self._form = Stored.of(codec)
        self.budget = Budget(MOST_NUMPY if library is None else MOST)
        """Of frames hurried."""
        self._machine = None if library is None else _Machine(codec, self._form, library)

    def begin(self) -> Hurried:
        """For one speaker."""
        if self._machine is None:
            return _ByNumpy(self._codec, self._form)
        return _ByMachine(self._machine)

    def turns(self, legs: Legs, rows: list[int], now: float) -> list[int]:
        """A beat begins in which `rows` are asked what they say next: in which order, those furthest behind first. Each may have several speakers to hurry."""
        self.budget.begin(now)
        if len(rows) == 1:
            return rows
        return [row for _, row in sorted(zip((-legs.lag[rows]).tolist(), rows, strict=True))]


class _ByNumpy:
    def __init__(self, codec: Codec, form: Stored) -> None:
        self._catch_up = CatchUp(codec.sample_rate)
        self._unit, self._width = form.unit, form.unit // codec.frame_samples
        self._law = (codec.decoder(), codec.encoder()) if form.is_law else None

    @property
    def ahead(self) -> int:
        return self._catch_up.ahead * self._width

    def next(self, data: bytes, at: int, size: int, speed: float) -> tuple[bytes | None, int]:
        waiting = data[at : at + size]
        pcm: Pcm = np.frombuffer(waiting, dtype=np.int16) if self._law is None else self._law[0].decode(waiting)
        pcm, samples = self._catch_up.next(pcm, speed)
        used = samples * self._width
        if used == self._unit:
            return None, used
        return pcm.tobytes() if self._law is None else self._law[1].encode(pcm), used

    def rest(self) -> None:
        self._catch_up.rest()


class _Machine:
    """The library's function with one codec's measures and tables."""

    def __init__(self, codec: Codec, form: Stored, library: Native) -> None:
        m = measures(codec.sample_rate)
        self.unit, self.width = form.unit, form.unit // m.frame
        self.ahead, self.ahead_in_pause = (m.frame + m.most) * self.width, m.frame * PAUSE_AHEAD * self.width
        self.call = library.hurry
        self.out = ctypes.create_string_buffer(form.unit)
        self._sound = np.zeros(m.frame + m.most + m.most - m.least + 1)
        self._tables = decode, encode = form.tables or (None, None)
        self._weights = m.fade, m.across
        self._fields = _HurryingFields(
            m.frame, m.least, m.most, m.blend, PAUSE_FRAMES, m.quiet, ALIKE, m.fade.ctypes.data, m.across.ctypes.data,
            None if decode is None else decode.ctypes.data, None if encode is None else encode.ctypes.data,
            self._sound.ctypes.data, ctypes.addressof(self.out),
        )  # fmt: skip
        self.at = ctypes.addressof(self._fields)


class _ByMachine:
    __slots__ = ("_machine", "_state", "_state_at")

    def __init__(self, machine: _Machine) -> None:
        self._machine = machine
        self._state = _State()
        self._state_at = ctypes.addressof(self._state)

    @property
    def ahead(self) -> int:
        machine = self._machine
        return machine.ahead_in_pause if self._state.pause >= PAUSE_FRAMES else machine.ahead

    def next(self, data: bytes, at: int, size: int, speed: float) -> tuple[bytes | None, int]:
        machine = self._machine
        used = machine.call(machine.at, self._state_at, data, at, size // machine.width, speed) * machine.width
        return (None if used == machine.unit else machine.out.raw), used

    def rest(self) -> None:
        self._state.pause = 0
