"""Other parties' own voices, as legs hear them: under the translation, or as they are.

They are mixed into a leg's frame when its packet is made, so that speech waits, is staged and goes by as if there were none. A voice is a ring of samples
with one frame or two of delay; clocks that differ are made good by overlapping frames or making one up, never by a cut. `mix` is the reference for the
loop in tick.c, to the bit; what takes a voice that ran dry stays here.
"""

from __future__ import annotations

import ctypes
import sys
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs import g711
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.conceal import Concealer
from kallglot_ari.audio.frame import FULL_SCALE, Pcm, to_pcm
from kallglot_ari.audio.mix import ATTACK_MS, KNEE, RECOVERY, saturate
from kallglot_ari.media.budget import Budget
from kallglot_ari.media.legs import STAGED, Legs, Record, grown
from kallglot_ari.media.native import VOICE_BYTES, Native
from kallglot_ari.media.stored import Stored

TARGET, MOST = 2, 5
"""Frames: how many to wait for, and how many at most."""
DOWN, UP = 0.25, 0.02
"""By how much the factor of ducking changes a frame: 6 dB take 40 ms down, and half a second up, so that a short pause in speech changes little."""
_PAST = 3
"""Frames that were heard and are kept, for a gap to be filled from."""
_RING = MOST + 1 + _PAST + 1
_PATCHES = 12
"""Gaps filled from the voice's own sound in one turn; where the network stumbles for all at once, those past that fade out."""

VOICE = np.dtype(
    [
        ("gain", "f8"), ("target", "f8"), ("duck", "f8"), ("ducked", "f8"), ("head", "i8"), ("size", "i8"),
        ("next_spoken", "i8"), ("next_heard", "i8"), ("primed", "?"), ("patched", "?"),
    ],
    align=True,
)  # fmt: skip
"""`head` and `size`: the samples of the ring that wait; `next_…`: the speaker's and the listener's next voice, -1 for none."""
assert VOICE.itemsize == VOICE_BYTES

_LAW, _SWAP, _COPY, _DECODED = range(4)
_int, _double, _pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class _Fields(ctypes.Structure):
    """`originals` of tick.c."""

    _fields_ = [
        *((name, _int) for name in ("frame", "ring", "unit", "staged_frames", "most", "target", "attack", "said_as")),
        *((name, _double) for name in ("down", "up", "recovery", "knee")),
        ("full", ctypes.c_float), ("bend", ctypes.c_float),
        *((name, _pointer) for name in (
            "said", "decode", "encode", "weights", "voices", "sound", "ears", "legs", "staged", "mix", "work",
        )),
    ]  # fmt: skip


class Originals:
    """Of all legs. Every method runs on the tick's thread."""

    def __init__(self, receive: Codec, send: Codec, form: Stored, library: Native | None = None) -> None:
        """Voices come in as `receive` has them and are heard as `send` has them, at one rate."""
        self._frame = send.frame_samples
        self._rate = send.sample_rate
        self._attack = max(1, self._rate * ATTACK_MS // 1000)
        self._steps = np.arange(self._frame, dtype=np.float64)
        self._weights = np.linspace(0.0, 1.0, self._frame, dtype=np.float32)
        self._tables = form.tables
        self._voices = np.zeros(0, dtype=VOICE)
        self._sound: NDArray[np.int16] = np.zeros((0, _RING * self._frame), dtype=np.int16)
        self._free: list[int] = []
        self._of: dict[int, tuple[int, int]] = {}
        """Listener and speaker of each voice in use; -1 for a speaker who left."""
        self._heard: dict[int, list[int]] = {}
        """Voices by their listener."""
        self._spoken: dict[int, list[int]] = {}
        """Voices by their speaker."""
        self._concealers: dict[int, Concealer] = {}
        self._patches = Budget(_PATCHES)
        self._library = library
        self._version = -1
        self._left = np.zeros(0, dtype=np.int64)
        self._work = np.zeros((2, self._frame), dtype=np.float32)
        self._said = g711.TABLES[receive.name][0] if receive.name in g711.TABLES else None
        self._fields = _Fields(
            frame=self._frame, ring=_RING * self._frame, unit=form.unit, staged_frames=STAGED, most=MOST, target=TARGET,
            attack=self._attack, down=DOWN, up=UP, recovery=RECOVERY, knee=KNEE, full=KNEE, bend=FULL_SCALE - KNEE,
            said_as=_said_as(receive), said=_at(self._said), decode=_at(self._tables and self._tables[0]), encode=_at(self._tables and self._tables[1]),
            weights=self._weights.ctypes.data, work=self._work.ctypes.data,
        )  # fmt: skip
        self.pointer = ctypes.addressof(self._fields)
        """What tick.c knows all this by."""

    def __bool__(self) -> bool:
        """Whether anybody hears anybody."""
        return bool(self._of)

    # --- who hears whom ---------------------------------------------------------------------------------------------

    def hear(self, legs: Legs, listener: int, speaker: int, gain: float, duck: float) -> None:
        """Let `listener` hear `speaker` at a factor `gain`, and another of `duck` while speech is played; 0 fades it out."""
        for voice in self._heard.get(listener, ()):
            if self._of[voice][1] == speaker:
                self._voices["target"][voice], self._voices["duck"][voice] = gain, duck
                return
        if gain == 0.0:
            return
        voice = self._new()
        self._voices[voice] = (0.0, gain, duck, 1.0, 0, 0, -1, -1, False, False)
        self._sound[voice] = 0
        self._of[voice] = listener, speaker
        self._heard.setdefault(listener, []).append(voice)
        self._spoken.setdefault(speaker, []).append(voice)
        self._link(legs, listener, speaker)

    def close(self, legs: Legs, row: int) -> None:
        """A leg is closed: it hears nobody, and where it is heard it fades out; whoever has the row next is somebody else."""
        for voice in self._heard.get(row, [])[:]:
            self._drop(legs, voice)
        for voice in self._spoken.pop(row, ()):
            self._of[voice] = self._of[voice][0], -1
            self._voices["target"][voice] = 0.0
            self._voices["next_spoken"][voice] = -1
        self._link(legs, row, row)

    def _new(self) -> int:
        if not self._free:
            old = len(self._voices)
            size = max(16, 2 * old)
            self._voices = grown(self._voices, size)
            self._voices["target"][old:] = 1.0
            self._sound = grown(self._sound, size)
            self._free = list(range(size - 1, old - 1, -1))
            self._version = -1
        return self._free.pop()

    def _drop(self, legs: Legs, voice: int) -> None:
        listener, speaker = self._of.pop(voice)
        for table, row in ((self._heard, listener), (self._spoken, speaker)):
            if row in table:
                table[row].remove(voice)
                if not table[row]:
                    del table[row]
        self._concealers.pop(voice, None)
        self._voices["target"][voice] = 1.0
        self._free.append(voice)
        self._link(legs, listener, speaker)

    def _link(self, legs: Legs, listener: int, speaker: int) -> None:
        """Write down, where machine code looks, which voices these have."""
        for table, row, first, following in (
            (self._heard, listener, "hears", "next_heard"), (self._spoken, speaker, "spoken", "next_spoken"),
        ):  # fmt: skip
            if row < 0:
                continue
            voices = [*table.get(row, ()), -1]
            for voice, after in pairwise(voices):
                self._voices[following][voice] = after
            legs.ears[first][row] = voices[0]
        if speaker >= 0:
            legs.tapped[speaker] = speaker in self._spoken

    # --- sound in ---------------------------------------------------------------------------------------------------

    def put(self, speaker: int, pcm: Pcm) -> None:
        """What a leg says, of any length."""
        if speaker in self._spoken:
            self.put_each(np.array([speaker]), pcm[None])

    def put_each(self, speakers: NDArray[np.int64], pcm: NDArray[np.int16]) -> None:
        """What each of these legs says, shape (n, samples)."""
        spoken = [self._spoken.get(row, ()) for row in speakers.tolist()]
        which = np.array([voice for voices in spoken for voice in voices], dtype=np.int64)
        by = np.repeat(np.arange(speakers.size), [len(voices) for voices in spoken])
        for at in range(0, pcm.shape[1], self._frame):
            self._put(which, pcm[by, at : at + self._frame])

    def _put(self, which: NDArray[np.int64], pcm: NDArray[np.int16]) -> None:
        """A frame or less of each of these voices. Where too many would wait, the first two become one."""
        heads, sizes, ring = self._voices["head"], self._voices["size"], self._sound.shape[1]
        index = ((heads[which] + sizes[which])[:, None] + np.arange(pcm.shape[1])) % ring
        self._sound[which[:, None], index] = pcm
        sizes[which] += pcm.shape[1]
        full = which[sizes[which] >= (MOST + 1) * self._frame]
        if full.size:
            first = (heads[full, None] + np.arange(self._frame)) % ring
            second, rows = (first + self._frame) % ring, full[:, None]
            before, after = self._sound[rows, first], self._sound[rows, second]
            self._sound[rows, second] = to_pcm(before * (1.0 - self._weights) + after * self._weights)
            heads[full] = (heads[full] + self._frame) % ring
            sizes[full] -= self._frame

    # --- sound out --------------------------------------------------------------------------------------------------

    def mix(self, legs: Legs, rows: NDArray[np.int64], now: float) -> None:
        """For those of `rows` that hear somebody: what they are sent next, if it is more than their speech, in `legs.mix`."""
        self._patches.begin(now)
        rows = rows[legs.ears["hears"][rows] >= 0]
        if self._library is not None:
            self.bind(legs)
            rows = self._left[: self._library.mix(self.pointer, rows.ctypes.data, rows.size, self._left.ctypes.data)]
        if rows.size:
            self._mix(legs, rows.copy())
        gone = np.flatnonzero((self._voices["target"] == 0.0) & (self._voices["gain"] == 0.0))
        for voice in gone.tolist():
            if legs.ears["gain"][self._of[voice][0]] == 1.0:  # else what is left would become louder at once
                self._drop(legs, voice)

    def bind(self, legs: Legs) -> None:
        """Let machine code know where everything lies: before it takes packets."""
        if self._version == legs.version:
            return
        self._version = legs.version
        self._left = np.zeros(legs.capacity, dtype=np.int64)
        fields = self._fields
        for name, array in (
            ("voices", self._voices), ("sound", self._sound), ("ears", legs.ears), ("legs", legs.outbound),
            ("staged", legs.staged), ("mix", legs.mix),
        ):  # fmt: skip
            setattr(fields, name, array.ctypes.data)

    def _mix(self, legs: Legs, rows: NDArray[np.int64]) -> None:
        """`mix` for rows that all hear somebody."""
        heard = [self._heard[row] for row in rows.tolist()]
        which = np.array([voice for voices in heard for voice in voices])
        at = np.repeat(np.arange(rows.size), [len(voices) for voices in heard])
        speech = legs.count[rows] > 0
        sounds, plays = self._sounds(which, speech[at])
        total = np.zeros((rows.size, self._frame), dtype=np.float32)
        np.add.at(total, at[plays], sounds[plays].astype(np.float32))
        spoken = np.flatnonzero(speech)
        total[spoken] += self._pcm(legs.staged[rows[spoken], legs.head[rows[spoken]]])
        count = np.bincount(at[plays], minlength=rows.size) + speech
        gain = legs.ears["gain"][rows]
        limited = (count > 1) | ((count == 1) & (gain != 1.0))
        if limited.any():
            total[limited], gain[limited] = self._limit(total[limited], gain[limited])
        gain[count == 0] = 1.0
        legs.ears["gain"][rows] = gain
        mixed = limited | ((count == 1) & ~speech)
        legs.ears["mixed"][rows] = mixed
        if mixed.any():
            legs.mix[rows[mixed]] = self._stored(to_pcm(total[mixed]))

    def _sounds(
        self, which: NDArray[np.int64], under: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """The next frame of each of these voices at its gain, `under` speech or not, and whether there is one."""
        records, frame = self._voices[which], self._frame
        before = records["gain"] * records["ducked"]
        records["ducked"] = np.where(
            under, np.maximum(records["duck"], records["ducked"] - DOWN), np.minimum(1.0, records["ducked"] + UP)
        )
        begins = ~records["primed"] & (records["size"] >= TARGET * frame)
        before[begins] = 0.0
        plays = records["primed"] | begins
        records["primed"] = plays
        ready = plays & (records["size"] >= frame) & ~records["patched"]
        sounds = np.zeros((which.size, frame), dtype=np.int16)
        index = (records["head"][ready, None] + np.arange(frame)) % self._sound.shape[1]
        sounds[ready] = self._sound[which[ready, None], index]
        records["head"][ready] = (records["head"][ready] + frame) % self._sound.shape[1]
        records["size"][ready] -= frame
        for number in np.flatnonzero(plays & ~ready).tolist():
            sounds[number] = self._patched(int(which[number]), records[number : number + 1])
        records["gain"] = np.where(plays | (records["target"] == 0.0), records["target"], records["gain"])
        after = records["gain"] * records["ducked"]
        self._voices[which] = records
        ramped = np.flatnonzero((before != 1.0) | (after != 1.0))
        sounds[ramped] = self._ramped(sounds[ramped], before[ramped], after[ramped])
        return sounds, plays

    def _patched(self, voice: int, record: NDArray[Record]) -> Pcm:
        """A frame of a voice that ran dry, or that is joined to what was made up."""
        concealer = self._concealers.get(voice)
        size, frame, ring = int(record["size"][0]), self._frame, self._sound[voice]
        head = int(record["head"][0])
        if concealer is None:
            past = ring[(head + np.arange(-_PAST * frame, 0)) % ring.size]
            if not self._patches.take():
                record["primed"] = False
                return to_pcm(past[: -frame - 1 : -1] * (1.0 - self._weights))  # back from its last sample: no jump
            concealer = self._concealers[voice] = Concealer(self._rate)
            concealer.heard(past)
        if size >= frame:
            pcm = concealer.heard(ring[(head + np.arange(frame)) % ring.size])
            record["head"], record["size"] = (head + frame) % ring.size, size - frame
        else:
            pcm = concealer.lost(frame)
            record["primed"] = bool(pcm.any())
        record["patched"] = bool(record["primed"][0]) and concealer.concealing
        if not record["patched"][0]:
            del self._concealers[voice]
        return pcm

    def _ramped(self, pcm: NDArray[np.int16], start: NDArray[np.float64], end: NDArray[np.float64]) -> Pcm:
        """Each row with a gain that goes evenly from `start` to `end` over its length."""
        return to_pcm(pcm.astype(np.float32) * self._curve(start, end, self._frame))

    def _curve(self, start: NDArray[np.float64], end: NDArray[np.float64], size: int) -> NDArray[np.float32]:
        step = (end - start) / max(1, size - 1)
        curve: NDArray[np.float32] = (self._steps[:size] * step[:, None] + start[:, None]).astype(np.float32)
        curve[:, -1] = end
        return curve

    def _limit(
        self, total: NDArray[np.float32], gain: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """As `Mixer` does: the gain steps back over 5 ms where the sum is too loud and recovers over a second."""
        peak = np.abs(total).max(axis=1).astype(np.float64)
        wanted = np.minimum(np.minimum(1.0, gain + RECOVERY), KNEE / np.maximum(peak, 1.0))
        curve = np.repeat(wanted.astype(np.float32)[:, None], self._frame, axis=1)
        curve[:, : self._attack] = self._curve(gain, wanted, self._attack)
        return saturate(total * curve), wanted

    def _pcm(self, stored: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Frames as they lie ready, as samples."""
        return self._tables[0][stored] if self._tables else stored.view(np.int16)

    def _stored(self, pcm: NDArray[np.int16]) -> NDArray[np.uint8]:
        return self._tables[1][pcm.view(np.uint16)] if self._tables else pcm.view(np.uint8)


def _said_as(codec: Codec) -> int:
    """How machine code has samples of a payload; of a codec that it does not take packets of, nothing is asked."""
    if codec.name in g711.TABLES:
        return _LAW
    if codec.name == "g722":
        return _DECODED
    little = codec.name.endswith("le")
    return _COPY if little == (sys.byteorder == "little") else _SWAP


def _at(array: NDArray[Any] | None) -> int:
    """Where it lies; 0 for none."""
    return 0 if array is None else array.ctypes.data
