"""What the tick knows of every leg, as arrays with one row a leg, so that one operation serves them all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.media.udp import NAME_BYTES, Outbox

RTP_HEADER = 12
STAGED = 16
"""Frames of speech that lie ready to send, per leg, at most."""
STATS = (
    "received", "sent", "lost", "late", "reordered", "jitter", "buffer", "concealed", "drift", "level", "backlog", "lag",
)  # fmt: skip
"""Columns of the published figures: counts, seconds, parts per million, dBFS."""

_MIX = np.uint64(0x9E3779B97F4A7C15)

_FIELDS: dict[str, tuple[Any, Any]] = {
    # name: (type, value of a fresh row)
    "used": (np.bool_, False),
    "connected": (np.bool_, False),
    "generation": (np.int64, 0),
    # --- from Asterisk
    "ssrc": (np.int64, -1),
    "barred": (np.int64, -1),
    "smooth": (np.bool_, False),
    "started": (np.bool_, False),
    "next_sequence": (np.int64, 0),
    "next_timestamp": (np.int64, 0),
    "next_position": (np.int64, 0),
    "emitted": (np.int64, 0),
    "base": (np.float64, 0.0),
    "spread": (np.float64, 0.0),
    "seen": (np.float64, 0.0),
    "received": (np.int64, 0),
    "expected": (np.int64, 0),
    "late": (np.int64, 0),
    "reordered": (np.int64, 0),
    "jitter": (np.float64, 0.0),
    "transit": (np.float64, np.nan),
    "concealed": (np.float64, 0.0),
    "window_min": (np.float64, np.inf),
    "window_end": (np.float64, 0.0),
    "drift_from": (np.float64, np.nan),
    "drift_since": (np.float64, 0.0),
    "drift": (np.float64, 0.0),
    "power": (np.float64, 0.0),
    # --- to the stream
    "fill": (np.int64, 0),
    "clock": (np.int64, 0),
    "chunk_start": (np.int64, 0),
    "chunk_at": (np.float64, 0.0),
    "paused": (np.bool_, False),
    "tapped": (np.bool_, False),
    # --- to Asterisk
    "phase": (np.int64, 0),
    "sequence": (np.int64, 0),
    "timestamp": (np.int64, 0),
    "sent": (np.int64, 0),
    "talk": (np.bool_, False),
    "speaking": (np.bool_, False),
    "silent": (np.bool_, False),
    "head": (np.int64, 0),
    "count": (np.int64, 0),
    "plain": (np.bool_, False),
    "queued": (np.float64, 0.0),
    "lag": (np.float64, 0.0),
}


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

    def __init__(self, *, uplink_bytes: int, frame_bytes: int, silence: bytes, payload_type: int) -> None:
        self._uplink_bytes = uplink_bytes
        self._frame_bytes = frame_bytes
        self._silence = np.frombuffer(silence, dtype=np.uint8)
        self._payload_type = payload_type
        self.capacity = 0
        self.uplink: NDArray[np.uint8] = np.zeros((0, uplink_bytes), dtype=np.uint8)
        """Each leg's last chunks in the stream's encoding, written round and round."""
        self.staged: NDArray[np.uint8] = np.zeros((0, STAGED, frame_bytes), dtype=np.uint8)
        self.outbox = Outbox(0, RTP_HEADER + frame_bytes)
        self._keys: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
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
            grown = np.full(capacity, value, dtype=dtype)
            if old:
                grown[:old] = getattr(self, name)
            setattr(self, name, grown)
        self.uplink = _grown(self.uplink, capacity)
        self.staged = _grown(self.staged, capacity)
        outbox = Outbox(capacity, RTP_HEADER + self._frame_bytes)
        outbox.data[:old] = self.outbox.data
        outbox.name[:old] = self.outbox.name
        outbox.name_len[:old] = self.outbox.name_len
        outbox.headers["name_len"][:old] = self.outbox.name_len
        self.outbox = outbox
        self.capacity = capacity

    def open(self, row: int, generation: int, *, ssrc: int, sequence: int, timestamp: int, phase: int) -> None:
        """Begin a leg in `row`, with nothing left of the one before."""
        self.need(row + 1)
        for name, (_, value) in _FIELDS.items():
            getattr(self, name)[row] = value
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

    def connect(self, row: int, name: bytes) -> None:
        """Its address, from now on the only one its packets may come from."""
        self.outbox.address(row, name)
        self.connected[row] = True
        self._index()

    def close(self, row: int) -> None:
        self.connected[row] = self.used[row] = False
        self._index()

    def name_of(self, row: int) -> bytes:
        """The packed address of a connected row."""
        return self.outbox.name[row, : int(self.outbox.name_len[row])].tobytes()

    def _index(self) -> None:
        rows = np.flatnonzero(self.connected)
        keys = _keys(self.outbox.name[rows])
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], rows[order]

    def lookup(self, names: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The row of each packed address, -1 where no leg has it."""
        if not self._keys.size:
            return np.full(len(names), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._keys, _keys(names)), self._keys.size - 1)
        rows = self._rows[at]
        same = (self.outbox.name[rows, :24] == names[:, :24]).all(axis=1)
        found: NDArray[np.int64] = np.where(same, rows, -1)
        return found


def _grown(old: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    new = np.zeros((rows, *old.shape[1:]), dtype=np.uint8)
    new[: len(old)] = old
    return new


def _keys(names: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A number for each address: family, port and host of a sockaddr_in, and the host of a sockaddr_in6."""
    words = np.ascontiguousarray(names[:, :24]).view(np.uint64).reshape(-1, 3)
    assert names.shape[1] == NAME_BYTES
    keys: NDArray[np.uint64] = (words[:, 0] * _MIX) ^ (words[:, 1] * _MIX >> np.uint64(7)) ^ words[:, 2]
    return keys
