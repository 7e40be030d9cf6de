"""What the tick knows of every leg, as arrays with one row a leg, so that one operation serves them all."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.level import FLOOR_DBFS
from kallglot_ari.media.udp import IPV4_BYTES, NAME_BYTES, Outbox

RTP_HEADER = 12
STAGED = 16
"""Frames of speech that lie ready to send, per leg, at most."""
STATS = (
    "received", "sent", "lost", "late", "reordered", "jitter", "buffer", "concealed", "drift", "level", "backlog", "lag",
)  # fmt: skip
"""Columns of the published figures: counts, seconds, parts per million, dBFS."""
NO_STATS = tuple(FLOOR_DBFS if name == "level" else 0.0 for name in STATS)
"""Those of a leg of which nothing has come."""

MIX = np.uint64(0x9E3779B97F4A7C15)
_SLOTS_PER_ROW = 8

Record: TypeAlias = np.void

INBOUND = np.dtype(
    [
        ("ssrc", "i8"), ("next_sequence", "i8"), ("next_timestamp", "i8"), ("next_position", "i8"), ("emitted", "i8"),
        ("received", "i8"), ("expected", "i8"),
        ("base", "f8"), ("spread", "f8"), ("seen", "f8"), ("jitter", "f8"), ("transit", "f8"), ("window_min", "f8"),
        ("fill", "i8"), ("clock", "i8"), ("chunk_start", "i8"), ("chunk_at", "f8"),
        ("smooth", "?"), ("started", "?"), ("paused", "?"), ("tapped", "?"),
    ],
    align=True,
)  # fmt: skip
"""What a packet in its turn changes, from Asterisk and to the stream: together, so that a block of rows is fetched and put back in one go."""
OUTBOUND = np.dtype(
    [
        ("sequence", "i8"), ("timestamp", "i8"), ("sent", "i8"), ("head", "i8"), ("count", "i8"),
        ("talk", "?"), ("speaking", "?"), ("silent", "?"), ("plain", "?"),
    ],
    align=True,
)  # fmt: skip
"""What a packet sent changes."""
WAY = np.dtype([("generation", "i8"), ("source", "i8"), ("queued", "i8"), ("first_at", "f8")])
"""A talkspurt whose further pieces go by without lying in their leg's queue: the leg's generation, a number for its source (0 for none), and two of `Source`'s."""
EAR = np.dtype([("hears", "i8"), ("spoken", "i8"), ("gain", "f8"), ("mixed", "?")], align=True)
"""A leg and `originals`: the first voice that it hears, the first that it is heard as (-1: none), the gain of the sum, and whether `mix` is what it is sent next."""

_FIELDS: dict[str, tuple[Any, Any]] = {
    # name: (type, value of a fresh row)
    "used": (np.bool_, False),
    "connected": (np.bool_, False),
    "generation": (np.int64, 0),
    # --- from Asterisk
    "barred": (np.int64, -1),
    "late": (np.int64, 0),
    "reordered": (np.int64, 0),
    "concealed": (np.float64, 0.0),
    "window_end": (np.float64, 0.0),
    "drift_from": (np.float64, np.nan),
    "drift_since": (np.float64, 0.0),
    "drift": (np.float64, 0.0),
    "power": (np.float64, 0.0),
    # --- to Asterisk
    "phase": (np.int64, 0),
    "queued": (np.float64, 0.0),
    "lag": (np.float64, 0.0),
}
_FRESH: dict[str, float] = {"ssrc": -1, "transit": np.nan, "window_min": np.inf, "hears": -1, "spoken": -1, "gain": 1.0}
"""Fields of the records that do not begin at 0."""


class Index(NamedTuple):
    """Connected rows by the keys of their addresses."""

    keys: NDArray[np.uint64]
    """In order."""
    rows: NDArray[np.int64]
    """In the order of their keys."""
    key_of: NDArray[np.uint64]
    slots: NDArray[np.int64]
    """A hash table of rows; of those that share a slot, one."""
    shift: np.uint64
    exact: bool
    """Whether a key says all of an address: IPv4."""


class Legs:
    """The rows. `capacity` doubles when all are used; every array is replaced then, so never keep one across `need`."""

    used: NDArray[np.bool_]
    connected: NDArray[np.bool_]
    generation: NDArray[np.int64]
    ssrc: NDArray[np.int64]
    barred: NDArray[np.int64]
    smooth: NDArray[np.bool_]
    started: NDArray[np.bool_]
    next_sequence: NDArray[np.int64]
    next_timestamp: NDArray[np.int64]
    next_position: NDArray[np.int64]
    emitted: NDArray[np.int64]
    base: NDArray[np.float64]
    spread: NDArray[np.float64]
    seen: NDArray[np.float64]
    received: NDArray[np.int64]
    expected: NDArray[np.int64]
    late: NDArray[np.int64]
    reordered: NDArray[np.int64]
    jitter: NDArray[np.float64]
    transit: NDArray[np.float64]
    concealed: NDArray[np.float64]
    window_min: NDArray[np.float64]
    window_end: NDArray[np.float64]
    drift_from: NDArray[np.float64]
    drift_since: NDArray[np.float64]
    drift: NDArray[np.float64]
    power: NDArray[np.float64]
    fill: NDArray[np.int64]
    clock: NDArray[np.int64]
    chunk_start: NDArray[np.int64]
    chunk_at: NDArray[np.float64]
    paused: NDArray[np.bool_]
    tapped: NDArray[np.bool_]
    phase: NDArray[np.int64]
    sequence: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    sent: NDArray[np.int64]
    talk: NDArray[np.bool_]
    speaking: NDArray[np.bool_]
    silent: NDArray[np.bool_]
    head: NDArray[np.int64]
    count: NDArray[np.int64]
    plain: NDArray[np.bool_]
    queued: NDArray[np.float64]
    lag: NDArray[np.float64]
    index: Index

    def __init__(
        self, *, uplink_bytes: int, frame_bytes: int, silence: bytes, payload_type: int, quiet: int = 0,
        stored_bytes: int = 0,
    ) -> None:  # fmt: skip
        """`quiet` is the byte that silence is made of on the stream; speech lies ready in frames of `stored_bytes`, if not as payloads."""
        self._frame_bytes = frame_bytes
        self._silence = np.frombuffer(silence, dtype=np.uint8)
        self._payload_type = payload_type
        self._quiet = quiet
        self.capacity = 0
        self.inbound = np.zeros(0, dtype=INBOUND)
        self.outbound = np.zeros(0, dtype=OUTBOUND)
        self.ways = np.zeros(0, dtype=WAY)
        self.uplink: NDArray[np.uint8] = np.zeros((0, uplink_bytes), dtype=np.uint8)
        """Each leg's last chunks in the stream's encoding, written round and round."""
        self.staged: NDArray[np.uint8] = np.zeros((0, STAGED, stored_bytes or frame_bytes), dtype=np.uint8)
        self.ears = np.zeros(0, dtype=EAR)
        self.mix: NDArray[np.uint8] = np.zeros((0, stored_bytes or frame_bytes), dtype=np.uint8)
        """What a leg is sent next, speech and other parties' own voices, as speech lies ready."""
        self.outbox = Outbox(0, RTP_HEADER + frame_bytes)
        self.version = 0
        """Another one whenever arrays were replaced."""
        self.need(64)

    def need(self, rows: int) -> None:
        """Make room for at least `rows`."""
        if rows <= self.capacity:
            return
        capacity = max(64, self.capacity)
        while capacity < rows:
            capacity *= 2
        old = self.capacity
        for name, (dtype, value) in _FIELDS.items():
            fresh = np.full(capacity, value, dtype=dtype)
            if old:
                fresh[:old] = getattr(self, name)
            setattr(self, name, fresh)
        self.inbound = grown(self.inbound, capacity)
        self.outbound = grown(self.outbound, capacity)
        self.ways = grown(self.ways, capacity)
        self.ears = grown(self.ears, capacity)
        self.ears[old:] = _fresh(EAR)
        self.mix = grown(self.mix, capacity)
        for records in (self.inbound, self.outbound):
            for name in records.dtype.names or ():
                setattr(self, name, records[name])
        self.uplink = grown(self.uplink, capacity)
        self.staged = grown(self.staged, capacity)
        outbox = Outbox(capacity, RTP_HEADER + self._frame_bytes)
        outbox.data[:old] = self.outbox.data
        outbox.name[:old] = self.outbox.name
        outbox.name_len[:old] = self.outbox.name_len
        outbox.headers["name_len"][:old] = self.outbox.name_len
        self.outbox = outbox
        self.capacity = capacity
        self._index()

    def open(self, row: int, generation: int, *, ssrc: int, sequence: int, timestamp: int, phase: int) -> None:
        """Begin a leg in `row`, with nothing left of the one before."""
        self.need(row + 1)
        for name, (_, value) in _FIELDS.items():
            getattr(self, name)[row] = value
        self.inbound[row] = _fresh(INBOUND)
        self.outbound[row] = _fresh(OUTBOUND)
        self.ways[row] = 0
        self.ears[row] = _fresh(EAR)
        self.used[row] = True
        self.generation[row] = generation
        self.sequence[row] = sequence & 0xFFFF
        self.timestamp[row] = timestamp & 0xFFFFFFFF
        self.phase[row] = phase
        header = self.outbox.data[row]
        header[:RTP_HEADER] = 0
        header[0] = 0x80
        header[1] = self._payload_type
        header[8:12] = np.frombuffer((ssrc & 0xFFFFFFFF).to_bytes(4, "big"), dtype=np.uint8)
        header[RTP_HEADER:] = self._silence
        self.silent[row] = True
        self.uplink[row] = self._quiet  # what a gap is filled from must not be the last call's
        self.staged[row] = 0 if self.staged.shape[2] != self._frame_bytes else self._silence

    def connect(self, row: int, name: bytes) -> None:
        """Its address, from now on the only one its packets may come from."""
        self.outbox.address(row, name)
        self.connected[row] = True
        self._index()

    def close(self, row: int) -> None:
        self.connected[row] = self.used[row] = False
        self.ways[row] = 0
        self._index()

    def name_of(self, row: int) -> bytes:
        """The packed address of a connected row."""
        return self.outbox.name[row, : int(self.outbox.name_len[row])].tobytes()

    def _index(self) -> None:
        rows = np.flatnonzero(self.connected)
        exact = bool((self.outbox.name_len[rows] == IPV4_BYTES).all())
        keys = _keys(self.outbox.name[rows], exact=exact)
        order = np.argsort(keys, kind="stable")
        bits = (self.capacity * _SLOTS_PER_ROW).bit_length()
        shift = np.uint64(64 - bits)
        slots = np.full(1 << bits, -1, dtype=np.int64)
        slots[keys * MIX >> shift] = rows
        key_of = np.zeros(self.capacity + 1, dtype=np.uint64)
        key_of[rows] = keys
        self.index = Index(keys[order], rows[order], key_of, slots, shift, exact)
        self.version += 1

    def lookup(self, names: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The row of each packed address, -1 where no leg has it."""
        index = self.index
        if not index.keys.size:
            return np.full(len(names), -1, dtype=np.int64)
        keys = _keys(names, exact=index.exact)
        rows: NDArray[np.int64] = index.slots[keys * MIX >> index.shift]
        same = index.key_of[rows] == keys
        if not same.all():
            others = np.flatnonzero(~same)
            at = np.minimum(np.searchsorted(index.keys, keys[others]), index.keys.size - 1)
            rows[others] = np.where(index.keys[at] == keys[others], index.rows[at], -1)
        if not index.exact:
            rows[(self.outbox.name[rows, :24] != names[:, :24]).any(axis=1)] = -1
        return rows


def fetch(records: NDArray[Record], rows: NDArray[np.int64]) -> NDArray[Record]:
    """A copy of these rows: as `records[rows]`, a tenth of its time, for a record is copied as one piece."""
    return records.view(f"V{records.itemsize}").take(rows).view(records.dtype)


def put(records: NDArray[Record], rows: NDArray[np.int64], changed: NDArray[Record]) -> None:
    """The opposite of `fetch`."""
    whole = f"V{records.itemsize}"
    records.view(whole)[rows] = changed.view(whole)


def _fresh(dtype: np.dtype[Record]) -> Record:
    record = np.zeros(1, dtype=dtype)
    for name, value in _FRESH.items():
        if name in (dtype.names or ()):
            record[name] = value
    return record[0]  # type: ignore[no-any-return]


def grown(old: NDArray[Any], rows: int) -> NDArray[Any]:
    """A copy with room for `rows`; those that are new are zero."""
    new = np.zeros((rows, *old.shape[1:]), dtype=old.dtype)
    new[: len(old)] = old
    return new


def _keys(names: NDArray[np.uint8], *, exact: bool) -> NDArray[np.uint64]:
    """A number for each address: `exact` that of a sockaddr_in (family, port and host); else one that two addresses may share."""
    assert names.shape[1] == NAME_BYTES
    if exact:
        return np.ascontiguousarray(names[:, :8]).view(np.uint64).reshape(-1)
    words = np.ascontiguousarray(names[:, :24]).view(np.uint64).reshape(-1, 3)
    keys: NDArray[np.uint64] = (words[:, 0] * MIX) ^ (words[:, 1] * MIX >> np.uint64(7)) ^ words[:, 2]
    return keys
