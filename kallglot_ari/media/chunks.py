"""Stream bytes of each leg, collected until a chunk of `chunk_ms` is whole."""

from __future__ import annotations

from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.frame import FRAME_MS
from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.media.legs import Legs, Record, fetch, put

_HISTORY_MS = 60
"""Sound that is kept of each leg at least, for a gap after it to be filled from."""
_new: Any = tuple.__new__
"""Makes a named tuple of a tuple in a third of the time."""


class Chunk(NamedTuple):
    """Sound of one leg for the stream."""

    row: int
    generation: int
    sound: UplinkChunk


class Chunks:
    """Of all legs. What is being collected lies in `Legs.uplink`, written round and round."""

    def __init__(self, encoding: str, rate: int, frame_bytes: int, chunk_ms: int) -> None:
        self._encoding = encoding
        self._rate = rate
        self._frame = frame_bytes
        self._second = frame_bytes * 1000 // FRAME_MS
        self.size = frame_bytes * (chunk_ms // FRAME_MS)
        """Bytes of a chunk."""
        self.uplink_bytes = self.size * max(1, -(-_HISTORY_MS // chunk_ms))
        """Bytes a row of `Legs.uplink` needs."""
        self.ready: list[Chunk] = []
        """Complete since the caller last took them."""

    def take(self) -> list[Chunk]:
        """What is complete; it is the caller's from now on."""
        ready, self.ready = self.ready, []
        return ready

    def add_block(
        self,
        legs: Legs,
        rows: NDArray[np.int64],
        records: NDArray[Record],
        data: NDArray[np.uint8],
        arrival: NDArray[np.float64],
    ) -> None:
        """Add a frame to the chunk of each of `rows`; `records` are a copy of theirs, which this changes."""
        paused = records["paused"]
        if paused.any():
            records["clock"][paused] += self._frame
            going = np.flatnonzero(~paused)
            part = fetch(records, going)
            if going.size:
                self.add_block(legs, rows[going], part, data[going], arrival[going])
                put(records, going, part)
            return
        fill, clock = records["fill"], records["clock"]
        within = fill % self.size
        np.copyto(records["chunk_start"], clock, where=within == 0)
        np.copyto(records["chunk_at"], arrival, where=within == 0)
        frames = legs.uplink.reshape(-1, self._frame)
        frames[(rows * self.uplink_bytes + fill) // self._frame] = data
        clock += self._frame
        full = np.flatnonzero(within == self.size - self._frame)
        if full.size:
            self._emit_block(legs, rows[full], fetch(records, full))
        fill += self._frame
        fill %= self.uplink_bytes

    def add(self, legs: Legs, row: int, sound: bytes, at: float) -> None:
        """Add stream bytes to a leg's chunk."""
        if legs.paused[row]:
            legs.clock[row] += len(sound)
            return
        data = np.frombuffer(sound, dtype=np.uint8)
        done = 0
        while done < data.size:
            fill = int(legs.fill[row])
            if fill % self.size == 0:
                legs.chunk_start[row] = legs.clock[row]
                legs.chunk_at[row] = at
            take = min(data.size - done, self.size - fill % self.size)
            legs.uplink[row, fill : fill + take] = data[done : done + take]
            done += take
            fill += take
            legs.clock[row] += take
            if fill % self.size == 0:
                self._emit(legs, row, legs.uplink[row, fill - self.size : fill].tobytes())
            legs.fill[row] = fill % self.uplink_bytes

    def _emit_block(self, legs: Legs, rows: NDArray[np.int64], records: NDArray[Record]) -> None:
        """The chunk that the frame at `fill` belongs to is complete, for each of `rows`."""
        whole = legs.uplink.reshape(-1, self.size).view(f"V{self.size}").reshape(-1)
        self.completed(
            rows.tolist(),
            legs.generation[rows].tolist(),
            (records["chunk_start"] * 1000 // self._second).tolist(),
            records["chunk_at"].tolist(),
            whole.take((rows * self.uplink_bytes + records["fill"]) // self.size).tolist(),
        )

    def completed(
        self,
        rows: list[int],
        generations: list[int],
        starts: list[int],
        arrivals: list[float],
        payloads: list[bytes],
    ) -> None:
        """Chunks are whole: whose they are, when they start in ms, when their first packets came, and their stream bytes."""
        audio = map(_new, repeat(StreamAudio), zip(repeat(self._encoding), repeat(self._rate), payloads))
        sounds = map(_new, repeat(UplinkChunk), zip(audio, starts, arrivals, strict=True))
        self.ready += map(_new, repeat(Chunk), zip(rows, generations, sounds, strict=True))

    def _emit(self, legs: Legs, row: int, payload: bytes) -> None:
        start_ms = int(legs.chunk_start[row]) * 1000 // self._second
        self.completed([row], [int(legs.generation[row])], [start_ms], [float(legs.chunk_at[row])], [payload])
