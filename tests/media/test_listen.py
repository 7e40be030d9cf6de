"""The uplink without sockets or clocks: made-up arrivals in, and every byte and every millisecond of what goes up accounted for."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest.mock import MagicMock

import numpy as np
import pytest

from kallglot_ari.audio.codecs import registry
from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.media import listen, rounds
from kallglot_ari.media.legs import Legs
from kallglot_ari.media.listen import Listen
from kallglot_ari.media.native import Native
from kallglot_ari.media.originals import Originals
from kallglot_ari.media.plane import TICK
from kallglot_ari.media.stored import Stored
from kallglot_ari.media.udp import NAME_BYTES, Block, pack_address
from kallglot_ari.rtp.packet import RtpPacket
from tests.audio_checks import tone
from tests.media.simulated import Simulation

ULAW = registry.get("ulaw")
SILENCE = b"\xff"
BARS = "late", "duplicate", "overflow", "odd", "ssrc"


_NO_ZERO = bytes(range(256)).replace(b"\x7f", b"\x01").replace(SILENCE, b"\x81")
"""Of the values of mu-law all but its two zeros, which are silence or come back as the other."""


def payload(leg: int, number: int, size: int = 160) -> bytes:
    """Sound that is like no other packet's, has no silence in it, and survives mu-law to samples and back."""
    return random.Random(leg << 32 | number).randbytes(size).translate(_NO_ZERO)


class Rig:
    """A `Listen` with some legs, fed by hand."""

    library: Native | None = None

    def __init__(self, legs: int, chunk_ms: int = 100) -> None:
        self.listen = Listen(
            ULAW, "mulaw", 8000, chunk_ms, jitter_min_ms=20, jitter_max_ms=200,
            originals=Originals(ULAW, ULAW, Stored.of(ULAW), self.library), library=self.library,
        )  # fmt: skip
        self.legs = Legs(
            uplink_bytes=self.listen.chunks.uplink_bytes, frame_bytes=160, silence=SILENCE * 160, payload_type=0
        )
        self._block = Block(512)
        self._names = [pack_address(socket.AF_INET, "127.0.0.1", 20000 + row) for row in range(legs)]
        for row, name in enumerate(self._names):
            self.legs.open(row, row + 1, ssrc=1, sequence=0, timestamp=0, phase=row % 2)
            self.legs.connect(row, name)

    def take(self, datagrams: list[tuple[int, float, bytes]], now: float) -> None:
        """A tick's block: (leg, arrival, datagram) each."""
        for at, (row, arrival, data) in enumerate(datagrams):
            self._block.data[at, : len(data)] = np.frombuffer(data, dtype=np.uint8)
            self._block.length[at] = len(data)
            self._block.arrival[at] = arrival
            self._block.name[at] = 0
            self._block.name[at, :NAME_BYTES][: len(self._names[row])] = np.frombuffer(self._names[row], dtype=np.uint8)
        if datagrams:
            self.listen.block(self.legs, self._block, len(datagrams), now)

    def of(self, row: int) -> list[UplinkChunk]:
        return [chunk.sound for chunk in self.listen.chunks.ready if chunk.row == row]

    def said(self, row: int) -> bytes:
        """All that went up, and what is begun."""
        fill = int(self.legs.fill[row])
        begun = fill % self.listen.chunks.size
        rest = self.legs.uplink[row, fill - begun : fill].tobytes()
        return b"".join(chunk.audio.payload for chunk in self.of(row)) + rest


@pytest.fixture(autouse=True, params=["native", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "native":
        monkeypatch.setattr(Rig, "library", request.getfixturevalue("library"))


@dataclass
class Sender:
    """One leg's packets, with everything a network and an Asterisk under load do to them."""

    row: int
    rng: random.Random
    packets: list[tuple[float, bytes]] = field(default_factory=list)
    """Arrival and datagram."""
    payloads: list[bytes] = field(default_factory=list)
    """Of what arrives, in the order it was said."""

    def speak(self, count: int, *, loss: float, jitter: float, pauses: float, odd: float, sources: float) -> None:
        rng = self.rng
        clock = begun = rng.uniform(0.0, 0.3)
        sequence, timestamp, ssrc = rng.randrange(65536), rng.randrange(2**32), 100 + self.row
        held_until = last = 0.0
        for number in range(count):
            if rng.random() < pauses:  # silence left out: the numbers go on, the timestamp jumps
                ticks = rng.choice((160, 480, 1600, 37, 1003))
                timestamp += ticks
                clock += ticks / 8000
            if rng.random() < sources:
                ssrc += 1000
                sequence, timestamp = rng.randrange(65536), rng.randrange(2**32)
                held_until = max(held_until, last)  # two sources of a leg do not overlap
            size = rng.choice((80, 240, 72, 161, 9)) if rng.random() < odd else 160
            sound = payload(self.row, number, size)
            if rng.random() < 0.02:
                held_until = clock + rng.uniform(0.02, 0.15)  # the machine stood still: a burst
            arrival = max(clock + rng.random() * jitter, held_until)
            last = max(last, arrival)
            if rng.random() >= loss:
                packet = RtpPacket(0, sequence, timestamp, ssrc, sound, marker=number == 0)
                self.packets.append((max(arrival, begun), packet.pack()))
                self.payloads.append(sound)
            sequence += 1
            timestamp += size
            clock += size / 8000


def play(rig: Rig, senders: list[Sender], rng: random.Random, *, seconds: float) -> None:
    """Tick through the packets; some ticks stall and are made good at once, some are skipped, as the worker does it."""
    waiting = sorted(((at, s.row, data) for s in senders for at, data in s.packets), key=lambda entry: entry[0])
    beat, stalled_until, position = 0, 0.0, 0
    while (now := beat * TICK) < seconds:
        beat += 1
        if rng.random() < 0.01:
            stalled_until = now + rng.uniform(0.0, 0.2)
        if now < stalled_until:
            continue
        now += rng.random() * 0.004
        block: list[tuple[int, float, bytes]] = []
        while position < len(waiting) and waiting[position][0] <= now and len(block) < 500:
            at, row, data = waiting[position]
            block.append((row, at if rng.random() < 0.9 else now, data))
            position += 1
        rig.take(block, now)
        rig.listen.overdue(rig.legs, now)
    assert position == len(waiting)


def check_time(rig: Rig, row: int, chunk_ms: int) -> None:
    """Chunks follow one another without hole or overlap, from 0 on, all of the same length."""
    chunks = rig.of(row)
    assert [chunk.timestamp_ms for chunk in chunks] == [n * chunk_ms for n in range(len(chunks))]
    assert {len(chunk.audio.payload) for chunk in chunks} <= {chunk_ms * 8}
    assert rig.legs.clock[row] == len(rig.said(row))


def check_bytes(rig: Rig, sender: Sender, *, tail: int | None = None) -> int:
    """Every packet once and in order, and nothing else but silence; with `tail`, only the end of each is looked for.

    Returns how many of those that arrived did not go up.
    """
    said = rig.said(sender.row)
    at = missing = 0
    for sound in sender.payloads:
        found = said.find(sound if tail is None else sound[-tail:], at)
        if found < 0:
            missing += 1
            continue
        if tail is None:
            assert not said[at:found].strip(SILENCE), f"leg {sender.row}: sound nobody sent before byte {found}"
            at = found + len(sound)
        else:
            at = found + min(tail, len(sound))
    if tail is None:
        assert not said[at:].strip(SILENCE)
    return missing


@pytest.mark.parametrize("chunk_ms", [20, 40, 60, 100, 200])
@pytest.mark.parametrize("seed", range(3))
def test_bursts_and_stalls_change_nothing(seed: int, chunk_ms: int) -> None:
    """No packet is lost and none too late to be in its turn: what goes up is what was said, byte for byte, with silence at most."""
    rng = random.Random(seed)
    rig = Rig(6, chunk_ms)
    senders = [Sender(row, random.Random(seed * 100 + row)) for row in range(6)]
    for sender in senders:
        sender.speak(150, loss=0, jitter=0.018, pauses=0, odd=0, sources=0)
    play(rig, senders, rng, seconds=4.0)
    for sender in senders:
        check_time(rig, sender.row, chunk_ms)
    assert sum(check_concealed(rig, sender) for sender in senders) == discarded(rig)


def check_concealed(rig: Rig, sender: Sender) -> int:
    """As `check_bytes`, where invented sound may lie between packets and be joined to the first part of one."""
    return check_bytes(rig, sender, tail=8)


def discarded(rig: Rig) -> int:
    assert set(rig.listen.discarded) <= set(BARS)
    return sum(rig.listen.discarded.values())


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("odd", [0.0, 0.05])
@pytest.mark.parametrize("sources", [0.0, 0.01])
@pytest.mark.parametrize("jitter", [0.0, 0.018, 0.12])
def test_whatever_arrives_goes_up_in_order_and_in_time(
    loss: float, odd: float, sources: float, jitter: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With silence for what is missing, so that every byte can be told."""
    monkeypatch.setattr(listen, "_CONCEALMENTS", 0)
    for seed in range(2):
        rig = Rig(4)
        rig.listen._concealments.left = 0
        senders = [Sender(row, random.Random(seed * 100 + row)) for row in range(4)]
        for sender in senders:
            sender.speak(200, loss=loss, jitter=jitter, pauses=0.03, odd=odd, sources=sources)
        play(rig, senders, random.Random(seed), seconds=9.0)
        for sender in senders:
            check_time(rig, sender.row, 100)
        assert sum(check_bytes(rig, sender) for sender in senders) == discarded(rig)


@pytest.mark.parametrize("seed", range(6))
def test_with_invented_sound_time_is_kept_all_the_same(seed: int) -> None:
    rig = Rig(6)
    senders = [Sender(row, random.Random(seed * 100 + row)) for row in range(6)]
    for sender in senders:
        sender.speak(200, loss=0.1, jitter=0.06, pauses=0.02, odd=0.02, sources=0.005)
    play(rig, senders, random.Random(seed), seconds=9.0)
    for sender in senders:
        check_time(rig, sender.row, 100)


@pytest.mark.parametrize("in_chunk", range(5))
@pytest.mark.parametrize("held", range(12))
def test_a_hold_of_any_length_never_goes_back_in_time(in_chunk: int, held: int) -> None:
    """Paused `in_chunk` packets into a chunk, for `held` packets: what is begun goes up filled with silence, and time goes on after it."""
    rig = Rig(1)
    begun = 5 + in_chunk
    for number in range(40):
        now = number * 0.02
        if number == begun:
            rig.listen.pause(rig.legs, 0, now)
            rig.listen.pause(rig.legs, 0, now)  # twice is once
        if number == begun + held:
            rig.listen.resume(rig.legs, 0)
        rig.take([(0, now, RtpPacket(0, number, number * 160, 7, payload(0, number)).pack())], now)
        rig.listen.overdue(rig.legs, now)
    chunks = rig.of(0)
    starts = [chunk.timestamp_ms for chunk in chunks]
    assert all(later >= earlier + 100 for earlier, later in itertools.pairwise(starts))
    padded = 100 if in_chunk else 0
    resumes = max(100 + padded, (begun + held) * 20)
    assert starts[: 2 + (in_chunk > 0)] == [*[0, 100][: 1 + (in_chunk > 0)], resumes]
    sound = b"".join(chunk.audio.payload for chunk in chunks)
    filled = (5 - in_chunk) % 5
    assert sound.startswith(b"".join(payload(0, n) for n in range(begun)) + SILENCE * 160 * filled)
    rest = sound[(begun + filled) * 160 :]
    assert rest == b"".join(payload(0, n) for n in range(begun + held, 40))[: len(rest)]


def test_a_hold_within_a_hold_s_silence_still_goes_forward() -> None:
    """Resumed and held again before the silence that filled the chunk is over."""
    rig = Rig(1)
    for number in range(60):
        now = number * 0.02
        if number in (6, 8, 10, 31):
            rig.listen.pause(rig.legs, 0, now)
        if number in (7, 9, 11, 32):
            rig.listen.resume(rig.legs, 0)
        rig.take([(0, now, RtpPacket(0, number, number * 160, 7, payload(0, number)).pack())], now)
        rig.listen.overdue(rig.legs, now)
    starts = [chunk.timestamp_ms for chunk in rig.of(0)]
    assert len(starts) >= 10
    assert all(later >= earlier + 100 for earlier, later in itertools.pairwise(starts))


def burst(rig: Rig, legs: int, numbers: range, now: float) -> None:
    """These packets of every leg, all at once, by their order."""
    for number in numbers:
        packets = [
            (leg, now, RtpPacket(0, number, number * 160, 7, payload(leg, number)).pack()) for leg in range(legs)
        ]
        rig.take(packets, now)


@pytest.mark.parametrize("waited", [False, True])
def test_a_gap_that_all_legs_have_is_silence_at_once(waited: bool) -> None:
    """A socket that overflowed: none but a few are dealt with one at a time, whether or not time was let go on meanwhile."""
    legs = 100
    rig = Rig(legs)
    for number in range(10):
        burst(rig, legs, range(number, number + 1), number * 0.02)
        rig.listen.overdue(rig.legs, number * 0.02)
    for beat in range(20, 30) if waited else ():
        rig.listen.overdue(rig.legs, beat * 0.01)
    burst(rig, legs, range(15, 16), 0.3)
    few = 2 * rounds.SINGLY + listen._CONCEALMENTS
    assert np.count_nonzero(rig.legs.smooth[:legs]) >= legs - few
    burst(rig, legs, range(16, 18), 0.36)
    for row in range(few, legs):
        sounds = [payload(row, n) for n in range(10)] + [SILENCE * 800] + [payload(row, n) for n in range(15, 18)]
        assert rig.said(row) == b"".join(sounds)
        assert rig.legs.expected[row] - rig.legs.received[row] == 5
        check_time(rig, row, 100)


@pytest.mark.parametrize("legs", [1, 100])
def test_packets_after_a_loss_are_in_their_turn_though_a_gap_before_it_ended_between_frames(
    legs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asterisk's timestamps jump by any number of milliseconds when it stood still; a leg that is dealt with one packet at a time costs ten times as much."""
    rig = Rig(legs)
    singly = MagicMock(wraps=rig.listen.datagram)
    monkeypatch.setattr(rig.listen, "datagram", singly)
    jumped = {number: number * 160 + (168 if number >= 5 else 0) for number in range(40)}
    for number, timestamp in jumped.items():
        now = timestamp / 8000
        if number == 7:
            singly.reset_mock()
        if number not in (10, 20, 21):
            rig.take(
                [(n, now, RtpPacket(0, number, timestamp, 7, payload(n, number)).pack()) for n in range(legs)], now
            )
        rig.listen.overdue(rig.legs, now)
    rig.take([(n, 0.9, RtpPacket(0, 40, 40 * 160 + 168, 7, payload(n, 40)).pack()) for n in range(legs)], 0.9)
    assert rig.legs.smooth[:legs].all()
    assert singly.call_count <= 6 * min(legs, rounds.SINGLY)
    for row in range(legs):
        check_time(rig, row, 100)
        assert 41 * 160 + 168 <= len(rig.said(row)) < 42 * 160 + 168


@pytest.mark.parametrize("chunk_ms", [20, 100])
def test_chunks_of_all_legs_may_be_whole_at_once(chunk_ms: int) -> None:
    legs = 400
    rig = Rig(legs, chunk_ms)
    burst(rig, legs, range(20), 0.0)
    for row in range(legs):
        assert b"".join(chunk.audio.payload for chunk in rig.of(row)) == b"".join(payload(row, n) for n in range(20))
        check_time(rig, row, chunk_ms)


def test_a_stall_of_all_legs_loses_nothing_though_it_is_long() -> None:
    """Nothing comes for 0.6 s and then everything: sound after the silence, none of it dropped as too late."""
    legs = 100
    rig = Rig(legs)
    burst(rig, legs, range(10), 0.0)
    for beat in range(20, 80):
        rig.listen.overdue(rig.legs, beat * 0.01)
    burst(rig, legs, range(10, 45), 0.8)
    few = 2 * rounds.SINGLY + listen._CONCEALMENTS
    for row in range(few, legs):
        said = rig.said(row)
        assert said.replace(SILENCE, b"") == b"".join(payload(row, n) for n in range(45))
        assert 0.4 < said.count(SILENCE) / 8000 <= 0.7
        assert rig.legs.late[row] == 0
        check_time(rig, row, 100)


@pytest.mark.parametrize("reused", [True, False])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_gap_at_the_very_beginning_is_not_filled_from_the_call_before(way: str, reused: bool) -> None:
    """Nor from what no call has written."""
    simulation = Simulation(1)
    loud, quiet = (ULAW.encoder().encode(tone(90.0, 1.0, 8000, level_dbfs=level)) for level in (-4.0, -41.0))
    begins = 0.0
    if reused:
        for number in range(50):
            simulation.arrives(0.02 * number + 0.005, 0, number, loud[number * 160 :][:160])
        simulation.command("play", 0, "x", StreamAudio("mulaw", 8000, loud), 0.0)
        simulation.run(1.3)
        simulation.commands([("close", 0)])
        simulation.again(0)
        begins = simulation.now
        simulation.chunks.clear()
        simulation.wire.sent.clear()
    if way == "up":
        for number in (0, 2, 3, 4, 5, 6):
            simulation.arrives(begins + 0.02 * number + 0.005, 0, 9000 + number, quiet[number * 160 :][:160], ssrc=55)
    else:
        simulation.command("play", 0, "x", StreamAudio("mulaw", 8000, quiet[:160]), begins)
    simulation.run(begins + 1.0)
    sound = simulation.said(0) if way == "up" else simulation.heard(0)
    assert 250 < np.abs(sound.astype(np.int32)).max() < 420


def one_leg(rig: Rig, packets: list[tuple[float, int, int]]) -> None:
    """(arrival, number, timestamp) each, of leg 0."""
    for at, number, timestamp in packets:
        data = RtpPacket(0, number & 0xFFFF, timestamp & 0xFFFFFFFF, 1, payload(0, number)).pack()
        rig.take([(0, at, data)], at)
        rig.listen.overdue(rig.legs, at)


@pytest.mark.parametrize(
    "strange",
    [
        lambda n: [(5.0 + n * 0.02, n, n * 160)] if n < 50 else [(5.0 + n * 0.02, n, n * 160 + 1_500_000_000)],
        lambda n: [(5.0 + n * 0.02, n, n * 160)] if n < 50 else [(5.0 + n * 0.02, n + 30_000, n * 160 + 99_000_000)],
        lambda n: [(5.0 + n * 0.02, n, n * 160)] + [(5.001 + n * 0.02, 40_000, 2_000_000_000)] * (n == 50),
        lambda n: [(5.0 + n * 0.02, n, n * 160)] + [(5.001 + n * 0.02, n - 3, 2_000_000_000)] * (n == 50),
    ],
    ids=["timestamp", "series", "stray", "stray behind"],
)
def test_what_is_of_another_series_is_no_jitter(strange: Callable[[int], list[tuple[float, int, int]]]) -> None:
    rig = Rig(1)
    for number in range(60):
        one_leg(rig, strange(number))
        assert rig.legs.jitter[0] < 0.001, number


def test_a_stray_packet_for_one_that_was_given_up_is_no_jitter() -> None:
    rig = Rig(1)
    one_leg(rig, [(5.0 + n * 0.02, n, n * 160) for n in range(50) if n != 40])
    assert rig.legs.jitter[0] < 0.001
    one_leg(rig, [(5.99, 40, 2_000_000_000)])
    assert rig.legs.late[0] == 1
    assert rig.legs.jitter[0] < 0.001


def test_a_way_that_has_become_longer_for_good_is_one_jump_and_not_two() -> None:
    rig = Rig(1)
    sent = {500 + 2 * number + (50 if number >= 50 else 0): number for number in range(150)}
    rises, before = 0, 0.0
    for beat in range(500, 880):
        if (number := sent.get(beat)) is not None:
            one_leg(rig, [(beat / 100, number, number * 160)])
        rig.listen.overdue(rig.legs, beat / 100)
        rises += rig.legs.jitter[0] > before + 0.001
        before = float(rig.legs.jitter[0])
    assert rig.legs.late[0] == 0  # nothing came meanwhile, so nothing was said that is late
    assert rises == 1


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_packets_that_are_sent_twice_count_once(loss: float) -> None:
    """And hide no loss: a path that doubles every packet is as good as one that does not."""
    once, twice = Rig(1), Rig(1)
    rng = random.Random(5)
    for number in range(500):
        at = 5.0 + number * 0.02
        gone = 0 < number < 499 and rng.random() < loss
        for rig, copies in ((once, 1), (twice, 2)):
            for copy in range(0 if gone else copies):
                one_leg(rig, [(at + copy * 0.003, number, number * 160)])
            rig.listen.overdue(rig.legs, at + 0.01)
    assert twice.said(0) == once.said(0)
    assert twice.listen.discarded == {"duplicate": int(twice.legs.received[0])}
    for name in ("received", "expected", "late", "reordered", "concealed", "jitter"):
        assert getattr(twice.legs, name)[0] == getattr(once.legs, name)[0], name
    assert (
        once.legs.received[0]
        == twice.listen.discarded["duplicate"]
        == 500 - (once.legs.expected[0] - once.legs.received[0])
    )


def test_what_was_given_up_is_late_once_and_then_a_duplicate() -> None:
    rig = Rig(1)
    one_leg(rig, [(5.0 + n * 0.02, n, n * 160) for n in range(50) if n not in (40, 42)])
    one_leg(rig, [(6.0, n, n * 160) for n in (40, 41, 40, 42)])
    assert rig.listen.discarded == {"late": 2, "duplicate": 2}
    assert rig.legs.late[0] == rig.legs.reordered[0] == 2
    assert rig.legs.received[0] == rig.legs.expected[0] == 50


def test_what_all_legs_had_given_up_is_late_too() -> None:
    legs = 100
    rig = Rig(legs)
    for number in (*range(10), 15, 16):
        burst(rig, legs, range(number, number + 1), number * 0.02)
        rig.listen.overdue(rig.legs, number * 0.02)
    rig.listen.overdue(rig.legs, 0.4)
    burst(rig, legs, range(12, 14), 0.41)
    burst(rig, legs, range(8, 14), 0.42)
    assert rig.legs.late[:legs].tolist() == [4] * legs
    assert (rig.legs.expected - rig.legs.received)[:legs].tolist() == [1] * legs
    assert rig.listen.discarded == {"late": 4 * legs, "duplicate": 4 * legs}
