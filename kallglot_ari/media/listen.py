"""From Asterisk to the stream: a block of datagrams in, chunks of `chunk_ms` out.

The fast path takes every packet that comes in its turn, for all legs in one go: machine code where there is some (`fast`), else numpy. Whatever is not in its turn (the first packet, reordering, loss,
silence, a new source, odd sizes, codecs with memory) goes through a `JitterBuffer` and an `UplinkVoice` of its leg, one at a time.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.audio.codecs.registry import stream_sample_bytes, stream_to_pcm
from kallglot_ari.audio.frame import FRAME_MS
from kallglot_ari.errors import MediaError
from kallglot_ari.media import drift
from kallglot_ari.media.budget import Budget
from kallglot_ari.media.chunks import Chunks
from kallglot_ari.media.fast import Decoders, Taking
from kallglot_ari.media.legs import Legs, fetch, put
from kallglot_ari.media.native import Native
from kallglot_ari.media.originals import Originals
from kallglot_ari.media.rounds import SINGLY, Rounds, RowConvert
from kallglot_ari.media.udp import Block
from kallglot_ari.media.uplink import UplinkVoice, block_converter, silence_byte, stream_frame_bytes
from kallglot_ari.rtp.jitter import DRIFT_LIMIT, HEADROOM, MARGIN, PATIENCE, Heard, JitterBuffer, Verdict
from kallglot_ari.rtp.packet import RtpPacket
from kallglot_ari.rtp.sequence import signed_distance

_CONCEALMENTS = 12
"""Substitute frames computed in one turn; when a whole network stumbles, the legs past that get silence, so that all are in time."""


def _decodes(codec: Codec, encoding: str, rate: int) -> bool:
    """Whether `Decoders` gives what the stream wants."""
    return codec.name == "g722" and encoding == "pcm_16" and rate == codec.sample_rate and sys.byteorder == "little"


class Listen:
    """The uplink of all legs."""

    def __init__(
        self, codec: Codec, encoding: str, rate: int, chunk_ms: int, *, jitter_min_ms: int, jitter_max_ms: int,
        originals: Originals, library: Native | None = None,
    ) -> None:  # fmt: skip
        """`originals` is given what those say whom another leg hears."""
        self._codec = codec
        self._originals = originals
        self._encoding = encoding
        self._rate = rate
        self._frame_in = codec.frame_bytes
        self._step = codec.timestamp_step
        self._first_half = 0x8000 | codec.receive_type
        """The first 16 bits of a usual packet, but for the marker."""
        self._frame = self.frame_bytes = stream_frame_bytes(encoding, rate)
        self.chunks = Chunks(encoding, rate, self._frame, chunk_ms)
        table = block_converter(codec, encoding, rate)
        self._decoders: Decoders | None = None
        """Of all legs, where the codec has memory and machine code decodes it."""
        if library is not None and _decodes(codec, encoding, rate):
            self._decoders = Decoders(library)
        self._convert: RowConvert | None = self._decoders
        if table is not None:
            self._convert = lambda rows, block: table(block)
        self._silence = silence_byte(encoding)
        self._decoder = codec.decoder() if table is not None else None
        self._sample_bytes = self._frame_in // codec.frame_samples or 1
        self._sample_out = stream_sample_bytes(encoding)
        self._concealments = Budget(_CONCEALMENTS)
        self._bounds = (jitter_min_ms, jitter_max_ms)
        self._most_ahead = jitter_max_ms * codec.clock_rate // 1000
        self._quiet = np.full((1, self._frame), self._silence, dtype=np.uint8)
        self._buffers: dict[int, JitterBuffer] = {}
        self._voices: dict[int, UplinkVoice] = {}
        self._candidates: dict[int, tuple[int, int]] = {}
        self._waiting: set[int] = set()
        """Legs whose buffer holds packets back."""
        self._padded: dict[int, int] = {}
        """Of legs on hold: where the silence ends with which their last chunk was filled, in stream bytes."""
        self.discarded: Counter[str] = Counter()
        self._taking: Taking | None = None
        convert = self._decoders or table
        if library is not None and convert is not None:
            self._taking = Taking(
                library, codec, convert, originals.pointer, first_half=self._first_half, most_ahead=self._most_ahead,
                frame=self._frame, chunk=self.chunks.size, second=self._frame * 1000 // FRAME_MS,
            )  # fmt: skip
        self._rounds = Rounds(
            codec, self._convert, self.chunks,
            first_half=self._first_half, most_ahead=self._most_ahead, quiet=self._quiet, skipped=self._skipped,
        )  # fmt: skip

    # --- a block of datagrams ---------------------------------------------------------------------------------------

    def block(self, legs: Legs, block: Block, count: int, now: float) -> NDArray[np.int64]:
        """Take `count` rows of `block`; whose each is, -1 where it is nobody's."""
        singly = partial(self._datagram_at, legs, block, now)
        if self._taking is None:
            rows_of = legs.lookup(block.name[:count])
            pending = np.flatnonzero(rows_of >= 0)
            self._count_if("address", count - pending.size)
            self._rounds.take(legs, block, count, rows_of, pending, singly, self._tap_payloads)
            return rows_of
        rows_of, others = self._take(legs, block, 0, count)
        rows_of = rows_of[:count]
        self._count_if("address", int(np.count_nonzero(rows_of < 0)))
        if len(others) > SINGLY:
            self._rounds.take(legs, block, count, rows_of, np.array(others), singly, self._tap_payloads)
            return rows_of
        begun: set[int] = set()
        for at in others:
            row = int(rows_of[at])
            if row not in begun or self._take(legs, block, at, at + 1)[1]:
                begun.add(row)
                singly(row, at)
        return rows_of

    def _take(self, legs: Legs, block: Block, first: int, end: int) -> tuple[NDArray[np.int64], list[int]]:
        """What is in its turn of these rows of `block`, by machine code: whose each is, and which are left to do."""
        assert self._taking is not None
        if self._originals:
            self._originals.bind(legs)
        return self._taking.take(legs, block, first, end, self.chunks.completed)

    def _datagram_at(self, legs: Legs, block: Block, now: float, row: int, at: int) -> None:
        data = block.data[at, : block.length[at]].tobytes()
        self.datagram(legs, row, data, float(block.arrival[at]), now)

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
        first = not buffer.started
        verdict = buffer.push(packet, at, self._codec.ticks(packet.payload))
        if first:
            legs.received[row] += 1
            legs.expected[row] += 1
        elif verdict not in ("odd", "duplicate"):
            self._account(legs, row, packet, at, buffer, verdict)
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
        if self._decoders is not None:
            self._decoders.forget(row)
        if (voice := self._voices.get(row)) is not None:
            voice.another()
        legs.started[row] = legs.smooth[row] = False
        drift.begin_anew(legs, row)
        legs.ssrc[row] = packet.ssrc
        return True

    def _account(
        self, legs: Legs, row: int, packet: RtpPacket, at: float, buffer: JitterBuffer, verdict: Verdict
    ) -> None:
        """Loss, order and jitter of a packet that may be out of turn (RFC 3550 §6.4.1, Appendix A), once the buffer has it.

        Duplicates are left out. RFC 3550 counts them as received, where each makes up for a packet that was lost: on a path that doubles
        packets a loss of half of them would not be seen, and copies would count as late or out of order.
        What begins a new series has no delay that could be compared with those before, nor has a late one with a timestamp of another.
        """
        legs.received[row] += 1
        if buffer.restarts:
            return
        transit = at - buffer.position(packet) / self._codec.clock_rate
        change = abs(transit - legs.transit[row])  # not a number: the first one
        if verdict != "late" or change <= DRIFT_LIMIT:
            if not np.isnan(change):
                legs.jitter[row] += (change - legs.jitter[row]) / 16.0
            legs.transit[row] = transit
            legs.window_min[row] = min(legs.window_min[row], transit)
        ahead = signed_distance(packet.sequence, buffer.timing.next_sequence, 16)
        if ahead < 0 or ahead < buffer.furthest:
            legs.reordered[row] += 1

    def _skipped(self, row: int, next_sequence: int, count: int) -> None:
        if (buffer := self._buffers.get(row)) is not None:
            buffer.skip(next_sequence, count)

    def _load(self, legs: Legs, row: int) -> JitterBuffer:
        buffer = self._buffers.get(row)
        if buffer is None:
            low, high = self._bounds
            buffer = self._buffers[row] = JitterBuffer(self._codec.clock_rate, self._step, low, high)
        t = buffer.timing
        if t.next_sequence != legs.next_sequence[row]:  # packets of the usual length went by without it
            buffer.usual = self._step
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
                self.chunks.add(legs, row, self._heard(legs, row, item.packet.payload), item.at)
                continue
            ticks = item.ticks + self._to_border(legs, row, item.ticks)
            buffer.timing.emitted += ticks - item.ticks
            if item.kind == "lost":
                legs.concealed[row] += ticks / self._codec.clock_rate
                self.chunks.add(legs, row, self._missing(legs, row, ticks, buffer.following()), now)
            else:
                self.chunks.add(legs, row, self._missing(legs, row, ticks, None, silence=True), now)
        if buffer.expired:
            legs.late[row] += buffer.expired
            self.discarded["late"] += buffer.expired
            buffer.expired = 0
        if buffer.moved:
            buffer.moved = False
            drift.begin_anew(legs, row)
        passed = (buffer.timing.next_sequence - sequence) & 0xFFFF
        if buffer.restarts:
            buffer.restarts = 0
            legs.expected[row] += 1
        elif legs.started[row]:
            legs.expected[row] += passed - buffer.soundless
        buffer.soundless = 0
        self._store(legs, row, buffer)

    def _to_border(self, legs: Legs, row: int, ticks: int) -> int:
        """By how much `ticks` of a gap must be longer to end where frames begin: packets after it would never be in their turn else."""
        if self._convert is None:
            return 0
        second = self._frame * 1000 // FRAME_MS
        beyond = (int(legs.fill[row]) + ticks * second // self._codec.clock_rate) % self._frame
        return -(-(self._frame - beyond) * self._codec.clock_rate // second) if beyond else 0

    def _heard(self, legs: Legs, row: int, payload: bytes) -> bytes:
        """A packet's sound for the stream; by table alone where nothing has to be joined."""
        voice = self._voices.get(row)
        if voice is None and self._convert is not None and len(payload) % self._sample_bytes == 0:
            block = np.frombuffer(payload, dtype=np.uint8).reshape(1, -1)
            sound = self._convert(np.array([row]), block)
            if legs.tapped[row]:
                self._tap_payloads(np.array([row]), block, sound)
            return sound.tobytes()
        voice = voice or self._voice(legs, row)
        try:
            said = voice.heard(payload)
        except MediaError:
            self.discarded["malformed"] += 1
            said = voice.lost(self._codec.ticks(payload))
        if legs.tapped[row]:
            self._originals.put(row, voice.pcm)
        return said

    def _missing(self, legs: Legs, row: int, ticks: int, following: bytes | None, *, silence: bool = False) -> bytes:
        """What is said where no packet is: substitute sound, or silence once a tick has had its share of that work."""
        if self._convert is not None and row not in self._voices and (silence or self._concealments.left <= 0):
            size = ticks * self._rate // self._codec.clock_rate * self._sample_out
            return bytes([self._silence]) * size
        voice = self._voice(legs, row)
        if silence and voice.faded and self._convert is not None:
            del self._voices[row]
            return self._missing(legs, row, ticks, None, silence=True)
        self._concealments.take()
        sound = voice.nothing(ticks) if silence else voice.lost(ticks, following)
        if legs.tapped[row]:
            self._originals.put(row, voice.pcm)
        return sound

    def _voice(self, legs: Legs, row: int) -> UplinkVoice:
        voice = self._voices.get(row)
        if voice is None:
            decoder = self._decoders.of(row) if self._decoders is not None else None
            voice = self._voices[row] = UplinkVoice(self._codec, self._encoding, self._rate, decoder)
            if self._convert is not None and legs.clock[row]:
                fill = int(legs.fill[row])
                voice.remember(np.roll(legs.uplink[row], -fill).tobytes())
        return voice

    def overdue(self, legs: Legs, now: float) -> None:
        """Let time go on for legs from which nothing has come: call once a tick."""
        self._concealments.begin(now)
        low, high = (bound / 1000 for bound in self._bounds)
        if self._taking is not None:
            late = self._taking.overdue(legs, now, low, high, self._step)
        else:
            target = np.clip(legs.spread * MARGIN + HEADROOM, low, high)
            behind = (now - legs.base - target) * self._codec.clock_rate - legs.emitted
            late = np.flatnonzero((behind >= (1 + PATIENCE) * self._step) & legs.started & legs.connected)
        if late.size > self._concealments.left and self._convert is not None:
            late = self._fill(legs, late, now)
        waiting = late.tolist()
        for row in self._waiting.union(waiting) if self._waiting else waiting:
            self._drain(legs, row, self._load(legs, row), now)

    def _fill(self, legs: Legs, rows: NDArray[np.int64], now: float) -> NDArray[np.int64]:
        """A frame of silence for all legs that wait for nothing in particular but the first few; the rest comes back.

        So many at once is a stumble of the whole network, or many callers who say nothing.
        """
        plain = legs.smooth[rows]
        plain[: self._concealments.left] = False
        quiet = rows[plain]
        records = fetch(legs.inbound, quiet)
        records["emitted"] += self._step
        silence = np.repeat(self._quiet, quiet.size, axis=0)
        self.chunks.add_block(legs, quiet, records, silence, np.full(quiet.size, now))
        put(legs.inbound, quiet, records)
        return rows[~plain]

    # --- control ----------------------------------------------------------------------------------------------------

    def pause(self, legs: Legs, row: int, now: float) -> None:
        """Hold: what is begun goes up, filled with silence; what is said from now on does not."""
        fill = int(legs.fill[row]) % self.chunks.size
        if fill and not legs.paused[row]:
            self.chunks.add(legs, row, bytes([self._silence]) * (self.chunks.size - fill), now)
            self._padded[row] = int(legs.clock[row])
            legs.clock[row] -= self.chunks.size - fill
        legs.paused[row] = True

    def resume(self, legs: Legs, row: int) -> None:
        """Hold is over: sound goes up again, and never begins inside what was filled with silence before."""
        legs.clock[row] = max(int(legs.clock[row]), self._padded.pop(row, 0))
        legs.paused[row] = False

    def close(self, row: int) -> None:
        """Forget a leg."""
        if self._decoders is not None:
            self._decoders.forget(row)
        self._buffers.pop(row, None)
        self._padded.pop(row, None)
        self._voices.pop(row, None)
        self._candidates.pop(row, None)
        self._waiting.discard(row)

    def _tap_payloads(self, rows: NDArray[np.int64], payloads: NDArray[np.uint8], sound: NDArray[np.uint8]) -> None:
        """A payload of each of these and what the stream gets of it: that is all there is of one whose decoder must not be asked twice."""
        if self._decoder is not None:
            pcm = self._decoder.decode(payloads.tobytes())
        else:
            pcm = stream_to_pcm(self._encoding, sound.tobytes())
        self._originals.put_each(rows, pcm.reshape(rows.size, -1))

    def _count_if(self, reason: str, count: int) -> None:
        if count:
            self.discarded[reason] += count
