"""What is written down of a leg: captures that tshark reads, recordings whose two sides are in step, and a disk that is full."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import struct
import subprocess
import threading
import time
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.audio.codecs import g711, registry
from kallglot_ari.audio.frame import Pcm
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.media import capture, recording
from kallglot_ari.media.capture import Note, Pcap, Scribe, Target, Track
from kallglot_ari.media.pcap import PcapWriter, checksum, datagram
from kallglot_ari.media.recording import Recording, check
from kallglot_ari.metrics import Metrics
from tests.asterisk.conftest import missing
from tests.audio.signals import tone
from tests.audio_checks import level_dbfs
from tests.media.conftest import Running, value
from tests.media.peer import Peer
from tests.media.simulated import Simulation

pytestmark = pytest.mark.real_time

ULAW = registry.get("ulaw")


def ulaw(pcm: Pcm) -> bytes:
    return g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes()


def tshark(path: Path, *options: str) -> list[str]:
    """What tshark prints; it must not complain."""
    if shutil.which("tshark") is None:
        missing("tshark is not installed")
    done = subprocess.run(["tshark", "-r", str(path), *options], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "Running as user" not in line]
    assert (done.returncode, complaints) == (0, [])
    return done.stdout.splitlines()


@given(st.binary(max_size=200), st.sampled_from([("10.0.0.1", "10.9.8.7"), ("::1", "fe80::1:2")]))
def test_every_checksum_is_right(payload: bytes, hosts: tuple[str, str]) -> None:
    packet = datagram((hosts[0], 5), (hosts[1], 65535), payload)
    if ":" in hosts[0]:
        pseudo, udp = packet[8:40], packet[40:]
    else:
        assert checksum(packet[:20]) == 0
        pseudo, udp = packet[12:20], packet[20:]
    assert checksum(pseudo + struct.pack("!IHBB", len(udp), 0, 0, 17) + udp) == 0
    assert packet.endswith(payload)


def test_tshark_reads_both_families_to_the_nanosecond(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    with path.open("wb", buffering=0) as file:
        writer = PcapWriter(file)
        writer.write(1_700_000_000.25, ("127.0.0.1", 40001), ("127.0.0.2", 40000), b"\x80\0\0\1" + bytes(168))
        writer.write(1_700_000_001.5, ("::1", 40001), ("::2", 40000), b"x")
        writer.flush()
    fields = [
        "-T",
        "fields",
        "-e",
        "frame.time_epoch",
        "-e",
        "udp.srcport",
        "-e",
        "udp.checksum.status",
        "-e",
        "_ws.expert",
    ]
    lines = tshark(path, "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", *fields)
    assert [line.split("\t")[1:] for line in lines] == [["40001", "1", ""]] * 2
    assert [round(float(line.split("\t")[0].rstrip("Z")), 3) for line in lines] == [1_700_000_000.25, 1_700_000_001.5]


async def test_a_capture_holds_both_ways_of_the_legs_asked_for(
    running: Running, tmp_path: Path, way: dict[str, object]
) -> None:
    path = tmp_path / "captures" / "call.pcap"
    async with running(**way) as engine, Peer(ULAW) as peer, Peer(ULAW, ssrc=99) as other:
        flow, unwatched = engine.open("a", lambda _: None), engine.open("b", lambda _: None)
        port = peer.address[1]
        file = engine.capture_file(path)
        flow.capture(file)
        flow.connect(peer.address)
        unwatched.connect(other.address)
        await asyncio.gather(*(p.say(engine.address, [ulaw(tone(8000, 0.02))] * 25) for p in (peer, other)))
        await asyncio.sleep(0.1)
        flow.capture(None)
        await peer.say(engine.address, [b"\xff" * 160] * 5)
        file.close()
    decode = ["-d", f"udp.port=={port},rtp", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    lines = tshark(
        path, *decode, "-T", "fields", "-e", "udp.srcport", "-e", "rtp.ssrc", "-e", "rtp.seq", "-e", "_ws.expert"
    )
    rows = [line.split("\t") for line in lines]
    heard = [row for row in rows if row[0] == str(port)]
    assert [int(row[2]) for row in heard] == [(65500 + i) & 0xFFFF for i in range(25)]
    assert {int(row[1], 16) for row in heard} == {77}
    sent = [int(row[2]) for row in rows if row[0] != str(port)]
    assert len(sent) >= 20
    assert sent == [(sent[0] + i) & 0xFFFF for i in range(len(sent))]
    assert {row[3] for row in rows} == {""}, "tshark has something to say"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def channels(path: Path) -> tuple[int, Pcm, Pcm]:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (2, 2)
        both = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, 2)
        return file.getframerate(), both[:, 0], both[:, 1]


def tone_from(pcm: Pcm, hertz: float, rate: int = 8000) -> float:
    """The second at which a tone begins, to 5 ms; it must be that tone."""
    blocks = pcm[: pcm.size // 40 * 40].reshape(-1, 40)
    loud = np.flatnonzero([level_dbfs(block) > -30 for block in blocks])
    assert loud.size, "no tone"
    part = pcm[loud[0] * 40 + 400 :][:1600]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(part.size)))
    assert abs(float(np.argmax(spectrum)) * rate / part.size - hertz) < 2 * rate / part.size
    return float(loud[0]) * 40 / rate


async def test_a_recording_has_who_said_what_and_what_was_heard(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "call-customer.wav"
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", lambda _: None)
        flow.record(path, "wav")
        flow.connect(peer.address)
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        flow.play("agent", StreamAudio("mulaw", 8000, ulaw(tone(8000, 1.0, 1000))))
        await peer.say(engine.address, [ulaw(tone(8000, 0.5, 400))[i * 160 :][:160] for i in range(25)] * 2)
        assert time.monotonic() - begun > 0.9
        await asyncio.sleep(0.3)
    rate, said, heard = channels(path)
    assert rate == 8000
    assert said.size == heard.size > 8000 * 1.2
    assert abs(tone_from(said, 400) - tone_from(heard, 1000)) < 0.12, "they began at the same time"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_tick_that_is_late_writes_no_sound_twice(tmp_path: Path) -> None:
    """As after a stall: several beats at once, and what they gave is taken once."""
    simulation = Simulation(1)
    track = Track(tmp_path / "a.wav", "wav", ULAW, "mulaw", 8000)
    simulation.command("watch", 0, None, track)
    clicks = np.zeros(8000 * 10, dtype=np.int16)
    clicks.reshape(10, 8000)[:, :160] = 10000
    payload = ulaw(clicks)
    for i in range(500):
        simulation.arrives(0.1 + i * 0.02, 0, i, payload[i * 160 :][:160])
    for second in range(10):
        simulation.run(second + 0.97)
        simulation.run(second + 1.0, at_once=3)
    simulation.scribe.close(track)
    simulation.scribe.stop()
    _, said, heard = channels(track.path)
    begins = np.flatnonzero(np.diff((said > 5000).astype(int), prepend=0) == 1)
    assert np.diff(begins).tolist() == [8000] * 9
    assert said.size == heard.size < 8000 * 10.2


def test_the_sides_stay_in_step_through_pauses_and_stalls(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "a.wav", "wav", ULAW, "mulaw", 8000)
    low, high = ulaw(tone(8000, 0.02, 400)), ulaw(tone(8000, 0.1, 1000))
    for i in range(1000):
        if not 300 <= i < 500:  # a stall of 4 s: nothing leaves
            recording.heard(i * 0.02, low if i >= 600 else b"\xff" * 160)
        if i % 5 == 4 and (250 <= i < 350 or i >= 600):  # says nothing for 5 s; later a hold of 5 s: nothing goes up
            recording.said((i - 4) * 0.02, (i - 254) * 20, high if i >= 700 else b"\xff" * 800)
    recording.close()
    _, said, heard = channels(tmp_path / "a.wav")
    assert abs(tone_from(heard, 400) - 12.0) < 0.05
    assert abs(tone_from(said, 1000) - 14.0) < 0.05


@pytest.mark.parametrize("ppm", [-1000, 1000])
def test_the_sides_stay_in_step_though_the_phones_clock_is_another(tmp_path: Path, ppm: int) -> None:
    """Words of 0.7 s with pauses of 0.3 s for 10 minutes, in which the clocks part by 0.6 s: as hours do whose clocks are usual."""
    recording = Recording(tmp_path / "a.wav", "wav", ULAW, "mulaw", 8000)
    word, pause = ulaw(tone(8000, 0.1, 1000)), b"\xff" * 800
    piece, comes = 0, 0.0
    for frame in range(30_000):
        recording.heard(frame * 0.02, b"\xff" * 160)
        while comes + 0.1 <= frame * 0.02:
            recording.said(comes, piece * 100, word if 2 <= piece % 10 < 9 else pause)
            piece += 1
            comes = piece * 0.1 * (1 - ppm * 1e-6)
    recording.close()
    _, said, _ = channels(tmp_path / "a.wav")
    loud = np.abs(said.astype(np.int32)) > 1000
    edges = np.flatnonzero(np.diff(np.convolve(loud, np.ones(80), "same") > 0))
    begins, ends = edges[0:1198:2] / 8000, edges[1:1198:2] / 8000
    came = (np.arange(599) + 0.2) * (1 - ppm * 1e-6)
    assert np.abs(begins - came).max() < 0.06, "each word is where it came"
    assert np.abs(ends - begins - 0.7).max() < 0.012, "and whole"


def test_opus_recordings_are_as_long_and_as_loud(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    check("opus")
    recording = Recording(tmp_path / "a.ogg", "opus", registry.get("g722"), "pcm_16", 16000)
    encoder = registry.get("g722").encoder()
    sound = tone(16000, 3.0, 500)
    for i in range(150):
        recording.heard(i * 0.02, encoder.encode(sound[i * 320 : (i + 1) * 320]))
        recording.said(i * 0.02, i * 20, bytes(640))
    recording.close()
    with av.open(str(tmp_path / "a.ogg")) as file:
        parts = [frame.to_ndarray() for frame in file.decode(audio=0)]
        assert file.streams.audio[0].layout.name == "stereo"
    both = np.concatenate(parts, axis=1).T
    assert abs(len(both) / 48000 - 3.0) < 0.1
    assert float(np.abs(both[24000:-24000, 0]).max()) < 0.01
    assert float(np.abs(both[24000:-24000, 1]).max()) > 0.15


class Full(io.FileIO):
    """A disk that takes a little, and the last of it by half."""

    room = 2000

    def write(self, data: Any) -> int:
        fits = min(len(data), self.room - self.tell())
        if fits <= 0:
            raise OSError(28, "No space left on device")
        return super().write(data[:fits])


async def test_a_full_disk_costs_the_capture_and_nothing_else(
    running: Running, tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kallglot_ari.media.capture._create", lambda path: Full(path, "wb"))
    got: list[int] = []
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", lambda chunk: got.append(chunk.timestamp_ms))
        flow.capture(engine.capture_file(tmp_path / "a.pcap"))
        flow.connect(peer.address)
        await peer.say(engine.address, [b"\xff" * 160] * 50)
        await asyncio.sleep(0.2)
        sent = flow.quality().packets_sent
    assert got[:9] == list(range(0, 900, 100))
    assert sent > 40
    assert value(metrics, "kallglot_capture_lost_total", reason="failed") == 1


@pytest.mark.parametrize("room", [30, 1990, 2000, 2010])
def test_what_a_full_disk_has_taken_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr("kallglot_ari.media.capture._create", lambda path: Full(path, "wb"))
    monkeypatch.setattr(Full, "room", room)
    lost: list[tuple[str, int]] = []
    scribe = Scribe(lambda reason, count: lost.append((reason, count)))
    target = Pcap(tmp_path / "a.pcap")
    for number in range(20):
        packet = partial(target.write, number * 0.01, ("127.0.0.1", 1), ("127.0.0.1", 2), bytes(172))
        scribe.put([(target, packet)])
    scribe.stop()
    assert (lost, target.over) == ([("failed", 1)], True)
    assert len(tshark(target.path)) <= room // 216
    assert (target.path.stat().st_size - 24) % 216 == 0


def test_a_capture_that_runs_for_hours_leaves_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The database is often on the same one, and could not write down what it costs money to forget."""
    monkeypatch.setattr(capture, "_LOOK_SECONDS", 0.0)
    lost: list[tuple[str, int]] = []
    scribe = Scribe(lambda reason, count: lost.append((reason, count)))
    target, later = Pcap(tmp_path / "a.pcap"), Track(tmp_path / "b.wav", "wav", ULAW, "mulaw", 8000)
    written = threading.Event()

    def write(number: int) -> None:
        scribe.put([(target, partial(target.write, number * 0.01, ("127.0.0.1", 1), ("127.0.0.1", 2), bytes(172)))])

    write(0)
    scribe.put([(target, written.set)])
    assert written.wait(5)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=1000, f_bavail=49, f_frsize=1 << 20))
    for number in range(5):
        write(number)
    scribe.put([(later, partial(later.heard, 0.0, b"\xff" * 160))])
    scribe.stop()
    assert lost == [("failed", 1), ("failed", 1)]
    assert len(tshark(target.path)) == 1
    assert not later.path.exists()
    assert ["52 MB left" in str(record.__dict__["error"]) for record in caplog.records] == [True, True]


def test_a_disk_that_is_slow_costs_what_it_cannot_take(tmp_path: Path) -> None:
    lost: list[tuple[str, int]] = []
    scribe = Scribe(lambda reason, count: lost.append((reason, count)))
    target = Pcap(tmp_path / "a.pcap")
    stands, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        stands.set()
        goes_on.wait(60)

    scribe.put([(target, hang)])
    assert stands.wait(5)
    for _ in range(1200):  # who notes never waits
        scribe.put([(target, lambda: target.write(0.0, ("127.0.0.1", 1), ("127.0.0.1", 2), b"x"))])
    assert not goes_on.is_set()
    goes_on.set()
    scribe.close(target)
    scribe.stop()
    assert lost == [("slow", 1)] * 200
    assert target.over
    assert len(tshark(target.path)) == 1000


def test_files_that_are_there_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(b"the last call's")
    (tmp_path / "a-2.pcap").write_bytes(b"and another's")
    pcap = Pcap(tmp_path / "a.pcap")
    pcap.write(0.0, ("127.0.0.1", 1), ("127.0.0.1", 2), b"x")
    pcap.flush()
    pcap.close()
    assert pcap.path.name == "a-3.pcap"
    assert len(tshark(pcap.path)) == 1
    assert (tmp_path / "a.pcap").read_bytes() == b"the last call's"


class Piece:
    """Something to write to, that fails as it is told to."""

    def __init__(self, path: Path) -> None:
        self.path, self.over = path, False
        self.written: list[int] = []
        self.closed = False

    def write(self, number: int, error: Exception | None = None) -> None:
        if error is not None:
            raise error
        self.written.append(number)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def notes(piece: Piece, *writes: Callable[[], None]) -> list[tuple[Target, Note]]:
    return [(cast(Target, piece), write) for write in writes]


def test_a_fault_that_nobody_expected_ends_one_file_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    lost: list[tuple[str, int]] = []
    scribe = Scribe(lambda reason, count: lost.append((reason, count)))
    bad, good = Piece(Path("bad")), Piece(Path("good"))
    fault = struct.error("argument out of range")
    scribe.put(notes(bad, *[partial(bad.write, 1, fault)] * 3))
    scribe.put(notes(good, partial(good.write, 1)))
    scribe.put(notes(bad, partial(bad.write, 2)))
    scribe.close(cast(Target, good))
    scribe.stop()
    assert (bad.written, bad.closed, good.written, good.closed) == ([], True, [1], True)
    assert lost == [("failed", 1)]
    assert [record.message for record in caplog.records] == ["capture_given_up"]


@pytest.mark.parametrize("full", [False, True])
def test_a_disk_that_hangs_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, full: bool
) -> None:
    monkeypatch.setattr(capture, "_STOP_SECONDS", 0.2)
    scribe = Scribe(lambda reason, count: None)
    piece, back = Piece(Path("slow")), threading.Event()
    scribe.put(notes(piece, lambda: piece.write(int(back.wait(20)))))
    for number in range(2000 if full else 1):
        scribe.put(notes(piece, partial(piece.write, number)))
    began = time.monotonic()
    scribe.stop()
    assert time.monotonic() - began < 5
    assert [record.message for record in caplog.records] == ["capture_not_finished"]
    back.set()


def test_a_wav_ends_before_its_header_cannot_say_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "_MOST_BYTES", 4 * 8000 * 3)
    lost: list[tuple[str, int]] = []
    scribe = Scribe(lambda reason, count: lost.append((reason, count)))
    track = Track(tmp_path / "a.wav", "wav", ULAW, "mulaw", 8000)
    for number in range(500):
        scribe.put([(track, partial(track.heard, number * 0.02, b"\xff" * 160))])
    scribe.close(track)
    scribe.stop()
    _, said, heard = channels(tmp_path / "a.wav")
    assert 8000 < said.size == heard.size <= 3 * 8000
    assert lost == [("failed", 1)]
    assert ["4 GiB" in str(record.__dict__["error"]) for record in caplog.records] == [True]
