"""The engine on real sockets, a second or so of sound at a time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import threading
import time

import numpy as np
import pytest

from kallglot_ari.audio.codecs import g711, opus, registry
from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.clock import SystemClock
from kallglot_ari.errors import ConfigError, ListenError, MediaError
from kallglot_ari.media.chunks import Chunk
from kallglot_ari.media.engine import MediaEngine
from kallglot_ari.media.plane import Report
from kallglot_ari.media.udp import family_of
from kallglot_ari.metrics import Metrics
from kallglot_ari.settings import MediaSettings
from tests.audio.signals import best_snr, speech_like, tone
from tests.audio_checks import level_dbfs
from tests.media.conftest import Running, value
from tests.media.peer import Peer

pytestmark = pytest.mark.real_time

ULAW = registry.get("ulaw")


def ulaw(pcm: np.ndarray[tuple[int], np.dtype[np.int16]]) -> bytes:
    return g711.PCM_TO_ULAW[pcm.view(np.uint16)].tobytes()


def frames(data: bytes, size: int = 160) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data) - size + 1, size)]


async def settle(seconds: float = 0.2) -> None:
    await asyncio.sleep(seconds)


async def test_up_and_down_byte_for_byte(running: Running, way: dict[str, object], metrics: Metrics) -> None:
    """Across both wraps, chunks in their own continuous time, packets in their own continuous numbers."""
    sound = ulaw(speech_like(8000, 1.4))
    got: list[tuple[float, UplinkChunk]] = []
    async with running(**way) as engine, Peer(ULAW) as peer:
        flow = engine.open(
            "a", lambda chunk: got.append((time.monotonic(), chunk)), sequence=65520, timestamp=2**32 - 3200
        )
        flow.connect(peer.address)

        async def play() -> None:
            start = time.monotonic()
            for i in range(10):
                await asyncio.sleep(max(0.0, start + i * 0.1 - time.monotonic()))
                flow.play("agent", StreamAudio("mulaw", 8000, sound[i * 800 : (i + 1) * 800]))

        await asyncio.gather(peer.say(engine.address, frames(sound[:8000])), play())
        await settle()
        quality = flow.quality()
        packets = list(peer.heard)
    up = b"".join(chunk.audio.payload for _, chunk in got)
    assert up[:8000] == sound[:8000]
    assert [chunk.timestamp_ms for _, chunk in got[:10]] == list(range(0, 1000, 100))
    assert {(chunk.audio.encoding, chunk.audio.sample_rate, len(chunk.audio.payload)) for _, chunk in got} == {("mulaw", 8000, 800)}  # fmt: skip
    assert all(-0.001 < at - chunk.received_at < 0.3 for at, chunk in got[:10])
    assert sound[:8000] in b"".join(packet.payload for _, packet in packets)
    numbers = [packet.sequence for _, packet in packets]
    stamps = [packet.timestamp for _, packet in packets]
    assert numbers == [(numbers[0] + i) & 0xFFFF for i in range(len(numbers))]
    assert stamps == [(stamps[0] + 160 * i) & 0xFFFFFFFF for i in range(len(stamps))]
    assert numbers[0] == 65520
    assert stamps[0] == 2**32 - 3200
    assert len({packet.ssrc for _, packet in packets}) == 1
    marked = [i for i, (_, packet) in enumerate(packets) if packet.marker]
    assert len(marked) == 1
    assert packets[marked[0] - 1][1].payload == b"\xff" * 160
    assert quality.packets_received == 50
    assert quality.packets_lost == 0
    assert quality.mos > 4.3
    assert value(metrics, "kallglot_rtp_packets_total", direction="in") == 50
    assert value(metrics, "kallglot_downlink_latency_seconds_count") == 1
    assert value(metrics, "kallglot_mos_count") == 1


async def test_silence_is_sent_from_the_connection_on_at_a_steady_pace(running: Running) -> None:
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", lambda _: None)
        begun = time.monotonic()
        flow.connect(peer.address)
        await settle(1.0)
        heard = list(peer.heard)
    assert heard[0][0] - begun < 0.2
    assert 40 <= len(heard) <= 52
    assert {packet.payload for _, packet in heard} == {b"\xff" * 160}


async def test_a_leg_that_sends_nothing_sends_nothing_up(running: Running) -> None:
    got: list[UplinkChunk] = []
    async with running() as engine, Peer(ULAW) as peer:
        engine.open("a", got.append).connect(peer.address)
        await settle(0.5)
    assert got == []


async def test_losses_leave_no_hole_in_time(running: Running, metrics: Metrics) -> None:
    pcm = tone(8000, 1.2, 400)
    got: list[UplinkChunk] = []
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", got.append)
        flow.connect(peer.address)
        await peer.say(engine.address, frames(ulaw(pcm)), lost=frozenset({20, 31, 47}))
        await settle()
        quality = flow.quality()
    sound = g711.ULAW_TO_PCM[np.frombuffer(b"".join(chunk.audio.payload for chunk in got), dtype=np.uint8)]
    assert quality.packets_lost == 3
    assert quality.concealed_ms >= 60
    short = sound[: len(pcm)].reshape(-1, 40)  # 5 ms
    assert min(level_dbfs(part) for part in short[:230]) > level_dbfs(pcm) - 3


async def test_strangers_are_not_heard(running: Running, way: dict[str, object], metrics: Metrics) -> None:
    got: list[UplinkChunk] = []
    async with running(**way) as engine, Peer(ULAW) as peer, Peer(ULAW) as stranger:
        engine.open("a", got.append).connect(peer.address)
        await asyncio.gather(
            stranger.say(engine.address, [b"\x01" * 160] * 20), peer.say(engine.address, [b"\x02" * 160] * 20)
        )
        await settle()
    assert set(b"".join(chunk.audio.payload for chunk in got[:4])) == {2}
    assert value(metrics, "kallglot_rtp_discarded_total", reason="address") == 20


async def test_a_hundred_thousand_fuzzed_datagrams(running: Running, metrics: Metrics) -> None:
    """From the right and from wrong addresses, while a call goes on."""
    sound = ulaw(speech_like(8000, 4.0))
    rng = random.Random(1)
    got: list[UplinkChunk] = []
    async with running() as engine, Peer(ULAW) as peer, Peer(ULAW) as stranger:
        engine.open("a", got.append).connect(peer.address)
        await settle(0.1)

        async def fuzz() -> None:
            await settle(0.1)  # the call is up
            for i in range(100_000):
                sock = peer.sock if i % 2 else stranger.sock
                data = rng.randbytes(rng.choice((0, 1, 11, 12, 13, 160, 172, 172, 400, 1600)))
                if data and rng.random() < 0.5:
                    data = b"\x80\x00" + data[2:]
                with contextlib.suppress(BlockingIOError):
                    sock.sendto(data, engine.address)
                if i % 250 == 0:
                    await asyncio.sleep(0.002)

        await asyncio.gather(peer.say(engine.address, frames(sound[:24000])), fuzz())
        await settle()
    up = b"".join(chunk.audio.payload for chunk in got)
    heard = sum(1 for frame in frames(sound[:24000]) if frame in up)
    assert heard >= 140
    discarded = sum(
        value(metrics, "kallglot_rtp_discarded_total", reason=reason)
        for reason in (
            "address",
            "malformed",
            "payload_type",
            "empty",
            "ssrc",
            "truncated",
            "odd",
            "late",
            "socket_full",
        )
    )
    assert discarded > 90_000


async def test_two_speakers_are_mixed_and_one_can_be_flushed(running: Running) -> None:
    low, high = ulaw(tone(8000, 2.0, 400, 6000)), ulaw(tone(8000, 2.0, 1500, 6000))
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", lambda _: None)
        flow.connect(peer.address)
        flow.play("x", StreamAudio("mulaw", 8000, low))
        await settle(0.3)
        flow.play("y", StreamAudio("mulaw", 8000, high))
        await settle(0.6)
        flow.flush("x")
        await settle(0.5)
        flow.flush()
        await settle(0.2)
        heard = g711.ULAW_TO_PCM[np.frombuffer(b"".join(p.payload for _, p in peer.heard), dtype=np.uint8)]
        backlog = flow.quality().backlog_ms
    parts = [np.abs(np.fft.rfft(heard[i : i + 800].astype(float))) for i in range(0, len(heard) - 800, 800)]
    both = [(spectrum[40] > 1e6, spectrum[150] > 1e6) for spectrum in parts]
    assert (True, False) in both
    assert (True, True) in both
    assert (False, True) in both
    assert both[-1] == (False, False)
    assert backlog == 0
    assert np.abs(np.diff(heard.astype(int))).max() < 14000  # the sum of both tones' steepest steps: no click


async def test_hold_stops_the_uplink_and_time_goes_on(running: Running) -> None:
    got: list[UplinkChunk] = []
    payloads = [bytes([i]) * 160 for i in range(80)]
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", got.append)
        flow.connect(peer.address)
        saying = asyncio.get_running_loop().create_task(peer.say(engine.address, payloads))
        await settle(0.45)
        flow.pause()
        await settle(0.5)
        before = len(got)
        flow.resume()
        await saying
        await settle()
    stamps = [chunk.timestamp_ms for chunk in got]
    assert before <= 6
    gap = [b - a for a, b in itertools.pairwise(stamps)]
    assert max(gap) >= 400
    for chunk in got[before : before + 5]:
        assert min(chunk.audio.payload) >= 45


async def test_hearing_the_other_party_quietly(running: Running) -> None:
    voice = ulaw(tone(8000, 1.6, 600, 8000))
    async with running() as engine, Peer(ULAW) as speaker, Peer(ULAW) as listener:
        ear = engine.open("b", lambda _: None)
        ear.hear("a", -20.0)  # before the other is there
        ear.connect(listener.address)
        engine.open("a", lambda _: None).connect(speaker.address)
        await speaker.say(engine.address, frames(voice))
        heard = g711.ULAW_TO_PCM[np.frombuffer(b"".join(p.payload for _, p in listener.heard), dtype=np.uint8)]
        ear.hear("a", None)
        assert not any(packet.payload != b"\xff" * 160 for _, packet in speaker.heard)  # nobody hears themselves
        await settle(0.3)
        quiet = listener.heard[-1][1].payload
    middle = heard[len(heard) // 2 :][:4000]
    assert level_dbfs(middle) == pytest.approx(level_dbfs(tone(8000, 1.0, 600, 800)), abs=1.0)
    parts = middle[: 40 * 100].reshape(-1, 40)
    assert min(level_dbfs(part) for part in parts) > level_dbfs(middle) - 4
    assert quiet == b"\xff" * 160


WAYS = [
    ("auto", "mulaw", 8000, 35), ("ulaw", "pcm_16", 8000, 35), ("ulaw", "pcm_16", 16000, 25), ("alaw", "mulaw", 8000, 30),
    ("g722", "pcm_16", 16000, 15), ("g722", "mulaw", 8000, 15), ("auto", "pcm_16", 16000, 15), ("slin16", "pcm_16", 24000, 15),
    ("slin16", "mulaw", 8000, 15), ("opus", "pcm_16", 16000, 8),
]  # fmt: skip


@pytest.mark.parametrize(("form", "encoding", "rate", "least"), WAYS)
async def test_every_format_carries_sound_both_ways(running: Running, form: str, encoding: str, rate: int, least: float) -> None:  # fmt: skip
    if form == "opus" and not opus.available():
        pytest.skip("libopus is not installed")
    async with running(format=form, encoding=encoding, sample_rate=rate) as engine:
        receive, send = registry.get(engine.format.receive), registry.get(engine.format.send)
        got: list[UplinkChunk] = []
        said = tone(receive.sample_rate, 0.8, 600)
        encoder = receive.encoder()
        step = receive.frame_samples
        payloads = [encoder.encode(said[i : i + step]) for i in range(0, said.size, step)]
        async with Peer(receive) as peer:
            flow = engine.open("a", got.append)
            flow.connect(peer.address)
            speech = tone(rate, 0.8, 900)
            size = rate // 10
            for i in range(0, speech.size, size):
                flow.play("x", StreamAudio(encoding, rate, registry.pcm_to_stream(encoding, speech[i : i + size])))  # type: ignore[arg-type]
            await peer.say(engine.address, payloads)
            await settle()
            heard = list(peer.heard)
    up = np.concatenate([registry.stream_to_pcm(encoding, chunk.audio.payload) for chunk in got])
    assert best_snr(tone(rate, 0.3, 600), up[rate * 2 // 5 :], rate // 100) > least
    decoder = send.decoder()
    assert {packet.payload_type for _, packet in heard} == {send.send_type}
    down = np.concatenate([decoder.decode(packet.payload) for _, packet in heard])
    middle = down[send.sample_rate * 2 // 5 :]
    assert best_snr(tone(send.sample_rate, 0.3, 900), middle, send.sample_rate // 100) > min(least, 15)


async def test_what_cannot_be_played_is_counted_and_survived(running: Running, metrics: Metrics) -> None:
    async with running(backlog_max_ms=1000) as engine, Peer(ULAW) as peer:
        flow = engine.open("a", lambda _: None)
        flow.connect(peer.address)
        flow.play("x", StreamAudio("pcm_16", 8000, b"odd"))
        flow.play("x", StreamAudio("pcm_16", 1, b"ab"))
        flow.play("x", StreamAudio("mp3", 8000, b"ab"))  # type: ignore[arg-type]
        flow.play("x", StreamAudio("mulaw", 8000, b""))
        flow.play("x", StreamAudio("mulaw", 8000, b"\x01" * 8000 + b"\x02" * 8000))
        await settle(0.3)
    assert value(metrics, "kallglot_rtp_discarded_total", reason="speech_unusable") == 3
    assert value(metrics, "kallglot_rtp_discarded_total", reason="speech_backlog") == 50
    said = {byte for _, packet in peer.heard for byte in packet.payload}
    assert 2 in said
    assert 1 not in said  # the oldest went


async def test_a_port_used_again_does_not_play_the_last_call(running: Running, metrics: Metrics) -> None:
    got: list[UplinkChunk] = []
    async with running() as engine, Peer(ULAW) as peer:
        first = engine.open("a", lambda _: None)
        first.connect(peer.address)
        await peer.say(engine.address, [b"\x01" * 160] * 10)
        first.close()
        second = engine.open("b", got.append)
        second.connect(peer.address)
        await peer.say(engine.address, [b"\x01" * 160] * 10)  # its old stream goes on for a moment
        peer.ssrc, peer.sequence = 99, 5
        await peer.say(engine.address, [b"\x02" * 160] * 15)
        await settle()
    assert set(got[0].audio.payload) == {2}
    assert value(metrics, "kallglot_rtp_discarded_total", reason="previous_call") >= 9


async def test_a_source_that_changes_is_followed_when_two_packets_agree(running: Running) -> None:
    got: list[UplinkChunk] = []
    async with running() as engine, Peer(ULAW) as peer:
        engine.open("a", got.append).connect(peer.address)
        await peer.say(engine.address, [b"\x01" * 160] * 20)
        peer.ssrc, peer.sequence, peer.timestamp = 5, 1, 1
        await peer.say(engine.address, [b"\x02" * 160] * 20)
        await settle()
    said = b"".join(chunk.audio.payload for chunk in got)
    assert said.count(b"\x02" * 160) >= 18


async def test_closing_is_final_and_harmless_twice(running: Running) -> None:
    got: list[UplinkChunk] = []
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", got.append)
        flow.connect(peer.address)
        await peer.say(engine.address, [b"\x01" * 160] * 11)
        await settle(0.15)
        quality = flow.close()
        assert flow.close() == quality == flow.quality()
        count = len(got)
        for call in (flow.pause, flow.resume, flow.flush):
            call()
        flow.play("x", StreamAudio("mulaw", 8000, b"\x01" * 160))
        flow.connect(peer.address)
        flow.hear("b", 0.0)
        await peer.say(engine.address, [b"\x01" * 160] * 11)
        await settle()
        sent = len(peer.heard)
        await settle(0.1)
        assert len(peer.heard) == sent
        assert flow.quality().packets_received in (10, 11)
        engine.open("a", got.append)  # the id is free again
    assert len(got) == count


async def test_what_is_refused(running: Running) -> None:
    async with running() as engine, Peer(ULAW) as peer:
        flow = engine.open("a", lambda _: None)
        other = engine.open("b", lambda _: None)
        flow.connect(peer.address)
        with pytest.raises(MediaError, match="found 'a' open already"):
            engine.open("a", lambda _: None)
        with pytest.raises(MediaError, match="in use by a"):
            other.connect(peer.address)
        with pytest.raises(MediaError, match="expected an IPv4 address, found 'nowhere'"):
            other.connect(("nowhere", 5))
        with pytest.raises(MediaError, match="expected a port of 1 to 65535, found 0"):
            other.connect(("127.0.0.1", 0))
        with pytest.raises(MediaError, match="expected another flow"):
            flow.hear("a", 0.0)
        with pytest.raises(MediaError, match=r"at most 12.0 dB, found 40"):
            flow.hear("b", 40)
        assert repr(flow) == "<MediaFlow a row 0>"


async def test_a_failing_sink_does_not_silence_the_others(running: Running, metrics: Metrics) -> None:
    def fail(_: UplinkChunk) -> None:
        raise RuntimeError("no")

    got: list[UplinkChunk] = []
    async with running() as engine, Peer(ULAW) as one, Peer(ULAW) as two:
        engine.open("a", fail).connect(one.address)
        engine.open("b", got.append).connect(two.address)
        await asyncio.gather(*(peer.say(engine.address, [b"\x01" * 160] * 11) for peer in (one, two)))
        await settle()
    assert got
    assert value(metrics, "kallglot_stream_dropped_chunks_total") >= 2


def make(**settings: object) -> MediaEngine:
    return MediaEngine(
        MediaSettings.model_validate(settings), encoding="mulaw", sample_rate=8000, chunk_ms=100,
        metrics=Metrics(), clock=SystemClock(),
    )  # fmt: skip


async def test_what_the_event_loop_cannot_take_at_once_is_delivered_or_counted(
    running: Running, metrics: Metrics
) -> None:
    """The tick goes on reporting while the event loop works off a backlog past its bound: the oldest goes, and nothing else."""
    got: list[int] = []
    reports = 20_000

    async with running() as engine:
        flow = engine.open("a", lambda chunk: got.append(chunk.timestamp_ms))

        def tick(first: int, last: int) -> None:
            for number in range(first, last):
                sound = UplinkChunk(StreamAudio("mulaw", 8000, b"\xff" * 800), number, 0.0)
                engine._post(Report(chunks=[Chunk(flow.row, flow.generation, sound)]))

        tick(0, reports // 2)  # the loop had no turn meanwhile
        thread = threading.Thread(target=tick, args=(reports // 2, reports))
        thread.start()
        async with asyncio.timeout(20):
            while thread.is_alive() or engine._pending:
                await asyncio.sleep(0)
    dropped = value(metrics, "kallglot_stream_dropped_chunks_total")
    assert dropped > 0
    assert len(got) + dropped == reports
    assert got == sorted(set(got))
    assert got[-1] == reports - 1


async def test_settings_that_cannot_work_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"media.bind: expected an IPv4 or IPv6 address, found 'here'"):
        family_of("here")
    monkeypatch.setattr(opus, "available", lambda: False)
    with pytest.raises(ConfigError, match="opus needs the system's libopus"):
        make(format="opus")
    engine = make()
    with pytest.raises(MediaError, match="expected it started"):
        _ = engine.address
    with pytest.raises(MediaError, match="expected it started"):
        engine.open("a", lambda _: None)
    await engine.stop()
    with pytest.raises(ConfigError, match="chunk_ms: expected a multiple of 20, found 30"):
        MediaEngine(
            MediaSettings(), encoding="mulaw", sample_rate=8000, chunk_ms=30, metrics=Metrics(), clock=SystemClock()
        )


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(ListenError, match=rf"cannot use UDP 127.0.0.1 port {port}: the port is taken"):
            await make(port=port).start()


async def test_ipv6(running: Running, way: dict[str, object]) -> None:
    async with running(bind="::1", **way) as engine:
        got: list[UplinkChunk] = []
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
            sock.setblocking(False)
            engine.open("a", got.append).connect(("::1", sock.getsockname()[1]))
            peer = Peer(ULAW)
            for i in range(10):
                sock.sendto(peer.packet(i, b"\x05" * 160), engine.address)
                await asyncio.sleep(0.02)
            await settle()
            assert len(sock.recv(2000)) == 172
            peer.sock.close()
    assert set(got[0].audio.payload) == {5}


async def test_an_asterisk_that_is_told_an_ipv4_address_reaches_a_socket_of_both_kinds(
    running: Running, way: dict[str, object]
) -> None:
    async with running(bind="::", advertise="127.0.0.1", **way) as engine, Peer(ULAW) as peer:
        flow = engine.open("a", lambda _: None)
        host, port = peer.address
        await flow.attach({"UNICASTRTP_LOCAL_ADDRESS": host, "UNICASTRTP_LOCAL_PORT": str(port)})
        await peer.say(("127.0.0.1", engine.address[1]), [b"\x05" * 160] * 10)
        await settle()
        assert flow.quality().packets_received == 10
        assert len(peer.heard) > 5
