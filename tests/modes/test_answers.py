"""What a leg was told last, and how long an interrupted answer stays interrupted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.calls.interfaces import StreamSpeech
from kallglot_ari.calls.model import StreamAudio
from kallglot_ari.modes.answers import ANSWER_GAP, REPEAT_MAX, Answers


def speech(at: float, size: int = 800) -> StreamSpeech:
    return StreamSpeech("agent", StreamAudio("mulaw", 8000, bytes(size)), received_at=at)


def test_the_last_answer_is_kept_and_a_pause_begins_another() -> None:
    answers = Answers()
    for at in (0.0, 0.1, 0.2, 0.2 + ANSWER_GAP + 0.01, 0.7):
        answers.keep("a", speech(at))
    assert [piece.received_at for piece in answers.last("a")] == [0.2 + ANSWER_GAP + 0.01, 0.7]
    assert answers.last("b") == ()


def test_a_long_answer_is_kept_from_its_end() -> None:
    answers = Answers()
    for n in range(10):
        answers.keep("a", speech(n * 0.1, REPEAT_MAX // 4))
    assert [piece.received_at for piece in answers.last("a")] == [n * 0.1 for n in range(6, 10)]


@given(st.lists(st.floats(0, 2 * ANSWER_GAP), max_size=20))
def test_an_interrupted_answer_is_over_with_the_first_gap(gaps: list[float]) -> None:
    answers = Answers()
    answers.interrupted("a", 0.0)
    now, over = 0.0, False
    for gap in gaps:
        before, now = now, now + gap
        over = over or now - before > ANSWER_GAP
        assert answers.cut_off("a", now) is not over
        assert not answers.cut_off("b", now)
