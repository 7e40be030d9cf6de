"""Machine code and numpy do the same: to the bit, what goes up, what is sent and every figure of every leg."""

from __future__ import annotations

import mmap
import random
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kallglot_ari.audio.codecs import registry
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media import native, speak, udp
from kallglot_ari.media.legs import INBOUND, OUTBOUND, RTP_HEADER, Legs
from kallglot_ari.media.listen import Listen
from kallglot_ari.media.native import Native
from kallglot_ari.media.originals import Originals
from kallglot_ari.media.plane import Command
from kallglot_ari.media.stored import Stored
from kallglot_ari.media.udp import STRIDE, BatchedSocket, Block, Outbox, bind, pack_address
from kallglot_ari.rtp.packet import RtpPacket
from tests.media.simulated import Simulation

LEGS = 5
FORMATS = {
    "ulaw": ("mulaw", 8000), "alaw": ("mulaw", 8000), "ulaw ": ("pcm_16", 8000), "slin16": ("pcm_16", 16000), "g722": ("pcm_16", 16000),
}  # fmt: skip


def test_records_are_laid_out_alike(library: Native) -> None:
    assert (INBOUND.itemsize, OUTBOUND.itemsize) == (native.INBOUND_BYTES, native.OUTBOUND_BYTES)


# --- from Asterisk -----------------------------------------------------------------------------------------------------


class Ear:
    """A `Listen` with `LEGS` legs, the last of which nobody knows."""

    def __init__(self, codec: str, library: Native | None) -> None:
        encoding, rate = FORMATS[codec]
        self.codec = registry.get(codec.strip())
        send = registry.get("g722" if self.codec.send_type is None else self.codec.name)
        self.originals = Originals(self.codec, send, Stored.of(send), library)
        self.listen = Listen(
            self.codec, encoding, rate, 100, jitter_min_ms=20, jitter_max_ms=200, originals=self.originals, library=library
        )  # fmt: skip
        self.legs = Legs(
            uplink_bytes=self.listen.chunks.uplink_bytes, frame_bytes=160, silence=bytes(160), payload_type=0,
            stored_bytes=Stored.of(send).unit,
        )  # fmt: skip
        self.block = Block(64)
        self.names = [pack_address(socket.AF_INET, "127.0.0.1", 20000 + row) for row in range(LEGS)]
        for row, name in enumerate(self.names[:-1]):
            self.legs.open(row, row + 1, ssrc=1, sequence=0, timestamp=0, phase=0)
            self.legs.connect(row, name)
        self.heard: list[bytes] = []
        self.originals.hear(self.legs, 1, 0, 0.5, 0.25)

    def take(self, datagrams: list[tuple[int, float, bytes]], now: float) -> list[int]:
        for at, (leg, arrival, data) in enumerate(datagrams):
            self.block.data[at, : len(data)] = np.frombuffer(data, dtype=np.uint8)
            self.block.length[at], self.block.arrival[at] = len(data), arrival
            self.block.name[at, :16] = np.frombuffer(self.names[leg], dtype=np.uint8)
        rows: list[int] = self.listen.block(self.legs, self.block, len(datagrams), now).tolist()
        self.listen.overdue(self.legs, now)
        self.originals.mix(self.legs, np.array([1]), now)
        if self.legs.ears["mixed"][1]:
            self.heard.append(self.legs.mix[1].tobytes())
        return rows


@dataclass
class Moment:
    """20 ms of everybody's life."""

    lost: list[bool]
    delays: list[float]
    leg: int
    event: str


moments = st.builds(
    Moment,
    st.lists(st.booleans(), min_size=LEGS, max_size=LEGS),
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.004, 0.03, 0.09]), min_size=LEGS, max_size=LEGS),
    st.integers(0, LEGS - 2),
    st.sampled_from(
        ["", "", "", "", "pause", "resume", "source", "short", "long", "silence", "twice", "strange", "jump", "stray"]
    ),
)


@pytest.mark.parametrize("codec", FORMATS)
@given(happens=st.lists(moments, min_size=4, max_size=25), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_what_goes_up_is_the_same(library: Native, codec: str, happens: list[Moment], seed: int) -> None:
    rng = random.Random(seed)
    ears = Ear(codec, library), Ear(codec, library if codec == "g722" else None)
    ears[1].listen._taking = None  # of G.722 the decoder is machine code in both
    form = ears[0].codec
    sequence = [rng.randrange(65536) for _ in range(LEGS)]
    timestamp = [rng.randrange(2**32) for _ in range(LEGS)]
    ssrc = list(range(100, 100 + LEGS))
    waiting: list[tuple[float, int, bytes]] = []
    for beat, moment in enumerate([Moment([False] * LEGS, [0.0] * LEGS, 0, "")] * 3 + happens):
        now = 50.0 + beat * 0.02
        if moment.event == "pause":
            for ear in ears:
                ear.listen.pause(ear.legs, moment.leg, now)
        if moment.event == "resume":
            for ear in ears:
                ear.listen.resume(ear.legs, moment.leg)
        for leg in range(LEGS):
            here = moment.event if leg == moment.leg else ""
            if here == "source":
                ssrc[leg] += 1000
                sequence[leg], timestamp[leg] = rng.randrange(65536), rng.randrange(2**32)
            if here == "silence":
                timestamp[leg] = (timestamp[leg] + 5 * form.timestamp_step) & 0xFFFFFFFF
            if here == "jump":
                timestamp[leg] = (timestamp[leg] + 10**9) & 0xFFFFFFFF
            if here == "stray":
                lost = RtpPacket(
                    form.receive_type, (sequence[leg] + 30_000) & 0xFFFF, 7, ssrc[leg], bytes(form.frame_bytes)
                )
                waiting.append((now, leg, lost.pack()))
            size = form.frame_bytes + {"short": -8, "long": 8}.get(here, 0)
            type_ = 99 if here == "strange" else form.receive_type
            packet = RtpPacket(type_, sequence[leg], timestamp[leg], ssrc[leg], rng.randbytes(size), marker=beat == 0)
            sequence[leg] = (sequence[leg] + 1) & 0xFFFF
            timestamp[leg] = (timestamp[leg] + form.ticks(bytes(size))) & 0xFFFFFFFF
            if not (moment.lost[leg] and rng.random() < 0.3):
                waiting += [(now + moment.delays[leg], leg, packet.pack())] * (2 if here == "twice" else 1)
        waiting.sort(key=lambda entry: entry[:2])
        block = [(leg, at, data) for at, leg, data in waiting if at <= now + 0.01][:60]
        del waiting[: len(block)]
        taken = [ear.take(block, now + 0.01) for ear in ears]
        assert taken[0] == taken[1]
        alike(ears[0], ears[1])


def alike(one: Ear, other: Ear) -> None:
    for row in range(LEGS):
        assert [c for c in one.listen.chunks.ready if c.row == row] == [
            c for c in other.listen.chunks.ready if c.row == row
        ]
    assert one.listen.discarded == other.listen.discarded
    assert one.heard == other.heard
    np.testing.assert_array_equal(one.originals._voices, other.originals._voices)
    np.testing.assert_array_equal(one.originals._sound, other.originals._sound)
    np.testing.assert_array_equal(one.legs.uplink, other.legs.uplink)
    for name in INBOUND.names or ():
        np.testing.assert_array_equal(one.legs.inbound[name], other.legs.inbound[name], name)


@pytest.mark.parametrize("library_too", [True, False])
def test_addresses_that_share_a_slot_are_told_apart(library: Native, library_too: bool) -> None:
    """Of many legs; and of an address that no leg has, nothing is taken."""
    legs = Legs(uplink_bytes=800, frame_bytes=160, silence=bytes(160), payload_type=0)
    codec = registry.get("ulaw")
    listen = Listen(
        codec, "mulaw", 8000, 100, jitter_min_ms=20, jitter_max_ms=200,
        originals=Originals(codec, codec, Stored.of(codec)), library=library if library_too else None,
    )  # fmt: skip
    rng = random.Random(1)
    addresses = {(f"10.0.{rng.randrange(256)}.{rng.randrange(256)}", rng.randrange(1024, 65536)) for _ in range(900)}
    names = [pack_address(socket.AF_INET, *address) for address in sorted(addresses)]
    for row, name in enumerate(names[:800]):
        legs.open(row, row + 1, ssrc=1, sequence=0, timestamp=0, phase=0)
        legs.connect(row, name)
    block = Block(900)
    for at, name in enumerate(names):
        block.name[at, :16] = np.frombuffer(name, dtype=np.uint8)
        block.length[at] = 1
    assert listen.block(legs, block, 900, 1.0).tolist() == [*range(800), *[-1] * 100]
    assert listen.discarded["address"] == 100
    slots = legs.index.slots
    assert np.unique(slots[slots >= 0]).size < 800


# --- to Asterisk -------------------------------------------------------------------------------------------------------

said = st.one_of(
    st.tuples(st.just("play"), st.sampled_from(["a", "b"]), st.integers(1, 1600)),
    st.tuples(st.just("flush"), st.just(""), st.just(0)),
    st.tuples(st.just("hear"), st.just(""), st.sampled_from([0, 1])),
    st.tuples(st.just("pass"), st.just(""), st.just(0)),
    st.tuples(st.just("pass"), st.just(""), st.just(0)),
)


SENT: dict[str, tuple[Literal["mulaw", "pcm_16"], dict[str, Any]]] = {
    "ulaw": ("mulaw", {}),
    "ulaw of PCM": ("pcm_16", {"format": "ulaw"}),
    "slin16le": ("pcm_16", {"format": "slin16", "transport": "websocket", "rate": 16000}),
    "g722": ("pcm_16", {"format": "g722"}),
}


@pytest.mark.parametrize("name", SENT)
@given(orders=st.lists(st.tuples(st.integers(0, 2), said, st.integers(0, 12)), max_size=30), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_what_is_sent_is_the_same(
    library: Native,
    name: str,
    orders: list[tuple[int, tuple[str, str, int], int]],
    seed: int,
) -> None:
    """But for the payloads of G.722, whose silence numpy encodes; see test_speech.py."""
    rng = random.Random(seed)
    encoding, chosen = SENT[name]
    both = Simulation(3, library=library, encoding=encoding, **chosen), Simulation(3, library=None, encoding=encoding, **chosen)  # fmt: skip
    rate = chosen.get("rate", 8000)
    now = 0.0
    for leg, (what, source, number), ticks in orders:
        sound = rng.randbytes(2 * number)
        for one in both:
            match what:
                case "play":
                    one.command("play", leg, source, StreamAudio(encoding, rate, sound), one.now)
                case "flush":
                    one.command("flush", leg, None)
                case "hear":
                    one.command("hear", leg, (leg + 1) % 3, 0.5 * number)
        now += ticks * 0.01
        for one in both:
            one.run(now)
    size = RTP_HEADER if name == "g722" else RTP_HEADER + 640
    sent = [[[packet[:size] for packet in packets] for packets in each.wire.sent.values()] for each in both]
    assert sent[0] == sent[1]
    for field in OUTBOUND.names or ():
        np.testing.assert_array_equal(both[0].plane.legs.outbound[field], both[1].plane.legs.outbound[field], field)


CALLED = 12
piece = st.tuples(st.integers(0, CALLED - 1), st.sampled_from(["a", "a", "a", "b"]), st.sampled_from([800, 800, 800, 160, 320, 80, 0, 2400]))  # fmt: skip


@pytest.mark.parametrize("encoding", ["mulaw", "alaw", "pcm_16", "pcm_16 to slin16le"])
@given(
    turns=st.lists(st.tuples(st.lists(piece, max_size=30), st.integers(1, 6), st.booleans()), min_size=1, max_size=12),
    others=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["flush", "hear", "close", "interruptible"]), st.integers(0, CALLED - 1)), max_size=4),
    seed=st.integers(0, 2**16),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_speech_of_many_legs_that_comes_at_once_is_sent_the_same(
    library: Native,
    encoding: str,
    turns: list[tuple[list[tuple[int, str, int]], int, bool]],
    others: list[tuple[int, str, int]],
    seed: int,
) -> None:
    rng = random.Random(seed)
    said_as: Any = encoding.partition(" ")[0]
    wide = encoding != said_as
    chosen: dict[str, Any] = {"encoding": "pcm_16", **SENT["slin16le"][1]} if wide else {}
    both = Simulation(CALLED, library=library, **chosen), Simulation(CALLED, library=None, **chosen)
    rate, width = (16000, 4) if wide else (8000, 1)
    now = 0.0
    for turn, (pieces, ticks, everybody) in enumerate(turns):
        rows = [(leg, "a", 800) for leg in range(CALLED)] if everybody else []
        said = [("play", leg, source, StreamAudio(said_as, rate, rng.randbytes(size * width)), now) for leg, source, size in rows + pieces]  # fmt: skip
        more = {"flush": (None,), "hear": (0, 0.5), "close": (), "interruptible": (True,)}
        extra = [(name, leg, *more[name]) for at, name, leg in others if at == turn]
        for one in both:
            one.commands(said)
            one.commands(extra)
        now += ticks * 0.02
        for one in both:
            one.run(now)
    assert both[0].wire.sent == both[1].wire.sent
    assert both[0].plane._speak._prebuffer.peak == both[1].plane._speak._prebuffer.peak
    fast, slow = (simulation.plane.legs for simulation in both)
    assert fast.used.tolist() == slow.used.tolist()
    for name in OUTBOUND.names or ():
        np.testing.assert_array_equal(fast.outbound[name][fast.used], slow.outbound[name][slow.used], name)


def test_names_past_those_that_are_numbered_are_asked_about(library: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speak, "_NUMBERED", 1)
    one = Simulation(CALLED, library=library)
    for turn in range(10):
        sounds = [bytes([leg + 1]) * 800 for leg in range(CALLED)]
        one.commands([("play", leg, str(leg), StreamAudio("mulaw", 8000, sounds[leg]), one.now) for leg in range(CALLED)])  # fmt: skip
        one.run(0.1 * turn + 0.095)
    assert list(one.plane._speak._numbers) == ["0"]
    for leg in range(CALLED):
        assert b"".join(packet[12:] for packet in one.wire.sent[leg]).count(leg + 1) > 7000


def test_a_burst_goes_by_machine_code(library: Native) -> None:
    """Else the test above would compare the slow way with itself."""
    one = Simulation(CALLED, library=library)
    audio = StreamAudio("mulaw", 8000, bytes(range(160)) * 5)
    asked = []
    for turn in range(10):
        one.commands([("play", leg, "a", audio, one.now) for leg in range(CALLED)])
        asked.append([one.plane._speak.speech[leg]._passing for leg in range(CALLED)])
        one.run(0.1 * turn + 0.095)
    assert all(None not in sources for sources in asked[1:])
    assert one.plane.legs.ways["queued"][:CALLED].tolist() == [8000] * CALLED
    assert all(speech._passing is not None and speech._passing.queued == 1600 for speech in one.plane._speak.speech.values())  # fmt: skip


@pytest.mark.parametrize("what", ["flush", "play"])
def test_a_command_that_fails_takes_no_other_with_it(library: Native, what: str) -> None:
    one = Simulation(CALLED, library=library)
    audio = StreamAudio("mulaw", 8000, bytes(160))
    rest: tuple[object, ...] = (None,) if what == "flush" else ("a", audio, 0.0)
    commands: deque[Command] = deque((what, (leg, leg + 1, *rest)) for leg in range(CALLED))
    del one.plane._speak.speech[3]
    with pytest.raises(KeyError):
        one.plane.execute(commands, 0.0)
    assert [args[0] for _, args in commands] == list(range(4, CALLED))


# --- the socket --------------------------------------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("library_too", [True, False])
def test_datagrams_of_every_size_come_as_they_were_sent(library: Native, host: str, library_too: bool) -> None:
    sock = BatchedSocket(bind(host, 0), library if library_too else None)
    family = udp.family_of(host)
    block = Block(16)
    sizes = 0, 1, 172, STRIDE, STRIDE + 1, 172
    with socket.socket(family, socket.SOCK_DGRAM) as phone:
        phone.bind((host, 0))
        name = pack_address(family, host, phone.getsockname()[1])
        for turn in range(2):
            for size in sizes:
                phone.sendto(bytes([turn + 1]) * size, (host, sock.port))
            time.sleep(0.002)
            now = time.monotonic()
            assert sock.receive(block, now) == len(sizes)
            assert block.length[: len(sizes)].tolist() == [0, 1, 172, STRIDE, 0, 172]
            assert all(now - 1.0 < at <= now for at in block.arrival[: len(sizes)])
            assert block.arrival[0] < block.arrival[len(sizes) - 1] <= now
            assert {block.name[at, : len(name)].tobytes() for at in range(len(sizes))} == {name}
            assert block.data[5, :172].tobytes() == bytes([turn + 1]) * 172
        assert sock.receive(block, now) == 0
    sock.close()


@pytest.mark.real_time
@pytest.mark.parametrize("library_too", [True, False])
def test_when_they_came_does_not_hang_on_when_the_beat_began(library: Native, library_too: bool) -> None:
    sock = BatchedSocket(bind("127.0.0.1", 0), library if library_too else None)
    block = Block(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        before = time.monotonic()
        phone.sendto(bytes(172), ("127.0.0.1", sock.port))
        after = time.monotonic()
    time.sleep(0.002)
    begun = time.monotonic()
    time.sleep(0.05)
    assert sock.receive(block, begun) == 1
    assert before - 0.001 < block.arrival[0] < after + 0.001
    sock.close()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system takes no memory back")
@pytest.mark.parametrize("library_too", [True, False])
def test_rows_of_a_burst_take_no_memory_once_it_is_over(library: Native, library_too: bool) -> None:
    sock = BatchedSocket(bind("127.0.0.1", 0), library if library_too else None)
    block = Block()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:

        def say(count: int) -> None:
            for _ in range(count):
                phone.sendto(b"\x01" * 172, ("127.0.0.1", sock.port))

        say(udp.BURST + 1)
        assert sock.receive(block, 1000.0) == udp.BURST + 1
        assert sock.receive(block, 1000.5) == 0
        assert block.data[udp.BURST, :172].all()
        say(1)
        assert sock.receive(block, 1001.5) == 1
        assert block.data[0, :172].all()
        assert not block.data[1:].any()
        say(udp.BURST)
        assert sock.receive(block, 1010.0) == udp.BURST
        assert sock.receive(block, 1020.0) == 0
        assert block.data[: udp.BURST, :172].all(), "of a usual fill nothing is given back"
    sock.close()


@pytest.mark.parametrize("library_too", [True, False])
def test_one_that_cannot_be_sent_to_keeps_nobody_waiting(library: Native, library_too: bool) -> None:
    sock = BatchedSocket(bind("127.0.0.1", 0), library if library_too else None)
    outbox = Outbox(4, 172)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        phone.setblocking(False)
        for row in range(4):
            outbox.data[row] = row
            outbox.address(row, pack_address(socket.AF_INET, "127.0.0.1", phone.getsockname()[1]))
        outbox.address(1, pack_address(socket.AF_INET6, "::1", 5004))
        assert sock.send(outbox, np.array([3, 1, 0])) == 2
        assert [phone.recv(200) for _ in range(2)] == [bytes([3]) * 172, bytes(172)]
        with pytest.raises(BlockingIOError):
            phone.recv(200)
    sock.close()


@pytest.mark.parametrize("library_too", [True, False])
def test_what_the_kernel_dropped_is_told(library: Native, library_too: bool) -> None:
    raw = bind("127.0.0.1", 0)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock = BatchedSocket(raw, library if library_too else None)
    block = Block()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        for _ in range(200):
            phone.sendto(bytes(172), ("127.0.0.1", sock.port))
        got = sock.receive(block, 1000.0)
        phone.sendto(bytes(172), ("127.0.0.1", sock.port))
        assert sock.receive(block, 1000.0) == 1
    assert 0 < got < 200
    assert sock.dropped == 200 - got
    sock.close()
