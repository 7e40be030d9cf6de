"""What is told of a leg: before anything came of it, when silence is not sent, and when its place had another before."""

from __future__ import annotations

import asyncio

import pytest

from kallglot_ari.audio.codecs import registry
from kallglot_ari.audio.level import FLOOR_DBFS
from kallglot_ari.calls.model import LegQuality
from kallglot_ari.media.native import LIBRARY, Native
from kallglot_ari.metrics import Metrics
from kallglot_ari.rtp.packet import RtpPacket
from tests.media.conftest import Running, value
from tests.media.peer import Peer
from tests.media.simulated import Simulation

ENGINES = [pytest.param(LIBRARY, id="native", marks=pytest.mark.skipif(LIBRARY is None, reason="no machine code")),
           pytest.param(None, id="numpy")]  # fmt: skip
SOUND = bytes([0x20, 0xA0] * 80)


def test_a_leg_of_which_nothing_came_is_silent_and_not_as_loud_as_can_be() -> None:
    simulation = Simulation(1)
    assert simulation.quality(0).level_dbfs == FLOOR_DBFS
    simulation.run(2.0)
    assert simulation.quality(0).level_dbfs == FLOOR_DBFS


@pytest.mark.real_time
async def test_whoever_has_a_place_next_is_not_told_the_figures_of_the_last_call(running: Running) -> None:
    async with running() as engine, Peer(registry.get("ulaw")) as peer:
        first = engine.open("first", lambda _: None)
        first.connect(peer.address)
        await peer.say(engine.address, [SOUND] * 20)
        await asyncio.sleep(0.15)
        assert first.quality().packets_received == 20
        first.close()
        await asyncio.sleep(0.05)
        second = engine.open("second", lambda _: None)
        assert second.row == first.row
        seen = second.quality(), second.close()
    assert [(one.packets_received, one.packets_sent, one.level_dbfs) for one in seen] == [(0, 0, FLOOR_DBFS)] * 2


def in_turns(simulation: Simulation, *, noise: int, lost: frozenset[int] = frozenset(), ticks: int = 160) -> LegQuality:
    """Ten times half a second of speech and 1.2 s of silence, which the sender tells by `noise` packets that have numbers but do not reach us.

    `lost` are numbers of packets of sound, `ticks` their length.
    """
    number = timestamp = sounds = 0
    at = 0.1
    for _ in range(10):
        for _ in range(4000 // ticks):
            packet = RtpPacket(0, number & 0xFFFF, timestamp, 1, SOUND * (ticks // 160)).pack()
            if sounds not in lost:
                simulation.arrives_as(at, 0, packet)
            sounds += 1
            number += 1
            timestamp += ticks
            at += ticks / 8000
        number += noise
        timestamp += 9600
        at += 1.2
    simulation.run(at)
    return simulation.quality(0)


@pytest.mark.parametrize("library", ENGINES)
@pytest.mark.parametrize("noise", [0, 1, 6, 15])
def test_comfort_noise_is_no_loss(library: Native | None, noise: int) -> None:
    """Asterisk does not pass it on, and keeps its numbers: seen with 22.10."""
    quality = in_turns(Simulation(1, library=library), noise=noise)
    assert (quality.packets_received, quality.packets_lost, round(quality.mos, 2)) == (250, 0, 4.41)


@pytest.mark.parametrize("library", ENGINES)
def test_what_is_lost_of_speech_beside_comfort_noise_is_lost(library: Native | None) -> None:
    lost = frozenset({5, 30, 31, 120, 121, 122})
    quality = in_turns(Simulation(1, library=library), noise=3, lost=lost)
    assert (quality.packets_received, quality.packets_lost) == (244, 6)


@pytest.mark.parametrize("library", ENGINES)
def test_a_long_packet_that_is_lost_is_no_comfort_noise(library: Native | None) -> None:
    quality = in_turns(Simulation(1, library=library), noise=1, lost=frozenset({3, 12, 13}), ticks=480)
    assert (quality.packets_received, quality.packets_lost) == (77, 3)


@pytest.mark.parametrize("library", ENGINES)
def test_a_long_packet_that_was_lost_before_asterisk_could_cut_it_up_is_no_comfort_noise(
    library: Native | None,
) -> None:
    simulation = Simulation(1, library=library)
    number = 0
    for frame in range(300):
        if frame % 60 in (30, 31, 32):  # one packet of a phone's
            number += frame % 60 == 30
            continue
        simulation.arrives_as(0.1 + frame * 0.02, 0, RtpPacket(0, number, frame * 160, 1, SOUND).pack())
        number += 1
    simulation.run(6.2)
    quality = simulation.quality(0)
    assert (quality.packets_received, quality.packets_lost) == (285, 5)


@pytest.mark.real_time
async def test_every_figure_of_a_finished_leg_is_a_metric(running: Running, metrics: Metrics) -> None:
    ulaw = registry.get("ulaw")
    async with running() as engine, Peer(ulaw) as peer:
        flow, nothing = (engine.open(name, lambda _: None) for name in ("flow", "nothing"))
        flow.connect(peer.address)
        await asyncio.sleep(0.03)
        order = [0, 1, 2, 4, 3, 5, 6, *range(12, 30)]
        for number in order:
            peer.sock.sendto(peer.packet(number, SOUND), engine.address)
            await asyncio.sleep(0.02 if number != 6 else 0.12)
        await asyncio.sleep(0.05)
        nothing.close()
        flow.close()
        await asyncio.sleep(0.05)
        quality = flow.quality()
    assert (quality.packets_lost, quality.packets_reordered) == (5, 1)
    assert value(metrics, "kallglot_rtp_lost_total") == 5 + quality.packets_late
    assert value(metrics, "kallglot_rtp_reordered_total") == 1
    assert value(metrics, "kallglot_rtp_concealed_seconds_total") == pytest.approx(quality.concealed_ms / 1000) != 0
    assert value(metrics, "kallglot_rtp_buffer_seconds_sum") == pytest.approx(quality.buffer_ms / 1000)
    assert value(metrics, "kallglot_rtp_drift_ratio_sum") == pytest.approx(abs(quality.drift_ppm) * 1e-6)
    for name in ("rtp_jitter_seconds", "rtp_buffer_seconds", "rtp_drift_ratio", "mos"):
        assert value(metrics, f"kallglot_{name}_count") == 1, "not of a leg of which nothing came"
