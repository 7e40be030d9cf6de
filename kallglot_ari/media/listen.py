"""From Asterisk to the stream: a block of datagrams in, chunks of `chunk_ms` out.

The fast path takes every packet that comes in its turn, for all legs in one go: machine code where there is some (`fast`), else numpy. Whatever is not in its turn (the first packet, reordering, loss,
silence, a new source, odd sizes, codecs with memory) goes through a `JitterBuffer` and an `UplinkVoice` of its leg, one at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.codecs.registry import stream_sample_bytes
from kallglot_ari.audio.frame import FRAME_MS, Pcm
from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.errors import MediaError
from kallglot_ari.media.fast import Taking
from kallglot_ari.media.legs import RTP_HEADER, Legs, Record, fetch, put
from kallglot_ari.media.native import Native
from kallglot_ari.media.udp import Block
from kallglot_ari.media.uplink import UplinkVoice, block_converter, silence_byte, stream_frame_bytes
from kallglot_ari.rtp.jitter import CREEP, FORGET, HEADROOM, MARGIN, PATIENCE, Heard, JitterBuffer
from kallglot_ari.rtp.packet import RtpPacket
from kallglot_ari.rtp.sequence import signed_distance

_MARKER = 1 << 23
"""In the first word of an RTP header."""
_HISTORY_MS = 60
_CONCEALMENTS = 12
"""Substitute frames computed in one tick; when a whole network stumbles, the legs past that get silence, so that all are in time."""
_SINGLY = 16
"""Packets past a gap that are each waited for, of one block: of those past that, the gap is silence at once."""
_new: Any = tuple.__new__
"""Makes a named tuple of a tuple in a third of the time."""
_LEAP = 50
"""Packets missing at most in such a gap."""


class Chunk(NamedTuple):
    """Sound of one leg for the stream."""

    row: int
    generation: int
    sound: UplinkChunk


class Listen:
    """The uplink of all legs."""

    def __init__(
        self, codec: Codec, encoding: str, rate: int, chunk_ms: int, *, jitter_min_ms: int, jitter_max_ms: int,
        library: Native | None = None,
    ) -> None:  # fmt: skip
        self._codec = codec
        self._encoding = encoding
        self._rate = rate
        self._frame_in = codec.frame_bytes
        self._step = codec.timestamp_step
        self._first_half = 0x8000 | codec.receive_type
        """The first 16 bits of a usual packet, but for the marker."""
        self._frame = self.frame_bytes = stream_frame_bytes(encoding, rate)
        self._second = self._frame * 1000 // FRAME_MS
        self._chunk = self._frame * (chunk_ms // FRAME_MS)
        self._convert = block_converter(codec, encoding, rate)
        self._silence = silence_byte(encoding)
        self._decoder = codec.decoder() if self._convert is not None else None
        self._sample_bytes = self._frame_in // codec.frame_samples or 1
        self._sample_out = stream_sample_bytes(encoding)
        self._concealments = _CONCEALMENTS
        self._bounds = (jitter_min_ms, jitter_max_ms)
        self._most_ahead = jitter_max_ms * codec.clock_rate // 1000
        self._quiet = np.full((1, self._frame), self._silence, dtype=np.uint8)
        chunks = max(1, -(-_HISTORY_MS // chunk_ms))
        self.uplink_bytes = self._chunk * chunks
        """Bytes a row of `Legs.uplink` needs."""
        self._turn: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        """For each leg, which datagram is its first: of use only while a block is taken."""
        self._buffers: dict[int, JitterBuffer] = {}
        self._voices: dict[int, UplinkVoice] = {}
        self._candidates: dict[int, tuple[int, int]] = {}
        self._waiting: set[int] = set()
        """Legs whose buffer holds packets back."""
        self._padded: dict[int, int] = {}
        """Of legs on hold: where the silence ends with which their last chunk was filled, in stream bytes."""
        self.taps: dict[int, list[Callable[[Pcm], None]]] = {}
        """Who hears a leg's own voice."""
        self.discarded: Counter[str] = Counter()
        self.chunks: list[Chunk] = []
        """Complete since the caller last took them."""
        self._taking: Taking | None = None
        if library is not None and self._convert is not None:
            self._taking = Taking(
                library, codec, self._convert, first_half=self._first_half, most_ahead=self._most_ahead,
                frame=self._frame, chunk=self._chunk, second=self._second,
            )  # fmt: skip

    # --- a block of datagrams ---------------------------------------------------------------------------------------

    def block(self, legs: Legs, block: Block, count: int, now: float) -> NDArray[np.int64]:
        """Take `count` rows of `block`; whose each is, -1 where it is nobody's."""
        if self._taking is None:
            rows_of = legs.lookup(block.name[:count])
            pending = np.flatnonzero(rows_of >= 0)
            self._count_if("address", count - pending.size)
            self._rounds(legs, block, count, rows_of, pending, now)
            return rows_of
        rows_of, others = self._take(legs, block, 0, count)
        rows_of = rows_of[:count]
        self._count_if("address", int(np.count_nonzero(rows_of < 0)))
        if len(others) > _SINGLY:
            self._rounds(legs, block, count, rows_of, np.array(others), now)
            return rows_of
        begun: set[int] = set()
        for at in others:
            row = int(rows_of[at])
            if row not in begun or self._take(legs, block, at, at + 1)[1]:
                begun.add(row)
                self._datagram_at(legs, row, block, at, now)
        return rows_of

    def _take(self, legs: Legs, block: Block, first: int, end: int) -> tuple[NDArray[np.int64], list[int]]:
        """What is in its turn of these rows of `block`, by machine code: whose each is, and which are left to do."""
        assert self._taking is not None
        rows_of, others, tapped = self._taking.take(legs, block, first, end, self._completed)
        for at in tapped:
            self._tap_payload(int(rows_of[at]), block.data[at, RTP_HEADER : RTP_HEADER + self._frame_in])
        return rows_of, others

    def _datagram_at(self, legs: Legs, row: int, block: Block, at: int, now: float) -> None:
        data = block.data[at, : block.length[at]].tobytes()
        self.datagram(legs, row, data, float(block.arrival[at]), now)

    def _rounds(
        self, legs: Legs, block: Block, count: int, rows_of: NDArray[np.int64], pending: NDArray[np.int64], now: float
    ) -> None:
        """Take `pending` of the first `count` rows of `block`, one of each leg at a time."""
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
            if np.count_nonzero(in_turn) + _SINGLY < in_turn.size:
                self._leap(legs, legs_here, records, block, pending, words, in_turn, plain)
            if in_turn.all():
                self._in_turn(legs, legs_here, records, block, pending)
            else:
                chosen, others = np.flatnonzero(in_turn), np.flatnonzero(~in_turn)
                if chosen.size:
                    self._in_turn(legs, legs_here[chosen], fetch(records, chosen), block, pending[chosen])
                for row, at in zip(legs_here[others].tolist(), pending[others].tolist(), strict=True):
                    self._datagram_at(legs, row, block, at, now)
            pending = later

    def _in_turn(
        self, legs: Legs, rows: NDArray[np.int64], records: NDArray[Record], block: Block, which: NDArray[np.int64]
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
        self._append_block(legs, rows, records, self._convert(payload), arrival)
        put(legs.inbound, rows, records)
        if self.taps and records["tapped"].any():
            for at in np.flatnonzero(records["tapped"]).tolist():
                self._tap_payload(int(rows[at]), payload[at])

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
            plain[which] & ~in_turn & records["smooth"] & ~records["tapped"]
            & (words[which, 2] == records["ssrc"]) & (ahead <= _LEAP) & (missing % self._step == 0)
            & ((words[which, 1] - records["next_timestamp"]) & 0xFFFFFFFF == ahead * self._step)
        )  # fmt: skip
        at = np.flatnonzero(fits)[_SINGLY:]
        part, rows, ahead, arrival = fetch(records, at), rows[at], ahead[at], block.arrival[which[at]]
        missing = np.maximum(missing[at], 0)
        part["next_sequence"] = (part["next_sequence"] + ahead) & 0xFFFF
        part["next_timestamp"] = (part["next_timestamp"] + ahead * self._step) & 0xFFFFFFFF
        part["next_position"] += ahead * self._step
        part["expected"] += ahead
        legs.concealed[rows] += missing / self._codec.clock_rate
        for done in range(0, int(missing.max(initial=0)), self._step):
            some = np.flatnonzero(missing > done)
            these = fetch(part, some)
            self._append_block(legs, rows[some], these, np.repeat(self._quiet, some.size, axis=0), arrival[some])
            put(part, some, these)
        part["emitted"] += missing
        beyond = part["emitted"] - part["next_position"] > self._most_ahead
        if beyond.any():  # the way has become longer: from here on the sender's time is where the output stands
            np.copyto(part["next_position"], part["emitted"], where=beyond)
            np.copyto(part["base"], arrival - part["emitted"] / self._codec.clock_rate, where=beyond)
            np.copyto(part["spread"], 0.0, where=beyond)
        put(records, at, part)
        in_turn[at] = True

    def _append_block(
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
                self._append_block(legs, rows[going], part, data[going], arrival[going])
                put(records, going, part)
            return
        fill, clock = records["fill"], records["clock"]
        within = fill % self._chunk
        np.copyto(records["chunk_start"], clock, where=within == 0)
        np.copyto(records["chunk_at"], arrival, where=within == 0)
        frames = legs.uplink.reshape(-1, self._frame)
        frames[(rows * self.uplink_bytes + fill) // self._frame] = data
        clock += self._frame
        full = np.flatnonzero(within == self._chunk - self._frame)
        if full.size:
            self._emit_block(legs, rows[full], fetch(records, full))
        fill += self._frame
        fill %= self.uplink_bytes

    # --- one at a time ----------------------------------------------------------------------------------------------

    def datagram(self, legs: Legs, row: int, data: bytes, at: float, now: float) -> None:
        """One datagram of the leg in `row`, whatever it is."""
        if not data:
            self.discarded["truncated"] += 1
            return
        try:
            packet = RtpPacket.parse(data)
        except MediaError:
            self.discarded["malformed"] += 1
            return
        if packet.payload_type != self._codec.receive_type or not packet.payload:
            self.discarded["payload_type" if packet.payload else "empty"] += 1
            return
        if packet.ssrc != legs.ssrc[row] and not self._adopt(legs, row, packet):
            return
        buffer = self._load(legs, row)
        self._account(legs, row, packet, at, buffer)
        ticks = self._codec.ticks(len(packet.payload))
        verdict = buffer.push(packet, at, ticks)
        if verdict == "late":
            legs.late[row] += 1
        if verdict:
            self.discarded[verdict] += 1
        self._drain(legs, row, buffer, now)

    def _adopt(self, legs: Legs, row: int, packet: RtpPacket) -> bool:
        """Whether a packet of a source not known here begins a new one: the very first at once, later ones when two agree."""
        if packet.ssrc == legs.barred[row]:
            self.discarded["previous_call"] += 1
            return False
        if legs.ssrc[row] >= 0:
            before = self._candidates.get(row)
            self._candidates[row] = (packet.ssrc, packet.sequence)
            if before != (packet.ssrc, (packet.sequence - 1) & 0xFFFF):
                self.discarded["ssrc"] += 1
                return False
            del self._candidates[row]
        buffer = self._buffers.get(row)
        if buffer is not None:
            buffer.restart()
        legs.started[row] = legs.smooth[row] = False
        legs.transit[row] = np.nan
        legs.ssrc[row] = packet.ssrc
        return True

    def _account(self, legs: Legs, row: int, packet: RtpPacket, at: float, buffer: JitterBuffer) -> None:
        """Loss, order and jitter of a packet that may be out of turn (RFC 3550 §6.4.1, Appendix A)."""
        legs.received[row] += 1
        if not buffer.started:
            legs.expected[row] += 1
            return
        t = buffer.timing
        position = t.next_position + signed_distance(packet.timestamp, t.next_timestamp, 32)
        transit = at - position / self._codec.clock_rate
        if not np.isnan(legs.transit[row]):
            legs.jitter[row] += (abs(transit - legs.transit[row]) - legs.jitter[row]) / 16.0
        legs.transit[row] = transit
        ahead = signed_distance(packet.sequence, t.next_sequence, 16)
        if ahead < 0 or ahead < buffer.furthest:
            legs.reordered[row] += 1

    def _load(self, legs: Legs, row: int) -> JitterBuffer:
        buffer = self._buffers.get(row)
        if buffer is None:
            low, high = self._bounds
            buffer = self._buffers[row] = JitterBuffer(self._codec.clock_rate, self._step, low, high)
        t = buffer.timing
        t.next_sequence = int(legs.next_sequence[row])
        t.next_timestamp = int(legs.next_timestamp[row])
        t.next_position = int(legs.next_position[row])
        t.emitted = int(legs.emitted[row])
        t.base, t.spread, t.seen = float(legs.base[row]), float(legs.spread[row]), float(legs.seen[row])
        buffer.started = bool(legs.started[row])
        return buffer

    def _store(self, legs: Legs, row: int, buffer: JitterBuffer) -> None:
        t = buffer.timing
        legs.next_sequence[row], legs.next_timestamp[row] = t.next_sequence, t.next_timestamp
        legs.next_position[row], legs.emitted[row] = t.next_position, t.emitted
        legs.base[row], legs.spread[row], legs.seen[row] = t.base, t.spread, t.seen
        legs.started[row] = buffer.started
        voice = self._voices.get(row)
        legs.smooth[row] = (
            self._convert is not None
            and buffer.started
            and not buffer.held
            and not (voice is not None and voice.concealing)
            and t.emitted >= t.next_position
            and legs.fill[row] % self._frame == 0
        )
        if legs.smooth[row]:
            self._voices.pop(row, None)
        if buffer.held:
            self._waiting.add(row)
        else:
            self._waiting.discard(row)

    def _drain(self, legs: Legs, row: int, buffer: JitterBuffer, now: float) -> None:
        """Take out of the buffer what its time has come."""
        sequence = buffer.timing.next_sequence
        while (item := buffer.pop(now)) is not None:
            if isinstance(item, Heard):
                self._append(legs, row, self._heard(legs, row, item.packet.payload), item.at)
            elif item.kind == "lost":
                legs.concealed[row] += item.ticks / self._codec.clock_rate
                self._append(legs, row, self._missing(legs, row, item.ticks, buffer.following()), now)
            else:
                self._append(legs, row, self._missing(legs, row, item.ticks, None, silence=True), now)
        if buffer.expired:
            legs.late[row] += buffer.expired
            self.discarded["late"] += buffer.expired
            buffer.expired = 0
        passed = (buffer.timing.next_sequence - sequence) & 0xFFFF
        if buffer.restarts:
            buffer.restarts = 0
            legs.expected[row] += 1
        elif legs.started[row]:
            legs.expected[row] += passed
        self._store(legs, row, buffer)

    def _heard(self, legs: Legs, row: int, payload: bytes) -> bytes:
        """A packet's sound for the stream; by table alone where nothing has to be joined."""
        voice = self._voices.get(row)
        if voice is None and self._convert is not None and len(payload) % self._sample_bytes == 0:
            if legs.tapped[row] and self._decoder is not None:
                self._tap(row, self._decoder.decode(payload))
            return self._convert(np.frombuffer(payload, dtype=np.uint8).reshape(1, -1)).tobytes()
        voice = voice or self._voice(legs, row)
        try:
            sound = voice.heard(payload)
        except MediaError:
            self.discarded["malformed"] += 1
            sound = voice.lost(self._step)
        if legs.tapped[row]:
            self._tap(row, voice.pcm)
        return sound

    def _missing(self, legs: Legs, row: int, ticks: int, following: bytes | None, *, silence: bool = False) -> bytes:
        """What is said where no packet is: substitute sound, or silence once a tick has had its share of that work."""
        if self._convert is not None and row not in self._voices and (silence or self._concealments <= 0):
            size = ticks * self._rate // self._codec.clock_rate * self._sample_out
            return bytes([self._silence]) * size
        voice = self._voice(legs, row)
        if silence and voice.faded and self._convert is not None:
            del self._voices[row]
            return self._missing(legs, row, ticks, None, silence=True)
        self._concealments -= 1
        sound = voice.nothing(ticks) if silence else voice.lost(ticks, following)
        if legs.tapped[row]:
            self._tap(row, voice.pcm)
        return sound

    def _voice(self, legs: Legs, row: int) -> UplinkVoice:
        voice = self._voices.get(row)
        if voice is None:
            voice = self._voices[row] = UplinkVoice(self._codec, self._encoding, self._rate)
            if self._convert is not None and legs.clock[row]:
                fill = int(legs.fill[row])
                voice.remember(np.roll(legs.uplink[row], -fill).tobytes())
        return voice

    def overdue(self, legs: Legs, now: float) -> None:
        """Let time go on for legs from which nothing has come: call once a tick."""
        self._concealments = _CONCEALMENTS
        low, high = (bound / 1000 for bound in self._bounds)
        if self._taking is not None:
            late = self._taking.overdue(legs, now, low, high, self._step)
        else:
            target = np.clip(legs.spread * MARGIN + HEADROOM, low, high)
            behind = (now - legs.base - target) * self._codec.clock_rate - legs.emitted
            late = np.flatnonzero((behind >= (1 + PATIENCE) * self._step) & legs.started & legs.connected)
        if late.size > self._concealments and self._convert is not None:
            late = self._fill(legs, late, now)
        waiting = late.tolist()
        for row in self._waiting.union(waiting) if self._waiting else waiting:
            self._drain(legs, row, self._load(legs, row), now)

    def _fill(self, legs: Legs, rows: NDArray[np.int64], now: float) -> NDArray[np.int64]:
        """A frame of silence for all legs that wait for nothing in particular but the first few; the rest comes back.

        So many at once is a stumble of the whole network, or many callers who say nothing.
        """
        plain = legs.smooth[rows] & ~legs.tapped[rows]
        plain[: self._concealments] = False
        quiet = rows[plain]
        records = fetch(legs.inbound, quiet)
        records["emitted"] += self._step
        silence = np.repeat(self._quiet, quiet.size, axis=0)
        self._append_block(legs, quiet, records, silence, np.full(quiet.size, now))
        put(legs.inbound, quiet, records)
        return rows[~plain]

    def _append(self, legs: Legs, row: int, sound: bytes, at: float) -> None:
        """Add stream bytes to a leg's chunk."""
        if legs.paused[row]:
            legs.clock[row] += len(sound)
            return
        data = np.frombuffer(sound, dtype=np.uint8)
        done = 0
        while done < data.size:
            fill = int(legs.fill[row])
            if fill % self._chunk == 0:
                legs.chunk_start[row] = legs.clock[row]
                legs.chunk_at[row] = at
            take = min(data.size - done, self._chunk - fill % self._chunk)
            legs.uplink[row, fill : fill + take] = data[done : done + take]
            done += take
            fill += take
            legs.clock[row] += take
            if fill % self._chunk == 0:
                self._emit(legs, row, legs.uplink[row, fill - self._chunk : fill].tobytes())
            legs.fill[row] = fill % self.uplink_bytes

    def _emit_block(self, legs: Legs, rows: NDArray[np.int64], records: NDArray[Record]) -> None:
        """The chunk that the frame at `fill` belongs to is complete, for each of `rows`."""
        whole = legs.uplink.reshape(-1, self._chunk).view(f"V{self._chunk}").reshape(-1)
        self._completed(
            rows.tolist(),
            legs.generation[rows].tolist(),
            (records["chunk_start"] * 1000 // self._second).tolist(),
            records["chunk_at"].tolist(),
            whole.take((rows * self.uplink_bytes + records["fill"]) // self._chunk).tolist(),
        )

    def _completed(
        self,
        rows: list[int],
        generations: list[int],
        starts: list[int],
        arrivals: list[float],
        payloads: list[bytes],
    ) -> None:
        audio = map(_new, repeat(StreamAudio), zip(repeat(self._encoding), repeat(self._rate), payloads))
        sounds = map(_new, repeat(UplinkChunk), zip(audio, starts, arrivals, strict=True))
        self.chunks += map(_new, repeat(Chunk), zip(rows, generations, sounds, strict=True))

    def _emit(self, legs: Legs, row: int, payload: bytes) -> None:
        start_ms = int(legs.chunk_start[row]) * 1000 // self._second
        self._completed([row], [int(legs.generation[row])], [start_ms], [float(legs.chunk_at[row])], [payload])

    # --- control ----------------------------------------------------------------------------------------------------

    def pause(self, legs: Legs, row: int, now: float) -> None:
        """Hold: what is begun goes up, filled with silence; what is said from now on does not."""
        fill = int(legs.fill[row]) % self._chunk
        if fill and not legs.paused[row]:
            self._append(legs, row, bytes([self._silence]) * (self._chunk - fill), now)
            self._padded[row] = int(legs.clock[row])
            legs.clock[row] -= self._chunk - fill
        legs.paused[row] = True

    def resume(self, legs: Legs, row: int) -> None:
        """Hold is over: sound goes up again, and never begins inside what was filled with silence before."""
        legs.clock[row] = max(int(legs.clock[row]), self._padded.pop(row, 0))
        legs.paused[row] = False

    def close(self, row: int) -> None:
        """Forget a leg."""
        self._buffers.pop(row, None)
        self._padded.pop(row, None)
        self._voices.pop(row, None)
        self._candidates.pop(row, None)
        self._waiting.discard(row)
        self.taps.pop(row, None)

    def _tap_payload(self, row: int, payload: NDArray[np.uint8]) -> None:
        assert self._decoder is not None
        self._tap(row, self._decoder.decode(payload.tobytes()))

    def _tap(self, row: int, pcm: Pcm) -> None:
        for listener in self.taps.get(row, ()):
            listener(pcm)

    def _count_if(self, reason: str, count: int) -> None:
        if count:
            self.discarded[reason] += count
