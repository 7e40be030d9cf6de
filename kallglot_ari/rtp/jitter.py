"""The jitter buffer: order restored, gaps told, and nothing held longer than it helps.

What comes out goes to a recogniser or another party, sample after sample in the sender's own time; no loudspeaker asks for it at a beat.
So a packet in its turn is given out at once, and the buffer waits only where one is missing: until the sender's clock says when it should
have come, plus a target that follows the measured spread of the delay. When that has passed, the gap is told: `lost` where the numbers jump or
nothing comes, `silence` where the sender itself left time out (DTX: the numbers go on, the timestamp jumps).

A packet that comes in its turn after its gap was filled is still given out, as long as the output is not more than `max_ms` ahead of the sender:
speech is worth more than being punctual. What was filled too much is made good at the next silence, which is then shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kallglot_ari.rtp.packet import RtpPacket
from kallglot_ari.rtp.sequence import SEQUENCE_BITS, TIMESTAMP_BITS, signed_distance

CREEP = 0.001
"""The floor of the delay rises by this share of time until a faster packet pulls it down: it follows clocks up to 1,000 ppm apart."""
FORGET = 15.0
"""Seconds in which the spread falls to 1/e."""
MARGIN = 1.15
HEADROOM = 0.005
"""A missing packet is waited for a little longer than the latest one lately took: sound in its turn never waits for that."""
CAPACITY = 128
"""Packets kept at most."""
_RESTART = 100
"""A number further back than this, twice in a row, is a source that started anew (RFC 3550 Appendix A.1)."""
_KNOWN = (1 << _RESTART) - 1
_JUMP = 3000
DRIFT_LIMIT = 2.0
"""Seconds between timestamp and arrival past which the timestamps are a new series."""
PATIENCE = 2
"""Frames waited beyond the target when nothing at all comes, and nothing proves a loss: most often it is only late."""
_LONG = 3
"""Frames that are lost with one number at most: Asterisk cuts up a phone's packet of 60 ms where it transcodes, but not one that never came."""
_TOLD_LOST = 3
"""Frames that are called lost when nothing comes any more; from then on it is silence."""


@dataclass(slots=True)
class Timing:
    """Where a stream stands. All positions are in RTP ticks since its first packet."""

    next_sequence: int = 0
    """16 bits."""
    next_timestamp: int = 0
    """32 bits."""
    next_position: int = 0
    """Position of `next_timestamp`."""
    emitted: int = 0
    """Position up to which sound has been given out, invented sound included."""
    base: float = 0.0
    """When a packet of position 0 would arrive with the least delay, in seconds."""
    spread: float = 0.0
    """How much later than that packets come, at worst, lately; in seconds."""
    seen: float = 0.0
    """When the last packet came."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A packet in its turn."""

    packet: RtpPacket
    at: float


@dataclass(frozen=True, slots=True)
class Missing:
    """Time without a packet, in ticks."""

    ticks: int
    kind: Literal["lost", "silence"]


Verdict = Literal["", "late", "duplicate", "overflow", "odd"]
"""Why a packet was not kept; empty when it was. `late`: its place was given up before; `duplicate`: it, or a copy of it, was here before."""


@dataclass(slots=True)
class JitterBuffer:
    """Packets of one source in, their order and gaps out. `frame` is the usual packet's length in ticks."""

    clock_rate: int
    frame: int
    min_ms: int = 20
    max_ms: int = 200
    timing: Timing = field(default_factory=Timing)
    started: bool = False
    restarts: int = 0
    """How often numbers or timestamps began anew."""
    moved: bool = False
    """Positions stand elsewhere than before against the sender's time: delays measured before and after cannot be compared."""
    expired: int = 0
    """Packets dropped after all: in their turn, because the output was more than `max_ms` past them, or held when numbers began anew."""
    soundless: int = 0
    """Numbers given up that no sound can have had: comfort noise (RFC 3389), of which Asterisk passes on the numbers alone."""
    usual: int = 0
    """How long the last packet lasted, in ticks; 0: as long as a frame."""
    _held: dict[int, tuple[RtpPacket, float, int]] = field(default_factory=dict)
    _soundless: bool | None = None
    """Whether the numbers of the gap that is being given up had no sound; None: no gap is."""
    _given_up: int = 0
    """A bit for each of the numbers before `_given_up_to`, the nearest lowest: it was given up and has not come since."""
    _given_up_to: int = 0
    _odd: int | None = None
    _quiet: float = 0.0
    """Seconds in which nothing had come before the last packet."""
    _unanswered: int = 0
    """Frames filled since the last packet came."""
    _expired_in_a_row: int = 0
    """Ticks."""

    @property
    def target(self) -> float:
        """Seconds a missing packet is waited for."""
        return min(max(self.timing.spread * MARGIN + HEADROOM, self.min_ms / 1000), self.max_ms / 1000)

    @property
    def held(self) -> int:
        """Packets that wait for an earlier one."""
        return len(self._held)

    @property
    def furthest(self) -> int:
        """How many numbers past the next one the furthest held packet is; 0 when none is held."""
        return max(((n - self.timing.next_sequence) & 0xFFFF for n in self._held), default=0)

    def following(self) -> bytes | None:
        """The payload of the packet whose turn it is now, if it is here: it may carry a copy of what was lost before it."""
        entry = self._held.get(self.timing.next_sequence)
        return entry[0].payload if entry else None

    def push(self, packet: RtpPacket, now: float, ticks: int | None = None) -> Verdict:
        """A packet came in at `now`; `ticks` is how long it lasts, if not `frame`."""
        t = self.timing
        if not self.started:
            self._start(packet, now)
        ahead = signed_distance(packet.sequence, t.next_sequence, SEQUENCE_BITS)
        position = self.position(packet)
        # Asterisk goes on with the numbers and begins the timestamps anew when a channel has another party
        anew = position < t.next_position - self.frame
        strayed = anew or abs(now - (t.base + position / self.clock_rate)) > DRIFT_LIMIT
        if ahead < -_RESTART or ahead > _JUMP:
            if self._odd is None or packet.sequence != (self._odd + 1) & 0xFFFF:
                self._odd = packet.sequence
                return "odd"
            self._restart(packet, now)
        elif ahead < 0:
            return "late" if self._take_back(-ahead) else "duplicate"
        elif strayed:
            self._restart(packet, now)
        self._odd = None
        if packet.sequence in self._held:
            return "duplicate"
        if len(self._held) >= CAPACITY:
            return "overflow"
        self._quiet = now - t.seen
        self._measure(self.position(packet), now)
        self._held[packet.sequence] = (packet, now, self.frame if ticks is None else ticks)
        return ""

    def pop(self, now: float) -> Heard | Missing | None:
        """The next piece, or None when it is time to wait. Call it until it says None."""
        if not self.started:
            return None
        t = self.timing
        while self._held:
            entry = self._held.get(t.next_sequence)
            if entry is not None:
                piece = self._in_turn(*entry)
            elif now < t.base + t.next_position / self.clock_rate + self.target and len(self._held) < CAPACITY:
                return None
            else:
                piece = self._give_up_one()
            if piece is not None:
                return piece
        return self._overdue(now)

    def _in_turn(self, packet: RtpPacket, at: float, length: int) -> Heard | Missing | None:
        """The packet whose turn it is, or the silence before it; None: its place was filled long ago, and it is not heard."""
        t = self.timing
        position = self.position(packet)
        if position > t.emitted:
            gap = position - t.emitted
            t.emitted = position
            return Missing(gap, "silence")
        del self._held[t.next_sequence]
        self._unanswered = 0
        t.next_sequence = (t.next_sequence + 1) & 0xFFFF
        t.next_timestamp = (packet.timestamp + length) & 0xFFFFFFFF
        t.next_position = position + length
        self.usual, self._soundless = length, None
        if t.emitted - position > self._most_ahead:
            if self._quiet * self.clock_rate <= self._most_ahead:
                self.expired += 1
                self._expired_in_a_row += length
                if self._expired_in_a_row > self._most_ahead:
                    self._accept_delay(at + length / self.clock_rate, t.emitted)
                return None
            self._accept_delay(at, t.emitted)  # it paused, and its timestamps did not say so: nothing is late
            t.next_position += length
        self._expired_in_a_row = 0
        t.emitted += length
        return Heard(packet, at)

    @property
    def _most_ahead(self) -> int:
        return self.max_ms * self.clock_rate // 1000

    def _accept_delay(self, at: float, position: int) -> None:
        """The way has become longer for good: what comes next belongs at `position`, for which `at` (seconds) would be in time."""
        t = self.timing
        t.next_position = position
        t.base = at - position / self.clock_rate
        t.spread = 0.0
        self.moved = True
        self._expired_in_a_row = 0

    def _overdue(self, now: float) -> Missing | None:
        """Nothing comes: time goes on all the same, one frame after the other."""
        t = self.timing
        if (now - t.base - self.target) * self.clock_rate - t.emitted < (1 + PATIENCE) * self.frame:
            return None
        t.emitted += self.frame
        self._unanswered += 1
        return Missing(self.frame, "lost" if self._unanswered <= _TOLD_LOST else "silence")

    def _give_up_one(self) -> Missing | None:
        """The packet whose turn it is will not come."""
        t = self.timing
        nearest = min(self._held, key=lambda sequence: (sequence - t.next_sequence) & 0xFFFF)
        packets = (nearest - t.next_sequence) & 0xFFFF
        between = self.position(self._held[nearest][0]) - t.next_position
        length = max(0, min(self.frame, between // packets))
        if self._soundless is None:  # once for a gap: did the sender leave time out, which packets without sound say?
            self._soundless = between >= packets * max(_LONG * self.frame, self.usual) + self.frame
        self.soundless += self._soundless
        t.next_sequence = (t.next_sequence + 1) & 0xFFFF
        t.next_timestamp = (t.next_timestamp + length) & 0xFFFFFFFF
        t.next_position += length
        self.skip(t.next_sequence, 1)
        if t.next_position <= t.emitted:
            return None  # filled already while nothing came
        gap = t.next_position - t.emitted
        t.emitted = t.next_position
        return Missing(gap, "lost")

    def skip(self, next_sequence: int, count: int) -> None:
        """The `count` packets before `next_sequence`, whose turn is next, are given up: those that still come are late."""
        passed = (next_sequence - self._given_up_to) & 0xFFFF
        before = self._given_up << passed if passed <= _RESTART else 0
        self._given_up = (before | ((1 << count) - 1)) & _KNOWN
        self._given_up_to = next_sequence

    def _take_back(self, behind: int) -> bool:
        """Whether the packet `behind` numbers back was given up; from now on it was here."""
        self.skip(self.timing.next_sequence, 0)
        bit = 1 << (behind - 1)
        given_up = bool(self._given_up & bit)
        self._given_up &= ~bit
        return given_up

    def restart(self) -> None:
        """Another source: the next packet begins a new series, which goes on where the output stands."""
        self.started = False
        self._drop_held()

    def position(self, packet: RtpPacket) -> int:
        """Where a packet belongs, by its timestamp."""
        t = self.timing
        return t.next_position + signed_distance(packet.timestamp, t.next_timestamp, TIMESTAMP_BITS)

    def _start(self, packet: RtpPacket, now: float) -> None:
        t = self.timing
        t.next_sequence, t.next_timestamp = packet.sequence, packet.timestamp
        self._given_up, self._given_up_to, self._soundless = 0, packet.sequence, None
        if t.seen:  # time that passed meanwhile is silence
            elapsed = int((now - t.base) * self.clock_rate)
            t.next_position = max(t.emitted, elapsed - elapsed % self.frame)
        t.base = now - t.next_position / self.clock_rate
        t.seen = now
        self.started = True

    def _restart(self, packet: RtpPacket, now: float) -> None:
        self.restarts += 1
        self.moved = True
        self._drop_held()
        self._start(packet, now)

    def _drop_held(self) -> None:
        self.expired += len(self._held)
        self._held.clear()

    def _measure(self, position: int, now: float) -> None:
        """Follow the least delay and the spread above it."""
        t = self.timing
        elapsed = max(0.0, now - t.seen)
        t.seen = max(t.seen, now)
        t.base = min(t.base + CREEP * elapsed, now - position / self.clock_rate)
        t.spread = max(now - t.base - position / self.clock_rate, t.spread * (1.0 - min(1.0, elapsed / FORGET)))
