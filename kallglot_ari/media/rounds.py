"""`Listen`'s fast path in numpy: one datagram of each leg at a time, all those in their turn in one go.

Does what tick.c does where that was not built; and with it, whatever many legs have out of turn at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.media.chunks import Chunks
from kallglot_ari.media.legs import RTP_HEADER, Legs, Record, fetch, put
from kallglot_ari.media.udp import Block
from kallglot_ari.rtp.jitter import CREEP, FORGET

SINGLY = 16
"""Packets past a gap that are each waited for, of one block: of those past that, the gap is silence at once."""
_LEAP = 50
"""Packets missing at most in such a gap."""
_MARKER = 1 << 23
"""In the first word of an RTP header."""
Singly: TypeAlias = Callable[[int, int], None]
Skipped: TypeAlias = Callable[[int, int, int], None]
"""Told of a row, the number whose turn is next, and how many before it were given up."""
Tap: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]], None]
"""Given tapped legs' rows, a payload of each, and what the stream gets of it."""
RowConvert: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.uint8]], NDArray[np.uint8]]
"""Rows of legs and a payload of each, shape (n, payload bytes), to shape (n, stream bytes)."""


class Rounds:
    """Of the blocks of all legs. `convert` makes stream bytes of payloads; None where they cannot be converted a packet at a time."""

    def __init__(
        self, codec: Codec, convert: RowConvert | None, chunks: Chunks, *,
        first_half: int, most_ahead: int, quiet: NDArray[np.uint8], skipped: Skipped,
    ) -> None:  # fmt: skip
        self._codec = codec
        self._frame_in = codec.frame_bytes
        self._step = codec.timestamp_step
        self._convert = convert
        self._chunks = chunks
        self._first_half = first_half
        self._most_ahead = most_ahead
        self._quiet = quiet
        self._skipped = skipped
        self._turn: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        """For each leg, which datagram is its first: of use only while a block is taken."""

    def take(
        self,
        legs: Legs,
        block: Block,
        count: int,
        rows_of: NDArray[np.int64],
        pending: NDArray[np.int64],
        singly: Singly,
        tap: Tap,
    ) -> None:
        """Take `pending` of the first `count` rows of `block`, one of each leg at a time.

        Those out of turn are left to `singly`, which is given their leg's row and their own; `tap` hears what tapped legs say.
        """
        length = block.length[:count]
        words = np.ascontiguousarray(block.data[:count, :RTP_HEADER]).view(">u4").astype(np.int64)
        plain = ((words[:, 0] & ~_MARKER) >> 16 == self._first_half) & (length == RTP_HEADER + self._frame_in)
        while pending.size:
            if self._turn.size < legs.capacity:
                self._turn = np.zeros(legs.capacity, dtype=np.int64)
            # the first datagram of each leg; a leg's further ones wait for the next round, so that order is kept
            legs_here = rows_of[pending]
            self._turn[legs_here[::-1]] = pending[::-1]
            first = self._turn[legs_here] == pending
            later = pending[~first]
            if later.size:
                pending, legs_here = pending[first], legs_here[first]
            records = fetch(legs.inbound, legs_here)
            in_turn = (
                plain[pending]
                & records["smooth"]
                & (words[pending, 2] == records["ssrc"])
                & (words[pending, 0] & 0xFFFF == records["next_sequence"])
                & (words[pending, 1] == records["next_timestamp"])
                & (records["emitted"] - records["next_position"] <= self._most_ahead)
            )
            if np.count_nonzero(in_turn) + SINGLY < in_turn.size:
                self._leap(legs, legs_here, records, block, pending, words, in_turn, plain)
            if in_turn.all():
                self._in_turn(legs, legs_here, records, block, pending, tap)
            else:
                chosen, others = np.flatnonzero(in_turn), np.flatnonzero(~in_turn)
                if chosen.size:
                    self._in_turn(legs, legs_here[chosen], fetch(records, chosen), block, pending[chosen], tap)
                for row, at in zip(legs_here[others].tolist(), pending[others].tolist(), strict=True):
                    singly(row, at)
            pending = later

    def _in_turn(
        self,
        legs: Legs,
        rows: NDArray[np.int64],
        records: NDArray[Record],
        block: Block,
        which: NDArray[np.int64],
        tap: Tap,
    ) -> None:
        """Packets in their turn: `records` are a copy of `rows`, which this writes back; `which` are the rows of `block`."""
        assert self._convert is not None
        arrival = block.arrival[which]
        payload = block.data[which, RTP_HEADER : RTP_HEADER + self._frame_in]
        seen, base, spread, jitter = (records[name] for name in ("seen", "base", "spread", "jitter"))
        transit = arrival - records["next_position"] / self._codec.clock_rate
        elapsed = np.maximum(arrival - seen, 0.0)
        base[:] = np.minimum(base + CREEP * elapsed, transit)
        spread[:] = np.maximum(transit - base, spread * (1.0 - np.minimum(1.0, elapsed / FORGET)))
        np.maximum(seen, arrival, out=seen)
        moved = np.abs(transit - records["transit"])
        jitter += np.where(np.isnan(moved), 0.0, moved - jitter) / 16.0  # not a number: the first one
        records["transit"] = transit
        np.minimum(records["window_min"], transit, out=records["window_min"])
        for name in ("next_position", "emitted"):
            records[name] += self._step
        for name in ("received", "expected"):
            records[name] += 1
        records["next_sequence"] = (records["next_sequence"] + 1) & 0xFFFF
        records["next_timestamp"] = (records["next_timestamp"] + self._step) & 0xFFFFFFFF
        sound = self._convert(rows, payload)
        self._chunks.add_block(legs, rows, records, sound, arrival)
        put(legs.inbound, rows, records)
        if records["tapped"].any():
            at = np.flatnonzero(records["tapped"])
            tap(rows[at], payload[at], sound[at])

    def _leap(
        self, legs: Legs, rows: NDArray[np.int64], records: NDArray[Record], block: Block, which: NDArray[np.int64],
        words: NDArray[np.int64], in_turn: NDArray[np.bool_], plain: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """Put packets past a gap in their turn, all but a few: a socket that overflowed, a network that stumbled.

        One at a time they would take longer than new ones take to come, and the next ones would be lost as well. `records` are a copy of `rows`,
        which this changes, and `in_turn`; `words` and `plain` are of the whole block, `which` its rows.
        """
        ahead = ((words[which, 0] & 0xFFFF) - records["next_sequence"]) & 0xFFFF
        missing = records["next_position"] + ahead * self._step - records["emitted"]
        fits = (
            plain[which] & ~in_turn & records["smooth"]
            & (words[which, 2] == records["ssrc"]) & (ahead <= _LEAP)
            & ((words[which, 1] - records["next_timestamp"]) & 0xFFFFFFFF == ahead * self._step)
        )  # fmt: skip
        at = np.flatnonzero(fits)[SINGLY:]
        part, rows, ahead, arrival = fetch(records, at), rows[at], ahead[at], block.arrival[which[at]]
        missing = -(-np.maximum(missing[at], 0) // self._step) * self._step  # whole frames: `Listen._to_border`
        part["next_sequence"] = (part["next_sequence"] + ahead) & 0xFFFF
        part["next_timestamp"] = (part["next_timestamp"] + ahead * self._step) & 0xFFFFFFFF
        part["next_position"] += ahead * self._step
        part["expected"] += ahead
        for row, sequence, count in zip(rows.tolist(), part["next_sequence"].tolist(), ahead.tolist(), strict=True):
            self._skipped(row, sequence, count)
        legs.concealed[rows] += missing / self._codec.clock_rate
        for done in range(0, int(missing.max(initial=0)), self._step):
            some = np.flatnonzero(missing > done)
            these = fetch(part, some)
            self._chunks.add_block(legs, rows[some], these, np.repeat(self._quiet, some.size, axis=0), arrival[some])
            put(part, some, these)
        part["emitted"] += missing
        beyond = part["emitted"] - part["next_position"] > self._most_ahead
        if beyond.any():  # the way has become longer: from here on the sender's time is where the output stands
            np.copyto(part["next_position"], part["emitted"], where=beyond)
            np.copyto(part["base"], arrival - part["emitted"] / self._codec.clock_rate, where=beyond)
            np.copyto(part["spread"], 0.0, where=beyond)
            np.copyto(part["transit"], np.nan, where=beyond)  # as `drift.begin_anew`
            np.copyto(part["window_min"], np.inf, where=beyond)
            legs.drift_from[rows[beyond]] = np.nan
        put(records, at, part)
        in_turn[at] = True
