"""What a new stream is told of the time in which there was none."""

from __future__ import annotations

from kallglot_ari.calls.model import StreamAudio, UplinkChunk
from kallglot_ari.modes.replay import BEFORE, LONGEST, Replay


def chunk(at: float) -> UplinkChunk:
    return UplinkChunk(StreamAudio("mulaw", 8000, bytes(800)), round(at * 1000), at)


def speaking(replay: Replay, begin: int, end: int) -> None:
    """Both speak from `begin` to `end`, in tenths of a second."""
    for tenth in range(begin, end):
        replay.spoke("", "customer", chunk(tenth / 10))
        replay.spoke("", "agent", chunk(tenth / 10))


def test_nothing_without_a_loss() -> None:
    replay = Replay()
    speaking(replay, 0, 100)
    assert replay.take("", 10.0) == []


def test_what_was_on_its_way_and_what_was_said_since() -> None:
    replay = Replay()
    speaking(replay, 0, 100)
    replay.lost("", 10.0)
    speaking(replay, 100, 120)
    said = replay.take("", 12.0)
    assert [label for label, _ in said[:4]] == ["customer", "agent", "customer", "agent"]
    assert said[0][1].received_at == 10.0 - BEFORE
    assert said[-1][1].received_at == 11.9
    assert len(said) == 2 * 30
    assert replay.take("", 12.1) == [], "once"


def test_no_more_than_is_of_use() -> None:
    replay = Replay()
    replay.lost("", 0.0)
    speaking(replay, 0, 600)
    said = replay.take("", 60.0)
    assert said[0][1].received_at == 60.0 - LONGEST
    replay.lost("", 61.0)
    assert replay.take("", 90.0) == [], "the parties talked to each other meanwhile"


def test_each_link_has_its_own() -> None:
    replay = Replay()
    replay.spoke("l2", "agent", chunk(1.0))
    replay.lost("", 1.0)
    assert replay.take("l2", 1.5) == replay.take("", 1.5) == []
