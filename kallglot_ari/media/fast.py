"""`Listen`'s and `Speak`'s fast paths by the library of `native`.

Arrays that C reads and writes are bound once, and again whenever `Legs.version` says that they are others.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs.base import Codec, Decoder
from kallglot_ari.audio.frame import FRAME_MS, Pcm
from kallglot_ari.media.legs import MIX, STAGED, Legs
from kallglot_ari.media.native import DECODER_BYTES, ENCODER_BYTES, Native
from kallglot_ari.media.stored import SETTLE_FRAMES, Stored
from kallglot_ari.media.udp import BLOCK, NAME_BYTES, STRIDE, Block
from kallglot_ari.media.uplink import Convert
from kallglot_ari.rtp.jitter import CREEP, FORGET, HEADROOM, MARGIN, PATIENCE
from kallglot_ari.rtp.playout import BURST, Prebuffer
from kallglot_ari.rtp.playout import FORGET as FORGET_LATENESS

_CHUNKS = 128
"""Chunks that one call completes at most."""
_COPY, _SWAP, _BYTES, _WORDS, _DECODE = range(5)
CODES = 160
"""Of G.722, that are decoded in one go at most: 20 ms."""
_AS_IT_IS, _G722, _WRITTEN = range(3)
_int, _double, _pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
Completed = Callable[[list[int], list[int], list[int], list[float], list[bytes]], None]


class _TakingFields(ctypes.Structure):
    """`taking` of tick.c."""

    _fields_ = [
        *((name, _int) for name in (
            "stride", "name_bytes", "first_half", "payload_bytes", "step", "clock_rate", "most_ahead", "frame", "chunk",
            "second", "conversion",
        )),
        ("creep", _double), ("forget", _double), ("table", _pointer),
        ("legs", _pointer), ("uplink", _pointer), ("uplink_bytes", _int),
        ("slots", _pointer), ("key_of", _pointer), ("keys", _pointer), ("sorted", _pointer),
        ("connected", _int), ("shift", _int), ("exact", _int), ("mix", ctypes.c_uint64),
        ("held", _pointer), ("now_held", _int), ("decoders", _pointer), ("heard", _pointer),
        ("row_of", _pointer), ("others", _pointer), ("chunk_row", _pointer), ("chunk_start", _pointer),
        ("chunk_at", _pointer), ("chunk_data", _pointer),
        ("chunk_room", _int), ("others_count", _int), ("chunk_count", _int),
    ]  # fmt: skip


class _SendingFields(ctypes.Structure):
    """`sending` of tick.c."""

    _fields_ = [
        *(
            (name, _int)
            for name in (
                "first",
                "unit",
                "payload_bytes",
                "coding",
                "settle",
                "step",
                "staged_frames",
                "packet_bytes",
                "rows",
            )
        ),
        *((name, _double) for name in ("second", "burst", "forget")),
        *((name, _pointer) for name in ("silence", "staged", "packets", "legs", "ways", "encoders", "ears", "mix")),
    ]


class Decoders:
    """G.722's, of all legs (`media/g722.h`): a block of payloads to 16-bit PCM at 16 kHz, in the machine's order of bytes."""

    def __init__(self, library: Native) -> None:
        self._library = library
        self._states = np.zeros((0, DECODER_BYTES), dtype=np.uint8)

    def need(self, rows: int) -> int:
        """Make room for at least `rows`; where the first lies until it is called again."""
        old = len(self._states)
        if rows > old:
            grown = np.zeros((rows, DECODER_BYTES), dtype=np.uint8)
            grown[:old] = self._states
            self._states = grown
            for row in range(old, rows):
                self.forget(row)
        return self._states.ctypes.data

    def forget(self, row: int) -> None:
        """What comes next is of another encoder."""
        self._library.forget(self.need(row + 1), row)

    def __call__(self, rows: NDArray[np.int64], block: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One payload for each of `rows`, shape (n, bytes), to shape (n, 4 × bytes)."""
        codes, size = np.ascontiguousarray(block), block.shape[1]
        if size > CODES:  # several frames in a packet
            parts = [self(rows, codes[:, at : at + CODES]) for at in range(0, size, CODES)]
            return np.concatenate(parts, axis=1)
        out = np.empty((len(codes), 4 * size), dtype=np.uint8)
        at = self.need(int(rows.max(initial=0)) + 1)
        self._library.decode(at, rows.ctypes.data, rows.size, codes.ctypes.data, size, out.ctypes.data)
        return out

    def of(self, row: int) -> Decoder:
        """One leg's, which goes on where the others were."""
        return _RowDecoder(self, row)


class _RowDecoder:
    """Implements `Decoder`."""

    def __init__(self, decoders: Decoders, row: int) -> None:
        self._decoders = decoders
        self._row = np.array([row], dtype=np.int64)

    def decode(self, payload: bytes) -> Pcm:
        sound = self._decoders(self._row, np.frombuffer(payload, dtype=np.uint8).reshape(1, -1))
        return sound.reshape(-1).view(np.int16)

    def lost(self, samples: int, following: bytes | None = None) -> Pcm | None:
        return None


class Taking:
    """`Listen`'s fast path over a block. What it leaves is in `others`, in the order it came; `heard` is `Originals.pointer`."""

    def __init__(
        self, library: Native, codec: Codec, convert: Convert | Decoders, heard: int, *,
        first_half: int, most_ahead: int, frame: int, chunk: int, second: int,
    ) -> None:  # fmt: skip
        self._library = library
        self._decoders = convert if isinstance(convert, Decoders) else None
        self._take = library.take if self._decoders is None else library.take_long
        conversion, self._table = _conversion(codec, convert)
        self._rows_of = np.zeros(BLOCK, dtype=np.int64)
        self._others = np.zeros(BLOCK, dtype=np.int64)
        self._chunk_row = np.zeros(_CHUNKS, dtype=np.int64)
        self._chunk_start = np.zeros(_CHUNKS, dtype=np.int64)
        self._chunk_at = np.zeros(_CHUNKS, dtype=np.float64)
        self._chunk_data = np.zeros((_CHUNKS, chunk), dtype=np.uint8)
        self._payloads = self._chunk_data.view(f"V{chunk}").reshape(-1)
        self._held = np.zeros(0, dtype=np.int64)
        self._late = np.zeros(0, dtype=np.int64)
        self._late_at = self._connected = 0
        self._version = -1
        self._clock_rate = codec.clock_rate
        self._fields = _TakingFields(
            stride=STRIDE, name_bytes=NAME_BYTES, first_half=first_half, payload_bytes=codec.frame_bytes,
            step=codec.timestamp_step, clock_rate=codec.clock_rate, most_ahead=most_ahead, frame=frame, chunk=chunk,
            second=second, conversion=conversion, creep=CREEP, forget=FORGET, table=self._table.ctypes.data,
            mix=int(MIX), row_of=self._rows_of.ctypes.data, others=self._others.ctypes.data,
            chunk_row=self._chunk_row.ctypes.data,
            chunk_start=self._chunk_start.ctypes.data, chunk_at=self._chunk_at.ctypes.data,
            chunk_data=self._chunk_data.ctypes.data, chunk_room=_CHUNKS, heard=heard,
        )  # fmt: skip
        self._at = ctypes.addressof(self._fields)

    def take(
        self, legs: Legs, block: Block, first: int, end: int, completed: Completed
    ) -> tuple[NDArray[np.int64], list[int]]:
        """Take rows `first` to `end` of `block`: whose each of the block is, and those left to do.

        A leg's packets are left from the first on that is not in its turn. `completed` is given the chunks that are whole: rows, generations,
        starts in ms, arrivals and stream bytes.
        """
        fields = self._fields
        if legs.version != self._version:
            self._bind(legs)
        if not fields.exact:
            self._rows_of[first:end] = legs.lookup(block.name[first:end])
        fields.now_held += 1
        fields.others_count = 0
        data, names, length, arrival = block.pointers
        done = first
        while done < end:
            fields.chunk_count = 0
            done = self._take(self._at, data, names, length, arrival, done, end)
            n = fields.chunk_count
            if n:
                rows = self._chunk_row[:n]
                completed(
                    rows.tolist(), legs.generation[rows].tolist(), self._chunk_start[:n].tolist(),
                    self._chunk_at[:n].tolist(), self._payloads[:n].tolist(),
                )  # fmt: skip
        others = fields.others_count
        return self._rows_of, self._others[:others].tolist() if others else []

    def overdue(self, legs: Legs, now: float, low: float, high: float, step: int) -> NDArray[np.int64]:
        """Rows that have waited for their next packet for longer than they may."""
        if legs.version != self._version:
            self._bind(legs)
        found = self._library.overdue(
            self._fields.legs, self._connected, legs.capacity, now, MARGIN, HEADROOM, low, high,
            self._clock_rate, (1 + PATIENCE) * step, self._late_at,
        )  # fmt: skip
        return self._late[:found].copy()

    def _bind(self, legs: Legs) -> None:
        if self._held.size < legs.capacity:
            self._held = np.zeros(legs.capacity, dtype=np.int64)
            self._late = np.zeros(legs.capacity, dtype=np.int64)
            self._late_at = self._late.ctypes.data
        self._connected = legs.connected.ctypes.data
        index, fields = legs.index, self._fields
        for name, array in (
            ("legs", legs.inbound), ("uplink", legs.uplink), ("held", self._held), ("slots", index.slots),
            ("key_of", index.key_of), ("keys", index.keys), ("sorted", index.rows),
        ):  # fmt: skip
            setattr(fields, name, array.ctypes.data)
        if self._decoders is not None:
            fields.decoders = self._decoders.need(legs.capacity)
        fields.uplink_bytes = legs.uplink.shape[1]
        fields.connected, fields.shift, fields.exact = index.keys.size, int(index.shift), index.exact
        self._version = legs.version


class Sending:
    """`Speak`'s packets."""

    def __init__(self, library: Native, codec: Codec, form: Stored, silence: NDArray[np.uint8]) -> None:
        assert codec.send_type is not None
        first, unit, step = 0x8000 | codec.send_type, form.unit, codec.timestamp_step
        coding = _AS_IT_IS if form.is_payload else _G722 if codec.name == "g722" else _WRITTEN
        self.writes = coding != _WRITTEN
        """Whether it makes the payloads too; if not, they lie in the outbox before `pack`."""
        self._pack = library.encode if coding == _G722 else library.pack
        self._encoders = np.zeros((0, ENCODER_BYTES), dtype=np.uint8)
        self._library = library
        self._silence = silence
        self._version = -1
        self._dry = np.zeros(0, dtype=np.int64)
        self._dry_at = 0
        self._fields = _SendingFields(
            first=first, unit=unit, payload_bytes=codec.frame_bytes, coding=coding, settle=SETTLE_FRAMES,
            step=step, staged_frames=STAGED, silence=silence.ctypes.data, second=unit * 1000 // FRAME_MS, burst=BURST, forget=FORGET_LATENESS,
        )  # fmt: skip
        self._peak, self._offset = ctypes.c_double(), ctypes.c_int64()
        self._peak_at, self._offset_at = ctypes.addressof(self._peak), ctypes.addressof(self._offset)
        self._at = ctypes.addressof(self._fields)

    def open(self, legs: Legs, row: int) -> None:
        """A leg begins in `row`."""
        if legs.version != self._version:
            self._bind(legs)
        self._library.reset(self._at, row)

    def dry(self, legs: Legs, rows: NDArray[np.int64]) -> list[int]:
        """Those of `rows` that should speak and have nothing ready."""
        if legs.version != self._version:
            self._bind(legs)
        found = self._library.dry(self._at, rows.ctypes.data, rows.size, self._dry_at)
        return self._dry[:found].tolist() if found else []

    def stage(self, legs: Legs, rows: NDArray[np.int64], sound: bytes, frames: int) -> None:
        """Put `sound`, `frames` frames for each of `rows`, behind what they have ready."""
        if legs.version != self._version:
            self._bind(legs)
        self._library.stage(self._at, rows.ctypes.data, rows.size, sound, frames)

    def pass_by(
        self, legs: Legs, pieces: NDArray[np.int64], sound: bytes, now: float, prebuffer: Prebuffer
    ) -> Iterator[int]:
        """Put speech that goes by behind what is ready: `pieces` are rows, generations, numbers of sources and bytes of `sound`.

        Gives the place of each piece that does not, when all before it have, and goes on with those after it.
        """
        if legs.version != self._version:
            self._bind(legs)
        count, at, place = pieces.shape[1], pieces.ctypes.data, 0
        self._offset.value = 0
        while True:
            self._peak.value = prebuffer.peak
            place = self._library.pass_by(self._at, at, place, count, sound, self._offset_at, now, self._peak_at)
            prebuffer.peak = self._peak.value
            if place == count:
                return
            self._offset.value += int(pieces[3, place])
            yield place
            place += 1

    def pack(self, legs: Legs, rows: NDArray[np.int64]) -> None:
        """The next packet of each of `rows` into the outbox."""
        if legs.version != self._version:
            self._bind(legs)
        self._pack(self._at, rows.ctypes.data, rows.size)

    def _bind(self, legs: Legs) -> None:
        self._dry = np.zeros(legs.capacity, dtype=np.int64)
        self._dry_at = self._dry.ctypes.data
        fields = self._fields
        fields.staged, fields.packets = legs.staged.ctypes.data, legs.outbox.data.ctypes.data
        fields.packet_bytes, fields.legs = legs.outbox.data.shape[1], legs.outbound.ctypes.data
        fields.rows, fields.ways = legs.capacity, legs.ways.ctypes.data
        fields.ears, fields.mix = legs.ears.ctypes.data, legs.mix.ctypes.data
        if len(self._encoders) < legs.capacity:
            grown = np.zeros((legs.capacity, ENCODER_BYTES), dtype=np.uint8)
            grown[: len(self._encoders)] = self._encoders
            self._encoders = grown
        fields.encoders = self._encoders.ctypes.data
        self._version = legs.version


def _conversion(codec: Codec, convert: Convert | Decoders) -> tuple[int, NDArray[np.uint8]]:
    """What `convert` does, as tick.c knows it, and its table."""
    none = np.zeros(1, dtype=np.uint8)
    if isinstance(convert, Decoders):
        return _DECODE, none
    if codec.frame_bytes == 2 * codec.frame_samples:
        swapped = convert(np.array([[0, 1]], dtype=np.uint8)).reshape(-1)[0] == 1
        return (_SWAP if swapped else _COPY), none
    table = np.ascontiguousarray(convert(np.arange(256, dtype=np.uint8).reshape(1, -1))).view(np.uint8).reshape(-1)
    if table.size == 256 and (table == np.arange(256)).all():
        return _COPY, none
    return (_BYTES if table.size == 256 else _WORDS), table
