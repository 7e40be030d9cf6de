from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.ari.backoff import Backoff
from kallglot_ari.ari.versions import FEATURES, UNKNOWN, Version, has, parse_version, written


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("22.10.1~dfsg+~cs6.17.60671434-1", (22, 10, 1)),
        ("16.28.0~dfsg-0+deb11u4", (16, 28, 0)),
        ("20.7", (20, 7, 0)),
        ("certified/18.9-cert4", (18, 9, 0)),
        ("certified-20.7-cert2", (20, 7, 0)),
        ("GIT-22-abc1234", (22, 999, 0)),
        ("GIT-master-abc1234", (999, 0, 0)),
        ("GIT-22ab34", UNKNOWN),
        ("SVN-branch-r1", UNKNOWN),
        ("", UNKNOWN),
        ("22", UNKNOWN),
        ("UNKNOWN__and_probably_unsupported", UNKNOWN),
    ],
)
def test_parse(text: str, version: Version) -> None:
    assert parse_version(text) == version


@given(st.text())
def test_parse_takes_anything(text: str) -> None:
    assert len(parse_version(text)) == 3


@pytest.mark.parametrize(
    ("version", "feature", "expected"),
    [
        ((16, 5, 9), "external_media", False),
        ((16, 6, 0), "external_media", True),
        ((17, 0, 0), "external_media", False),
        ((18, 0, 0), "external_media", True),
        ((18, 19, 9), "refer", False),
        ((19, 8, 0), "refer", False),
        ((20, 5, 0), "refer", True),
        ((20, 13, 0), "transfer_progress", True),
        ((21, 7, 0), "transfer_progress", False),
        ((22, 2, 0), "transfer_progress", False),
        ((22, 3, 0), "transfer_progress", True),
        ((23, 0, 0), "transfer_progress", True),
        ((21, 99, 0), "broadcast", False),
        ((23, 0, 0), "broadcast", False),
        ((24, 0, 0), "broadcast", True),
        ((22, 6, 0), "websocket_media", True),
        (UNKNOWN, "external_media", False),
    ],
)
def test_features_by_version(version: Version, feature: str, expected: bool) -> None:
    assert has(version, FEATURES[feature]) is expected


def test_what_has_no_since_was_always_there() -> None:
    assert has((1, 0, 0), ())


def test_since_for_people() -> None:
    assert written(((22, 3, 0), (20, 13, 1))) == "20.13.1, 22.3"


def test_waits_double_up_to_the_longest_and_begin_again() -> None:
    backoff = Backoff(0.1, 5.0, jitter=lambda: 1.0)
    assert [round(backoff.next(), 6) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    backoff.reset()
    assert backoff.next() == pytest.approx(0.1)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 30))
def test_jitter_stays_between_half_and_whole(jitter: float, steps: int) -> None:
    backoff = Backoff(0.1, 5.0, jitter=lambda: jitter)
    waits = [backoff.next() for _ in range(steps)]
    assert all(0.05 <= wait <= 5.0 for wait in waits)
