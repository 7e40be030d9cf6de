"""Wrapping numbers, deadlines, numbering and the wait before a talkspurt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.rtp.pacer import Deadlines, Numbering
from kallglot_ari.rtp.playout import BOUND, CALM_BOUND, LEAST, MOST, PACKET, Prebuffer
from kallglot_ari.rtp.sequence import Unwrapper, signed_distance


@given(st.integers(0, 2**40), st.lists(st.integers(-30000, 30000), max_size=100))
def test_unwrapping_follows_any_walk(start: int, steps: list[int]) -> None:
    unwrapper = Unwrapper(16)
    true = furthest = start
    offset = unwrapper.unwrap(start & 0xFFFF) - start
    for step in steps:
        true = furthest + step
        assert unwrapper.unwrap(true & 0xFFFF) - offset == true
        furthest = max(furthest, true)


def test_unwrapping_at_the_edge() -> None:
    unwrapper = Unwrapper(16)
    assert unwrapper.peek(0x1FFFE) == 0xFFFE
    assert [unwrapper.unwrap(n) for n in (65534, 65535, 0, 65533, 1)] == [65534, 65535, 65536, 65533, 65537]
    assert signed_distance(0, 0xFFFFFFFF, 32) == 1
    assert signed_distance(0xFFFFFFFF, 0, 32) == -1
    with pytest.raises(ValueError, match="expected at least 2, found 1"):
        Unwrapper(1)


def test_deadlines_do_not_drift_and_catch_up_a_little() -> None:
    deadlines = Deadlines(0.02, 100.0, catch_up=3)
    assert deadlines.due(99.99) == (0, 0)
    assert deadlines.due(100.0) == (1, 0)
    assert deadlines.next == pytest.approx(100.02)
    assert deadlines.due(100.0199) == (0, 0)
    assert deadlines.due(100.045) == (2, 0)  # late, but the beat stays where it was
    assert deadlines.next == pytest.approx(100.06)
    assert deadlines.due(101.0) == (3, 45)
    assert deadlines.skipped == 45
    assert deadlines.next == pytest.approx(101.02)


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=100))
def test_every_beat_is_run_or_skipped_once(steps: list[float]) -> None:
    deadlines, now, total = Deadlines(0.02, 0.0, catch_up=4), 0.0, 0
    for step in steps:
        now += step
        run, skipped = deadlines.due(now)
        assert run <= 4
        total += run + skipped
    assert abs(total - (int(now / 0.02) + 1)) <= 1


def test_deadlines_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="period"):
        Deadlines(0, 0)
    with pytest.raises(ValueError, match="catch_up"):
        Deadlines(0.02, 0, catch_up=0)


def test_numbers_wrap_and_markers_begin_talkspurts() -> None:
    numbering = Numbering(65534, 2**32 - 320, 160)
    slots = [numbering.next(speech=speech) for speech in (False, True, True, False, True)]
    assert [slot.sequence for slot in slots] == [65534, 65535, 0, 1, 2]
    assert [slot.timestamp for slot in slots] == [2**32 - 320, 2**32 - 160, 0, 160, 320]
    assert [slot.marker for slot in slots] == [False, True, False, False, True]
    numbering.skip(3)
    assert numbering.next(speech=True).timestamp == 480 + 3 * 160
    with pytest.raises(ValueError, match="step"):
        Numbering(0, 0, 0)


def test_the_wait_before_a_talkspurt_follows_what_is_measured() -> None:
    prebuffer = Prebuffer()
    assert prebuffer.delay == pytest.approx(0.020, abs=0.001)
    for _ in range(2000):
        prebuffer.arrived(0.0005)
    assert prebuffer.delay == pytest.approx(LEAST)
    prebuffer.arrived(0.02)
    assert prebuffer.delay == pytest.approx(0.033)
    prebuffer.arrived(-3.0)  # a burst says nothing
    assert prebuffer.delay == pytest.approx(0.033)
    prebuffer.arrived(5.0)
    assert prebuffer.delay == MOST


@given(
    st.floats(-0.1, 0.3), st.floats(0, 0.010), st.floats(0, PACKET, exclude_max=True), st.lists(st.floats(0, 0.003), min_size=20, max_size=20)
)  # fmt: skip
def test_a_talkspurt_never_waits_past_the_bound(learned: float, pickup: float, phase: float, late: list[float]) -> None:
    """Whatever was learned and wherever the leg's packets lie: first packet within 40 ms, and not before it need be."""
    prebuffer = Prebuffer()
    prebuffer.arrived(learned)
    queued = 100.0 + pickup
    beats = [queued + phase + i * PACKET + jitter for i, jitter in enumerate(late)]
    first = next(beat for beat in beats if prebuffer.over(beat, queued, 100.0))
    assert first - 100.0 <= 0.040
    waited = first - queued
    assert waited >= min(prebuffer.delay, prebuffer.bound - PACKET - pickup)


def test_speech_that_was_long_under_way_begins_at_once() -> None:
    assert Prebuffer().over(100.0, 100.0, 99.5)
    assert not Prebuffer().over(100.0, 100.0, 100.0)


def test_a_calm_stream_waits_less_and_one_that_stumbles_more() -> None:
    prebuffer = Prebuffer()
    assert prebuffer.bound == CALM_BOUND
    prebuffer.arrived(0.015)
    assert prebuffer.bound == BOUND
    for _ in range(200):
        prebuffer.arrived(0.001)
    assert prebuffer.bound == CALM_BOUND
