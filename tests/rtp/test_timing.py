"""Wrapping numbers, deadlines and the wait before a talkspurt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.rtp.pacer import Deadlines
from kallglot_ari.rtp.playout import BOUND, CALM_BOUND, LEAST, MOST, PACKET, Prebuffer
from kallglot_ari.rtp.sequence import signed_distance


@pytest.mark.parametrize("bits", [16, 32])
@given(data=st.data())
def test_a_distance_is_the_shorter_way_round_whatever_has_wrapped(bits: int, data: st.DataObject) -> None:
    half = 1 << (bits - 1)
    old, step = data.draw(st.integers(0, 2**40)), data.draw(st.integers(-half, half - 1))
    assert signed_distance((old + step) % (1 << bits), old % (1 << bits), bits) == step


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


def test_one_punctual_piece_does_not_undo_what_was_learned() -> None:
    """A stream that stumbles now and then would run dry at each of those."""
    prebuffer = Prebuffer()
    prebuffer.arrived(0.02)
    for _ in range(10):
        prebuffer.arrived(0.0)
    assert prebuffer.delay == pytest.approx(0.033, rel=0.06)


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
