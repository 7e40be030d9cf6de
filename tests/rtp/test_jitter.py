"""The jitter buffer, told as stories: which packet came when, and what came out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kallglot_ari.rtp.jitter import CAPACITY, DRIFT_LIMIT, Heard, JitterBuffer, Missing
from kallglot_ari.rtp.packet import RtpPacket

FRAME = 160


def packet(index: int, *, start: int = 100, timestamp: int | None = None, ticks: int = FRAME) -> RtpPacket:
    when = index * FRAME if timestamp is None else timestamp
    return RtpPacket(0, (start + index) & 0xFFFF, when & 0xFFFFFFFF, 1, bytes([index & 0xFF]) * ticks)


def drain(buffer: JitterBuffer, now: float) -> list[int | str]:
    """Indices of packets heard; `lost` and `silence` for each 20 ms without."""
    out: list[int | str] = []
    while (item := buffer.pop(now)) is not None:
        if isinstance(item, Heard):
            out.append(item.packet.payload[0])
        else:
            out.extend([item.kind] * (item.ticks // FRAME))
    return out


def run(arrivals: dict[int, float], *, until: float, step: float = 0.01, buffer: JitterBuffer | None = None, packets: dict[int, RtpPacket] | None = None) -> list[int | str]:  # fmt: skip
    """Packets pushed when they arrive, the buffer looked at every 10 ms."""
    buffer = buffer or JitterBuffer(8000, FRAME)
    out: list[int | str] = []
    queue = sorted(arrivals.items(), key=lambda item: item[1])
    now = 0.0
    while now < until:
        while queue and queue[0][1] <= now:
            index, at = queue.pop(0)
            buffer.push((packets or {}).get(index) or packet(index), at)
        out += drain(buffer, now)
        now += step
    return out


def test_in_turn_means_at_once() -> None:
    buffer = JitterBuffer(8000, FRAME)
    assert buffer.pop(0.0) is None
    for i in range(50):
        assert buffer.push(packet(i), i * 0.02) == ""
        assert drain(buffer, i * 0.02) == [i]
    assert buffer.target == 0.02


@pytest.mark.parametrize("start", [0, 65500, 65535])
def test_wraps_are_no_event(start: int) -> None:
    buffer = JitterBuffer(8000, FRAME)
    for i in range(100):
        buffer.push(packet(i, start=start, timestamp=2**32 - 8000 + i * FRAME), i * 0.02)
        assert drain(buffer, i * 0.02) == [i]


def test_order_is_restored() -> None:
    arrivals = {i: i * 0.02 for i in range(10)} | {4: 0.105, 5: 0.1}
    assert run(arrivals, until=0.2) == list(range(10))


def test_a_lost_packet_is_told_once_its_time_is_over() -> None:
    arrivals = {i: i * 0.02 for i in range(10) if i != 4}
    assert run(arrivals, until=0.19) == [0, 1, 2, 3, "lost", 5, 6, 7, 8, 9]


def test_a_missing_packet_is_waited_for_as_long_as_the_target_says_and_no_longer() -> None:
    """Too short, and what is only late is cut out of a word; too long, and the other party waits for nothing."""
    arrivals = ((0, 0.0), (1, 0.02), (3, 0.06))

    def waiting() -> JitterBuffer:
        buffer = JitterBuffer(8000, FRAME, min_ms=40)
        for i, at in arrivals:
            buffer.push(packet(i), at)
        assert drain(buffer, 0.06) == [0, 1]
        return buffer

    buffer = waiting()
    assert drain(buffer, 0.079) == []  # it was due at 0.04
    assert drain(buffer, 0.081) == ["lost", 3]
    buffer = waiting()
    assert buffer.push(packet(2), 0.079) == ""
    assert drain(buffer, 0.081) == [2, 3]


def test_a_lost_packet_of_10_ms_is_10_ms() -> None:
    """A phone may send shorter packets than ours: a loss must not make its speech longer."""
    buffer = JitterBuffer(8000, FRAME)
    for i in (0, 1, 3, 4):
        buffer.push(packet(i, timestamp=i * 80, ticks=80), i * 0.01, 80)
    heard = []
    while (item := buffer.pop(0.06)) is not None:
        heard.append(item.ticks if isinstance(item, Missing) else item.packet.payload[0])
    assert heard == [0, 1, 80, 3, 4]


def test_what_comes_after_it_was_given_up_is_late() -> None:
    buffer = JitterBuffer(8000, FRAME)
    for i in (0, 1, 3):
        buffer.push(packet(i), i * 0.02)
    assert drain(buffer, 0.2)[:4] == [0, 1, "lost", 3]
    assert buffer.push(packet(2), 0.21) == "late"


def test_a_duplicate_is_refused() -> None:
    buffer = JitterBuffer(8000, FRAME)
    assert [buffer.push(packet(i), 0.0) for i in (0, 2, 2)] == ["", "", "duplicate"]
    assert buffer.held == 2
    assert buffer.furthest == 2
    drain(buffer, 0.0)
    assert buffer.push(packet(0), 0.01) == "duplicate"
    drain(buffer, 0.2)
    assert [buffer.push(packet(i), 0.2) for i in (1, 1, 2)] == ["late", "duplicate", "duplicate"]


@pytest.mark.parametrize("start", [100, 65533, 65534, 65535])
def test_the_furthest_tells_two_packets_that_changed_places(start: int) -> None:
    """Whoever comes while a later one is held was overtaken: this is what is counted as reordered."""
    buffer = JitterBuffer(8000, FRAME)
    buffer.push(packet(0, start=start), 0.0)
    drain(buffer, 0.0)
    assert buffer.furthest == 0
    for furthest, index in ((1, 2), (2, 3), (2, 2), (5, 6)):
        buffer.push(packet(index, start=start), 0.02)
        assert buffer.furthest == furthest


@pytest.mark.parametrize("start", [0, 65500])
def test_only_what_was_given_up_can_be_late(start: int) -> None:
    """As far back as a packet of this series may be, and once."""
    buffer = JitterBuffer(8000, FRAME)
    gone = {5, 6, 60, 104}
    for i in range(106):
        if i not in gone:
            buffer.push(packet(i, start=start), i * 0.02)
            drain(buffer, i * 0.02)
    drain(buffer, 2.5)
    for copy in range(2):
        for i in range(6, 106):
            expected = "late" if i in gone and copy == 0 else "duplicate"
            assert buffer.push(packet(i, start=start), 2.5) == expected
    for i in range(106, 200):
        buffer.push(packet(i, start=start), i * 0.02)
        drain(buffer, i * 0.02)
    buffer.skip((start + 206) & 0xFFFF, 6)
    buffer.timing.next_sequence = (start + 206) & 0xFFFF
    assert [buffer.push(packet(i, start=start), 4.0) for i in (199, 200, 205, 205)] == [
        "duplicate",
        "late",
        "late",
        "duplicate",
    ]


def test_dtx_is_silence_and_not_loss() -> None:
    """The numbers go on, the timestamp jumps: nothing was lost."""
    arrivals = {0: 0.0, 1: 0.02, 2: 0.5, 3: 0.52}
    packets = {2: packet(2, timestamp=25 * FRAME), 3: packet(3, timestamp=26 * FRAME)}
    out = run(arrivals, until=0.53, packets=packets)
    assert out[:2] == [0, 1]
    assert out[-2:] == [2, 3]
    assert len(out) == 27  # 23 frames of time without a packet
    assert set(out[2:5]) == {"lost"}  # as long as nobody can know
    assert set(out[5:25]) == {"silence"}


def test_when_nothing_comes_at_all_it_is_taken_as_late_before_it_is_called_lost() -> None:
    """The way stands still for some frames more often than it loses them: what is filled too early is heard twice as long."""
    buffer = JitterBuffer(8000, FRAME)
    buffer.push(packet(0), 0.0)
    assert drain(buffer, 0.0) == [0]
    # a frame and the 20 ms that one is waited for are over at 0.06, two frames of patience at 0.1
    assert drain(buffer, 0.099) == []
    assert drain(buffer, 0.101) == ["lost"]
    assert drain(buffer, 0.119) == []
    assert drain(buffer, 0.121) == ["lost"]


def test_what_is_behind_a_loss_that_was_filled_already_comes_out_at_once() -> None:
    buffer = JitterBuffer(8000, FRAME)
    buffer.push(packet(0), 0.0)
    assert drain(buffer, 0.101) == [0, "lost"]  # the time of 1 was filled while nothing came
    buffer.push(packet(2), 0.11)
    buffer.push(packet(3), 0.11)
    assert drain(buffer, 0.11) == [2, 3]


def test_every_outage_begins_with_loss_and_becomes_silence() -> None:
    """A loss is concealed, silence is not: a second outage has as much right to that as the first."""
    arrivals = {i: i * 0.02 for i in range(5)} | {5: 0.5} | {6: 1.0}
    packets = {5: packet(5, timestamp=25 * FRAME), 6: packet(6, timestamp=50 * FRAME)}
    out = run(arrivals, until=1.01, packets=packets)
    for before, after in ((4, 5), (5, 6)):
        outage = out[out.index(before) + 1 : out.index(after)]
        assert outage[:4] == ["lost", "lost", "lost", "silence"]
        assert "lost" not in outage[4:]


def test_dtx_told_by_a_packet_that_is_there_is_silence_at_once() -> None:
    buffer = JitterBuffer(8000, FRAME)
    buffer.push(packet(0), 0.0)
    assert drain(buffer, 0.0) == [0]
    buffer.push(packet(1, timestamp=2 * FRAME), 0.02)
    assert buffer.pop(0.02) == Missing(FRAME, "silence")
    assert drain(buffer, 0.02) == [1]


def test_loss_and_dtx_together() -> None:
    buffer = JitterBuffer(8000, FRAME)
    buffer.push(packet(0), 0.0)
    drain(buffer, 0.0)
    buffer.push(packet(2, timestamp=3 * FRAME), 0.06)
    assert drain(buffer, 0.1)[:3] == ["lost", "silence", 2]


def test_late_speech_in_its_turn_is_kept_and_the_time_made_good_at_the_next_silence() -> None:
    """The network stands still for 100 ms: nothing is lost, so nothing may be thrown away."""
    arrivals = {i: i * 0.02 if not 10 <= i < 15 else 0.29 + i * 1e-4 for i in range(30)}
    out = run(arrivals, until=0.6)
    assert [i for i in out if isinstance(i, int)] == list(range(30))
    filled = len(out) - 30
    assert 1 <= filled <= 7
    buffer = JitterBuffer(8000, FRAME)
    packets = {i: packet(i, timestamp=(i + 40) * FRAME) for i in range(30, 40)}
    arrivals |= {i: (i + 40) * 0.02 for i in packets}
    out = run(arrivals, until=1.6, buffer=buffer, packets=packets)
    assert len(out) == 80  # as long as the sender's time, nothing more


def test_what_is_past_all_bounds_is_dropped() -> None:
    buffer = JitterBuffer(8000, FRAME, 20, 100)
    arrivals = {i: i * 0.02 + min(0.5, 0.05 * max(0, i - 5)) for i in range(100)}
    out = run(arrivals, until=2.5, buffer=buffer)
    assert 5 < buffer.expired < 15  # until it is plain that the way has become longer for good
    assert [i for i in out if isinstance(i, int)][-80:] == list(range(20, 100))
    assert buffer.timing.emitted - buffer.timing.next_position <= 800
    assert buffer.restarts == 0  # the same series all along
    assert buffer.moved
    assert buffer.target == 0.02, "the longer way is no jitter"


def test_stalls_now_and_then_do_not_make_a_call_later_and_later() -> None:
    """Each drops what is past the bound; none of them is a way that has become longer for good."""
    buffer = JitterBuffer(8000, FRAME, 20, 100)
    stalls = (1000, 2500, 4000, 5500)  # half a minute apart
    arrivals = {i: i * 0.02 for i in range(5600)}
    for stall in stalls:
        arrivals |= dict.fromkeys(range(stall, stall + 12), (stall + 12) * 0.02)
    run(arrivals, until=112.0, buffer=buffer)
    assert buffer.expired >= 2 * len(stalls), "the test is about stalls past the bound"
    assert not buffer.moved
    assert buffer.timing.base == pytest.approx(0.0, abs=0.005)


@pytest.mark.parametrize("away", [0.12, 0.5, 3.0])
@pytest.mark.parametrize("first", [5, 150])
def test_a_source_that_paused_and_does_not_say_so_loses_nothing(away: float, first: int) -> None:
    """Numbers and timestamps go on where they stood, and tell of no time that passed."""
    buffer = JitterBuffer(8000, FRAME, 20, 100)
    arrivals = {i: i * 0.02 if i < first else away + i * 0.02 for i in range(first + 95)}
    out = run(arrivals, until=(first + 120) * 0.02 + away, buffer=buffer)
    assert buffer.expired == 0
    assert [i for i in out if isinstance(i, int)] == list(range(first + 95))
    last = max(at for at, piece in enumerate(out) if isinstance(piece, int))
    assert "lost" not in out[out.index(first) + 8 : last]
    assert buffer.restarts == (away > DRIFT_LIMIT)
    if away > 0.12:  # more than what lies within the bound of 100 ms
        assert buffer.target == 0.02, "a pause is no jitter"


@pytest.mark.parametrize("back", [2, 50, 99])
def test_timestamps_that_begin_anew_while_numbers_go_on_lose_nothing(back: int) -> None:
    """As Asterisk's do when a channel has another party: no packet can be late before its turn."""
    buffer = JitterBuffer(8000, FRAME, 20, 100)
    packets = {i: packet(i, timestamp=(i if i < 100 else i - back) * FRAME) for i in range(200)}
    out = run({i: i * 0.02 for i in packets}, until=4.05, buffer=buffer, packets=packets)
    assert (buffer.expired, buffer.restarts) == (0, 1)
    assert [i for i in out if isinstance(i, int)] == list(range(200))
    assert len(out) <= 206


def test_the_target_follows_the_spread_and_forgets_it() -> None:
    rng = np.random.default_rng(2)
    buffer = JitterBuffer(8000, FRAME, 20, 200)
    now = 0.0
    for i in range(100):
        buffer.push(packet(i), i * 0.02 + 0.04 + float(rng.uniform(-0.02, 0.02)))
        drain(buffer, i * 0.02)
    assert 0.03 < buffer.target < 0.06
    for i in range(100, 1000):
        now = i * 0.02 + 0.02
        buffer.push(packet(i), now)
        drain(buffer, now)
    assert buffer.target < 0.025


def test_a_new_series_of_numbers_is_taken_when_two_agree() -> None:
    buffer = JitterBuffer(8000, FRAME)
    for i in range(5):
        buffer.push(packet(i), i * 0.02)
    drain(buffer, 0.08)
    assert buffer.push(packet(0, start=40000, timestamp=7), 0.1) == "odd"
    assert buffer.push(packet(7, start=9000, timestamp=7), 0.1) == "odd"
    assert buffer.push(packet(0, start=40000, timestamp=7), 0.1) == "odd"
    assert buffer.push(packet(1, start=40000, timestamp=167), 0.12) == ""
    assert buffer.restarts == 1
    assert buffer.moved
    assert drain(buffer, 0.12)[-1] == 1


def holding() -> JitterBuffer:
    """One that waits for a packet, and holds the two after it."""
    buffer = JitterBuffer(8000, FRAME, min_ms=60)
    for i in (0, 2, 3):
        buffer.push(packet(i), i * 0.02)
        drain(buffer, i * 0.02)
    assert buffer.held == 2
    return buffer


def test_what_was_held_of_an_old_series_is_counted_when_a_new_one_begins() -> None:
    """`expired` is all that came and was never heard."""
    buffer = holding()
    for i in (0, 1):
        buffer.push(packet(i, start=40000, timestamp=i * FRAME), 0.07)
    assert (buffer.held, buffer.expired) == (1, 2)


def test_strays_with_packets_of_the_series_between_begin_nothing_anew() -> None:
    """Else whoever sends two datagrams from elsewhere, seconds apart, could take a call's place in its own stream."""
    buffer = JitterBuffer(8000, FRAME)
    for i in range(20):
        assert buffer.push(packet(i), i * 0.02) == ""
        assert buffer.push(packet(i, start=40000, timestamp=i), i * 0.02) == "odd"
        assert drain(buffer, i * 0.02) == [i]
    assert buffer.restarts == 0


def test_a_timestamp_that_jumps_by_hours_is_a_new_series() -> None:
    buffer = JitterBuffer(8000, FRAME)
    buffer.push(packet(0), 0.0)
    drain(buffer, 0.0)
    buffer.push(packet(1, timestamp=10**9), 0.02)
    assert drain(buffer, 0.02) == [1]
    assert buffer.restarts == 1


def test_another_source_goes_on_where_the_output_stands() -> None:
    buffer = JitterBuffer(8000, FRAME)
    for i in range(10):
        buffer.push(packet(i), i * 0.02)
    drain(buffer, 0.18)
    buffer.restart()
    assert buffer.pop(0.3) is None
    buffer.push(packet(3, start=5), 0.4)
    out = drain(buffer, 0.4)
    assert out[-1] == 3
    assert len(out) == 11  # 0.2 s were said, 0.2 s of silence, and the packet
    assert buffer.timing.emitted == 21 * FRAME


def test_nothing_that_waited_of_the_source_before_is_heard_as_the_new_one() -> None:
    """Its numbers may be the new one's as well."""
    buffer = holding()
    buffer.restart()
    assert buffer.expired == 2
    for i in (11, 12, 13):
        buffer.push(packet(i, start=90), 0.08)  # 101 to 103
    assert [piece for piece in drain(buffer, 0.08) if isinstance(piece, int)] == [11, 12, 13]


def test_a_flood_is_bounded() -> None:
    buffer = JitterBuffer(8000, FRAME)
    buffer.push(packet(0), 0.0)
    drain(buffer, 0.0)
    verdicts = [buffer.push(packet(i), 0.0) for i in range(2, CAPACITY + 10)]
    assert verdicts.count("") == CAPACITY
    assert verdicts[-1] == "overflow"
    assert buffer.following() is None
    out = drain(buffer, 0.0)
    assert out[:3] == ["lost", 2, 3]


def test_following_is_the_packet_after_a_loss() -> None:
    buffer = JitterBuffer(8000, FRAME)
    buffer.push(packet(0), 0.0)
    drain(buffer, 0.0)
    buffer.push(packet(2), 0.04)
    assert isinstance(buffer.pop(0.1), Missing)
    assert buffer.following() == packet(2).payload


@pytest.mark.parametrize("ppm", [-200, 200])
def test_half_an_hour_with_a_clock_that_is_off(ppm: int) -> None:
    """No packet is called lost or late, and the wait stays where it belongs."""
    buffer = JitterBuffer(8000, FRAME)
    rng = np.random.default_rng(4)
    period = 0.02 * (1 - ppm * 1e-6)
    worst = 0.0
    for i in range(90_000):
        now = i * period + float(rng.uniform(0, 0.004))
        assert buffer.push(packet(i, start=0), now) == ""
        out = drain(buffer, now)
        assert out == [i & 0xFF]
        expected = buffer.timing.base + (buffer.timing.next_position - FRAME) / 8000
        worst = max(worst, now - expected)
        assert buffer.target <= 0.04
    assert worst < 0.02  # within a frame of the sender's own time


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(0, 0.3), st.booleans()), max_size=120),
    st.integers(0, 65535),
)
def test_whatever_comes_in_time_never_runs_back_and_never_runs_away(story: list[tuple[int, float, bool]], start: int) -> None:  # fmt: skip
    buffer = JitterBuffer(8000, FRAME)
    now, emitted, first = 0.0, 0, None
    heard: list[int] = []
    for index, wait, look in story:
        now += wait / 10
        if buffer.push(packet(index, start=start), now) == "" and first is None:
            first = now
        if look:
            while (item := buffer.pop(now)) is not None:
                emitted += FRAME if isinstance(item, Heard) else item.ticks
                if isinstance(item, Heard):
                    heard.append(item.packet.sequence)
        assert buffer.timing.emitted == emitted
    assert len(heard) == len(set(heard))
    elapsed = (now - (first or 0.0)) * 8000
    assert emitted <= elapsed + 8000 * 2.3 + len(heard) * FRAME
