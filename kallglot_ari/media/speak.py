"""From the stream to Asterisk: one packet for every connected leg every 20 ms, for ever, speech where there is some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media.budget import Budget
from kallglot_ari.media.fast import Sending
from kallglot_ari.media.hurry import Hurry
from kallglot_ari.media.legs import RTP_HEADER, STAGED, Legs, Record, fetch, put
from kallglot_ari.media.native import Native
from kallglot_ari.media.originals import Originals
from kallglot_ari.media.speech import Speech
from kallglot_ari.media.stored import Encoders, Stored, silent_payload
from kallglot_ari.media.udp import Socket
from kallglot_ari.rtp.playout import Prebuffer

Play: TypeAlias = tuple[int, int, str, StreamAudio, float]
"""A piece of speech: its leg's row and generation, who says it, the sound, and when it came (monotonic seconds)."""

_RECALLED = 3
"""Frames that were sent as they came, for a gap after them to be filled from."""
_NUMBERED = 64
"""Names of sources that are known apart at most; others are asked about each time."""
_REPAIRS = 16
"""Frames made up in one turn where speech ran dry; when the stream stumbles for all legs at once, those past that say silence, so that all are in time."""


class _Way:
    """A leg's record in `Legs.ways`."""

    __slots__ = ("_legs", "_numbers", "_row")

    def __init__(self, legs: Legs, row: int, numbers: dict[str, int]) -> None:
        self._legs, self._row, self._numbers = legs, row, numbers

    def begin(self, source: str, first_at: float, queued: int) -> None:
        legs, row, numbers = self._legs, self._row, self._numbers
        number = numbers.get(source, 0)
        if not number and len(numbers) < _NUMBERED:
            number = numbers[source] = len(numbers) + 1
        legs.ways[row] = legs.generation[row], number, queued, first_at

    def end(self) -> int:
        way = self._legs.ways[self._row]
        way["source"] = 0
        return int(way["queued"])


class Speak:
    """The downlink of all legs."""

    def __init__(
        self, codec: Codec, backlog_max_ms: int, lag_max_ms: int, originals: Originals, library: Native | None = None
    ) -> None:
        self._codec = codec
        self._originals = originals
        self._step = codec.timestamp_step
        assert codec.send_type is not None
        self._first = (0x8000 | codec.send_type) - 0x10000 << 48
        """The first 8 bytes of a packet as one signed number, all but what `_number` puts in."""
        self._backlog_max_ms, self._lag_max_ms = backlog_max_ms, lag_max_ms
        self.silence = silent_payload(codec)
        self._silence = np.frombuffer(self.silence, dtype=np.uint8)
        self._prebuffer = Prebuffer()
        self.form = Stored.of(codec)
        self._unit = self.form.unit
        self._whole = f"V{self._unit}"
        self._ahead: dict[int, bytes] = {}
        """Speech that came for legs under way and is yet to be put where they are sent from."""
        self.speech: dict[int, Speech] = {}
        self.latencies: list[float] = []
        """Seconds from a talkspurt's arrival to its first packet, since the caller last took them."""
        self.lags: list[float] = []
        """The most that each talkspurt was behind, of those that ended since the caller last took them."""
        self._repairs = Budget(_REPAIRS)
        self._hurry = Hurry(codec, library)
        self._numbers: dict[str, int] = {}
        """Of sources whose speech goes by."""
        self._sending: Sending | None = None
        if library is not None:
            self._sending = Sending(library, codec, self.form, self._silence)
        self._encoders: Encoders | None = None
        if not (self._sending.writes if self._sending is not None else self.form.is_payload):
            self._encoders = Encoders(codec, self._silence)

    def open(self, legs: Legs, row: int) -> None:
        if self._encoders is not None:
            self._encoders.open(row)
        if self._sending is not None:
            self._sending.open(legs, row)
        way = _Way(legs, row, self._numbers) if self._sending is not None else None
        speech = Speech(
            self._codec, self._prebuffer, self._backlog_max_ms, self._lag_max_ms, self.lags, self._hurry, way
        )
        self.speech[row] = speech
        legs.talk[row] = speech.under_way

    def close(self, row: int) -> None:
        """Forget a leg."""
        self.speech.pop(row, None)
        self._ahead.pop(row, None)
        if self._encoders is not None:
            self._encoders.close(row)

    def play(self, legs: Legs, row: int, source: str, audio: StreamAudio, now: float, received_at: float) -> int:
        """Queue speech; the frames dropped. Raises as `Speech.play` does."""
        speech = self.speech[row]
        encoding, rate, payload = audio
        before = self._ahead.get(row, b"")
        frames = (len(before) + len(payload)) // self._unit
        if legs.count.item(row) + frames <= STAGED and speech.passes(source, encoding, rate, len(payload), now):
            self._ahead[row] = before + payload
            return 0
        self.settle(legs)
        alone = speech.alone
        dropped = speech.play(source, encoding, rate, payload, now, received_at)
        if alone and not speech.alone:
            self._unstage(legs, row, speech)
        legs.talk[row] = True
        legs.queued[row] = speech.queued_frames
        return dropped

    def pass_by(self, legs: Legs, plays: Sequence[Play], now: float) -> Iterator[int]:
        """The places of those `plays` that are left to do, each when all before it are done; the others go by here, of many legs at once."""
        count = len(plays)
        rows, generations, sources, audio, _ = zip(*plays, strict=True)
        encodings, rates, payloads = zip(*audio, strict=True)
        usual = encodings.count(self.form.encoding) == count == rates.count(self._codec.sample_rate)
        if self._sending is None or not usual:
            yield from range(count)
            return
        self.settle(legs)
        numbers, sizes = map(self._numbers.get, sources, repeat(0)), map(len, payloads)
        pieces = np.fromiter(chain(rows, generations, numbers, sizes), np.int64, 4 * count).reshape(4, -1)
        for place in self._sending.pass_by(legs, pieces, b"".join(payloads), now, self._prebuffer):
            yield place
            self.settle(legs)  # what it left there comes before what goes by next

    def settle(self, legs: Legs) -> None:
        """Put what came for legs under way behind what is ready to send, all legs' at once. Call it before anything looks at that."""
        if not self._ahead:
            return
        sizes = set(map(len, self._ahead.values()))
        for size in sizes:
            ahead = self._ahead
            if len(sizes) > 1:
                ahead = {row: payload for row, payload in ahead.items() if len(payload) == size}
            self._stage(legs, np.fromiter(ahead, np.int64, len(ahead)), b"".join(ahead.values()), size // self._unit)
        self._ahead.clear()

    def _stage(self, legs: Legs, rows: NDArray[np.int64], sound: bytes, frames: int) -> None:
        """Put `sound`, `frames` frames for each of `rows`, behind what they have ready."""
        if self._sending is not None:
            self._sending.stage(legs, rows, sound, frames)
            return
        data = np.frombuffer(sound, dtype=np.uint8).reshape(-1, self._unit)
        records = fetch(legs.outbound, rows)
        first = records["head"] + records["count"]
        at = (first[:, None] + np.arange(frames)) % STAGED + (rows * STAGED)[:, None]
        put(self._staged(legs), at.reshape(-1), data.view(self._whole).reshape(-1))
        records["count"] += frames
        records["plain"] = True
        put(legs.outbound, rows, records)

    def flush(self, legs: Legs, row: int, source: str | None) -> None:
        self.settle(legs)
        speech = self.speech[row]
        self._unstage(legs, row, speech)
        self._recall(legs, row, speech)
        speech.flush(source)
        legs.queued[row] = speech.queued_frames

    def _unstage(self, legs: Legs, row: int, speech: Speech) -> None:
        """Take back what lies ready but is not sent. Only plain frames are ever staged ahead, so they are the source's own bytes."""
        count = int(legs.count[row])
        if count:
            at = (int(legs.head[row]) + np.arange(count)) % STAGED
            speech.put_back(legs.staged[row, at].tobytes())
            legs.count[row] = 0

    def send(self, legs: Legs, socket: Socket, rows: NDArray[np.int64], now: float) -> int:
        """Send one frame for each of `rows`; the packets the kernel took."""
        self.settle(legs)
        if not rows.size:
            return 0
        if self._sending is not None:
            dry = self._sending.dry(legs, rows)
            if dry:
                self._refill_all(legs, dry, now)
            if self._originals:
                self._originals.mix(legs, rows, now)
            if self._encoders is not None:
                self._encoders.write(legs, rows)
            self._sending.pack(legs, rows)
            return socket.send(legs.outbox, rows)
        records = fetch(legs.outbound, rows)
        empty = records["talk"] & (records["count"] == 0)
        if empty.any():
            self._refill_all(legs, rows[empty].tolist(), now)
            records = fetch(legs.outbound, rows)
        if self._originals:
            self._originals.mix(legs, rows, now)
        mixed = legs.ears["mixed"][rows]
        has = (records["count"] > 0) | mixed
        self._payloads(legs, rows, records, has, mixed)
        self._number(legs, rows, records, has)
        put(legs.outbound, rows, records)
        return socket.send(legs.outbox, rows)

    def _staged(self, legs: Legs) -> NDArray[Record]:
        """The frames of all legs, `STAGED` of each, as pieces that are copied whole."""
        return legs.staged.reshape(-1).view(self._whole)

    def _payloads(
        self, legs: Legs, rows: NDArray[np.int64], records: NDArray[Record], has: NDArray[np.bool_], mixed: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """Put what each of `rows` says into its packet: its mix, what lies ready for those that have some, silence for the rest."""
        data = legs.outbox.data
        talking, hush = np.flatnonzero(has & ~mixed), np.flatnonzero(~(has | records["silent"]))
        if self._encoders is not None:
            self._encoders.write(legs, rows)
        else:
            if talking.size:
                at = rows[talking]
                frames = fetch(self._staged(legs), at * STAGED + records["head"][talking])
                data[at, RTP_HEADER:] = frames.view(np.uint8).reshape(-1, self._unit)
            data[rows[mixed], RTP_HEADER:] = legs.mix[rows[mixed]]
            data[rows[hush], RTP_HEADER:] = self._silence
        legs.ears["mixed"][rows] = False
        taken = records["count"] > 0
        records["silent"] = ~has
        records["head"] = (records["head"] + taken) % STAGED
        records["count"] -= taken

    def _number(self, legs: Legs, rows: NDArray[np.int64], records: NDArray[Record], speech: NDArray[np.bool_]) -> None:
        """Write marker, sequence number and timestamp, and move them on (RFC 3550 §5.1)."""
        sequence, timestamp = records["sequence"], records["timestamp"]
        begins = speech & ~records["speaking"]
        legs.outbox.first[rows] = self._first | begins.astype(np.int64) << 55 | sequence << 32 | timestamp
        records["speaking"] = speech
        records["sequence"] = (sequence + 1) & 0xFFFF
        records["timestamp"] = (timestamp + self._step) & 0xFFFFFFFF
        records["sent"] += 1

    def _refill_all(self, legs: Legs, rows: list[int], now: float) -> None:
        self._repairs.begin(now)
        for row in self._hurry.turns(legs, rows, now):
            self._refill(legs, row, now)

    def _refill(self, legs: Legs, row: int, now: float) -> None:
        speech = self.speech[row]
        ready = speech.plain(now, STAGED)
        plain = bool(ready)
        if not ready:
            if speech.dry and not self._repairs.take():
                return
            self._recall(legs, row, speech)
            frame = speech.next(now)
            if frame is None:
                legs.talk[row] = speech.under_way
                legs.queued[row] = legs.lag[row] = 0.0
                return
            ready = frame
        self._stage_one(legs, row, ready)
        legs.plain[row] = plain
        legs.queued[row] = speech.queued_frames
        legs.lag[row] = speech.lag
        if speech.started_at:
            self.latencies.extend(now - at for at in speech.started_at)
            speech.started_at.clear()

    def _stage_one(self, legs: Legs, row: int, sound: bytes) -> None:
        """Put `sound` where `row` is sent from, of which nothing lies ready."""
        count = len(sound) // self._unit
        if self._sending is not None:
            self._sending.stage(legs, np.array([row], dtype=np.int64), sound, count)
            return
        frames = np.frombuffer(sound, dtype=np.uint8).reshape(count, self._unit)
        legs.staged[row, (int(legs.head[row]) + np.arange(count)) % STAGED] = frames
        legs.count[row] = count

    def _recall(self, legs: Legs, row: int, speech: Speech) -> None:
        """Show `speech` what was sent last, if it does not know. Nothing may lie ready."""
        if legs.plain[row]:
            legs.plain[row] = False
            last = legs.staged[row, (int(legs.head[row]) - np.arange(_RECALLED, 0, -1)) % STAGED]
            speech.recall([frame.tobytes() for frame in last])

    def skip(self, legs: Legs, rows: NDArray[np.int64], frames: int) -> None:
        """Time that passed unsent after a stall: the timestamps move on."""
        legs.timestamp[rows] = (legs.timestamp[rows] + frames * self._step) & 0xFFFFFFFF
