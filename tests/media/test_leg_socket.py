"""One leg over a websocket, without a connection: frames become packets, and what waits for Asterisk."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kallglot_ari.audio.codecs import registry
from kallglot_ari.audio.codecs.base import Codec
from kallglot_ari.media.leg_socket import Connection, parse_event
from kallglot_ari.media.websocket import leg_name
from kallglot_ari.rtp.packet import RtpPacket
from tests.media.conftest import START, ulaw
from tests.media.simulated import Simulation

pytestmark = pytest.mark.real_time

ULAW = registry.get("ulaw")

STATUS = "STATUS channel_id:leg queue_length:LENGTH xon_level:800 xoff_level:900 queue_full:false bulk_media:false media_paused:false"


class Socket:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes | str] = []

    async def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)

    async def send_str(self, data: str) -> None:
        self.sent.append(data)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (START, {"event": "MEDIA_START", "channel_id": "leg", "optimal_frame_size": "160"}),
        (STATUS.replace("LENGTH", "7"), {"event": "STATUS", "queue_length": "7"}),
        ('{"event":"MEDIA_XOFF","channel_id":"leg"}', {"event": "MEDIA_XOFF", "channel_id": "leg"}),
        ("MEDIA_XON", {"event": "MEDIA_XON"}),
        ("", {"event": ""}),
        ("{", {"event": ""}),
        ("[1]", {"event": "[1]"}),
        ('{"a":1}', {"a": 1}),
        ("{}", {}),
    ],
)
def test_both_forms_of_control_messages(text: str, expected: dict[str, Any]) -> None:
    assert parse_event(text).items() >= expected.items()


def test_names_of_legs_differ_and_look_like_addresses() -> None:
    names = {leg_name(number) for number in (1, 2, 0xFFFFFF, 0x1000000, 0x1000001)}
    assert len(names) == 5
    assert {len(name) for name in names} == {16}


def test_frames_become_packets_and_time_left_out_is_left_out_of_the_timestamps() -> None:
    connection = Connection("leg", Socket(), ULAW, as_json=True)
    times = [0.0, 0.02, 0.15, 0.151, 0.152, 3.0, 3.02]
    packets = [RtpPacket.parse(connection.packet(bytes(160), 5.0 + at)) for at in times]
    assert [p.sequence for p in packets] == list(range(7))
    assert [p.timestamp for p in packets[:5]] == [0, 160, 320, 480, 640], "a burst is late, not new time"
    assert packets[5].timestamp % 160 == 0
    assert abs(packets[5].timestamp / 8000 - 3.0) <= 0.021, "2.8 s of nothing are silence"
    assert packets[6].timestamp - packets[5].timestamp == 160


def timed(times: Iterable[float]) -> list[RtpPacket]:
    """What becomes of frames that come at these times."""
    connection = Connection("leg", Socket(), ULAW, as_json=True)
    return [RtpPacket.parse(connection.packet(bytes(160), 5.0 + at)) for at in times]


def jumps(packets: list[RtpPacket]) -> list[tuple[int, int]]:
    """Where numbers or timestamps do not go on by one: packets and frames of time missing there."""
    steps = [((b.sequence - a.sequence) & 0xFFFF, (b.timestamp - a.timestamp) / 160) for a, b in pairwise(packets)]
    return [(packets - 1, int(frames) - 1) for packets, frames in steps if (packets, frames) != (1, 1)]


def test_each_frame_that_never_came_is_one_lost_packet() -> None:
    assert jumps(timed(i * 0.02 for i in range(3000) if i % 50 != 25)) == [(1, 1)] * 60
    assert jumps(timed(i * 0.02 for i in range(100) if i not in (30, 31, 32))) == [(3, 3)]
    jitter = np.random.default_rng(1).uniform(0, 0.03, 3000)
    coming = sorted(i * 0.02 + jitter[i] for i in range(3000) if i % 100 != 25)
    assert sum(lost for lost, _ in jumps(timed(coming))) in (29, 30)


def test_frames_that_are_late_are_not_lost() -> None:
    stalls = [max(i, i // 50 * 50 + 8) * 0.02 for i in range(3000)]
    assert jumps(timed(stalls)) == [], "nine frames of each second come at once"


@pytest.mark.parametrize("ppm", [-300, -20, 20, 300])
def test_clocks_that_differ_leave_no_hole(ppm: int) -> None:
    assert jumps(timed(i * 0.02 * (1 + ppm * 1e-6) for i in range(3600 * 50))) == []


def test_a_pause_is_silence_and_not_lost() -> None:
    assert jumps(timed([i * 0.02 for i in range(50)] + [3.0 + i * 0.02 for i in range(50)])) == [(0, 100)]


def test_frames_lost_on_the_way_to_asterisk_leave_no_hole_in_what_goes_up() -> None:
    simulation = Simulation(1)
    connection = Connection("leg", Socket(), ULAW, as_json=True)
    sound = ulaw(20.0)
    for i in range(1000):
        if i % 50 != 25:
            packet = connection.packet(sound[i * 160 :][:160], 0.1 + i * 0.02)
            heapq.heappush(simulation.wire.coming, (0.1 + i * 0.02, i, 0, packet))
    simulation.run(20)
    blocks = np.abs(simulation.said(0).astype(np.int32))[: 19 * 8000].reshape(-1, 80).max(axis=1)
    assert blocks.min() > 1000, "10 ms of nothing"
    quality = simulation.quality(0)
    assert (quality.packets_lost, quality.packets_late) == (20, 0)
    assert quality.buffer_ms < 40


async def test_silence_is_left_out_while_asterisk_has_enough_and_speech_never() -> None:
    socket = Socket()
    connection = Connection("leg", socket, ULAW, as_json=True)
    writing = asyncio.get_running_loop().create_task(connection.write())
    for _ in range(10):
        connection.put(b"speech", 1.0, silent=False)
    for i in range(20):
        connection.put(b"silence", 1.0 + (i + 1) * 0.02, silent=True)
    await asyncio.sleep(0.01)
    writing.cancel()
    assert socket.sent[:10] == [b"speech"] * 10
    assert 10 <= len(socket.sent) - 10 <= 13, "the ten frames ahead are played while silence is not sent"


async def test_what_asterisk_holds_back_waits_and_a_flush_drops_it() -> None:
    socket = Socket()
    connection = Connection("leg", socket, ULAW, as_json=False)
    writing = asyncio.get_running_loop().create_task(connection.write())
    connection.event(parse_event("MEDIA_XOFF"))
    for i in range(60):
        connection.put(bytes([i]), 1.0, silent=False)
    await asyncio.sleep(0.01)
    assert socket.sent == []
    assert connection.dropped == 10, "of 60, 50 wait"
    connection.event(parse_event("MEDIA_XON"))
    await asyncio.sleep(0.01)
    assert socket.sent == [bytes([i]) for i in range(10, 60)]
    connection.event(parse_event("MEDIA_XOFF"))
    connection.put(b"more", 1.0, silent=False)
    connection.flush()
    await asyncio.sleep(0.01)
    connection.event(parse_event('{"event": "MEDIA_XON"}'))
    await asyncio.sleep(0.01)
    writing.cancel()
    assert socket.sent[50:] == ["FLUSH_MEDIA"]


class Queue(Socket):
    """Asterisk's end: plays a frame every 20 ms of a queue that does not get shorter by itself, and says how long it is."""

    def __init__(self, *, flushes: bool) -> None:
        super().__init__()
        self.flushes = flushes
        self.waits = 0

    def deliver(self, connection: Connection) -> None:
        for message in self.sent:
            if isinstance(message, bytes):
                self.waits += 1
            elif "GET_STATUS" in message:
                connection.event(parse_event(STATUS.replace("LENGTH", str(self.waits))))
            elif self.flushes:
                self.waits = 0
        self.sent.clear()


async def waits(codec: Codec, *, stall: tuple[int, int] = (0, 0), flush_every: int = 0) -> list[int]:
    """Frames of silence that wait in Asterisk, every 20 ms of a minute; nothing is delivered between the two of `stall`."""
    queue = Queue(flushes=codec.duration is None)
    connection = Connection("leg", queue, codec, as_json=False)
    writing = asyncio.get_running_loop().create_task(connection.write())
    lengths = []
    for i in range(1, 3001):
        if flush_every and i % flush_every == 0:
            connection.flush()
        connection.put(b"silence", i * 0.02, silent=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not stall[0] <= i < stall[1]:
            queue.deliver(connection)
        queue.waits = max(0, queue.waits - 1)
        lengths.append(queue.waits)
    writing.cancel()
    return lengths


async def test_what_the_network_held_up_does_not_wait_in_asterisk_for_ever() -> None:
    lengths = await waits(ULAW, stall=(250, 300))
    assert max(lengths) > 40
    assert max(lengths[300 + 150 :]) <= 3


@pytest.mark.parametrize("length", ["", "x", "-1", "9" * 400, "9" * 5000])
def test_a_length_that_is_none_changes_little(length: str) -> None:
    connection = Connection("leg", Socket(), ULAW, as_json=False)
    connection.event(parse_event(STATUS.replace("LENGTH", length)))
    connection.put(b"speech", 1.0, silent=False)


async def test_opus_that_asterisk_does_not_flush_is_not_sent_again_and_again() -> None:
    assert max(await waits(registry.get("opus_cbr"), flush_every=100)) <= 3
    socket = Socket()
    connection = Connection("leg", socket, registry.get("opus_cbr"), as_json=True)
    connection.put(b"speech", 1.0, silent=False)
    connection.flush()
    writing = asyncio.get_running_loop().create_task(connection.write())
    await asyncio.sleep(0.01)
    writing.cancel()
    assert socket.sent == [], "it would be refused"


def test_a_message_nested_too_deep_is_no_event() -> None:
    assert parse_event('{"a":' + "[" * 60_000) == {"event": ""}
    assert parse_event('{"a":' + "[" * 5_000 + "]" * 5_000 + "}") == {"event": ""}
