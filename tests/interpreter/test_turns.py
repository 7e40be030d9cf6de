from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.interpreter.turns import (
    CLAUSE_PAUSE_MS,
    CUT_AFTER_MS,
    HANGOVER_MAX_MS,
    HANGOVER_MIN_MS,
    WINDOW_MS,
    Kind,
    TurnDetector,
    TurnEvent,
)


def run(detector: TurnDetector, *parts: tuple[float, int]) -> list[TurnEvent]:
    """Each part: a probability for so many milliseconds."""
    return [event for probability, ms in parts for _ in range(ms // WINDOW_MS) for event in detector.step(probability)]


def kinds(events: list[TurnEvent]) -> list[Kind]:
    return [event.kind for event in events]


def test_a_turn_starts_pauses_and_ends_once() -> None:
    detector = TurnDetector()
    events = run(detector, (0.0, 320), (0.9, 1600), (0.0, 1600))
    assert kinds(events) == [Kind.STARTED, Kind.PAUSED, Kind.ENDED]
    assert events[0].window == 10
    assert events[1].window == events[2].window == 60
    assert HANGOVER_MIN_MS <= events[2].silence_ms <= HANGOVER_MAX_MS + WINDOW_MS
    assert not detector.open


def test_a_click_is_no_turn() -> None:
    assert run(TurnDetector(), (0.0, 320), (0.9, 32), (0.0, 320)) == []


def test_between_the_thresholds_nothing_changes() -> None:
    detector = TurnDetector()
    assert kinds(run(detector, (0.4, 960))) == []
    assert kinds(run(detector, (0.9, 320), (0.4, 1600))) == [Kind.STARTED]


def test_going_on_takes_the_pause_back() -> None:
    events = run(TurnDetector(), (0.9, 640), (0.0, 256), (0.9, 640), (0.0, 1600))
    assert kinds(events) == [Kind.STARTED, Kind.PAUSED, Kind.RESUMED, Kind.PAUSED, Kind.ENDED]


def test_a_whole_sentence_ends_the_turn_sooner() -> None:
    detector = TurnDetector()
    run(detector, (0.9, 960), (0.0, 224))
    before = detector.hangover_ms
    detector.hint(complete=True)
    assert detector.hangover_ms == HANGOVER_MIN_MS < before


def test_a_hint_outside_a_pause_is_ignored() -> None:
    detector = TurnDetector()
    run(detector, (0.9, 960))
    before = detector.hangover_ms
    detector.hint(complete=True)
    assert detector.hangover_ms == before


def test_the_hangover_learns_from_pauses_and_forgets() -> None:
    detector = TurnDetector()
    start = detector.hangover_ms
    run(detector, (0.9, 640), (0.0, 416), (0.9, 640))
    learnt = detector.hangover_ms
    assert start < learnt <= HANGOVER_MAX_MS
    run(detector, (0.0, 1600), *[(0.9, 640), (0.0, 1600)] * 30)
    assert detector.hangover_ms < start


def test_an_end_that_came_too_early_is_learnt() -> None:
    detector = TurnDetector()
    run(detector, (0.9, 640), (0.0, 512))
    assert not detector.open
    run(detector, (0.9, 128))
    assert detector.hangover_ms >= 512


def test_a_long_turn_is_cut_at_every_pause() -> None:
    events = run(TurnDetector(), (0.9, 4800), (0.0, 224), (0.9, 640))
    assert kinds(events) == [Kind.STARTED, Kind.PAUSED, Kind.ENDED, Kind.STARTED]
    assert CLAUSE_PAUSE_MS <= events[2].silence_ms < HANGOVER_MIN_MS


def test_speech_without_a_pause_is_cut_at_its_quietest_place() -> None:
    events = run(TurnDetector(), (0.9, CUT_AFTER_MS - 960), (0.6, 32), (0.9, 960))
    assert kinds(events) == [Kind.STARTED, Kind.ENDED, Kind.STARTED]
    assert events[1].window == events[2].window == (CUT_AFTER_MS - 960) // WINDOW_MS
    assert events[1].silence_ms == 0


def test_flush_ends_what_is_open_and_only_that() -> None:
    detector = TurnDetector()
    assert detector.flush() == []
    run(detector, (0.9, 640))
    assert kinds(detector.flush()) == [Kind.ENDED]
    assert detector.flush() == []


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 80)), max_size=40))
def test_events_always_alternate_and_no_piece_is_too_long(parts: list[tuple[float, int]]) -> None:
    detector = TurnDetector()
    is_open = paused = False
    start = last = 0
    for event in [*run(detector, *((p, n * WINDOW_MS) for p, n in parts)), *detector.flush()]:
        assert event.window >= last or event.kind is Kind.STARTED
        if event.kind is Kind.STARTED:
            assert not is_open
            assert event.window >= last
            is_open, paused, start = True, False, event.window
        elif event.kind is Kind.PAUSED:
            assert is_open
            assert not paused
            paused = True
        elif event.kind is Kind.RESUMED:
            assert paused
            paused = False
        else:
            assert is_open
            is_open = False
            assert (event.window - start) * WINDOW_MS <= CUT_AFTER_MS + WINDOW_MS
            last = event.window
    assert not is_open
    assert detector.open is False


@pytest.mark.parametrize("value", [0.0, 0.3499])
def test_silence_alone_never_does_anything(value: float) -> None:
    assert run(TurnDetector(), (value, 32000)) == []
