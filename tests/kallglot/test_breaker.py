from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.kallglot.breaker import Addresses, Breaker, RetryPolicy


def test_it_opens_after_three_failures_in_a_row_and_heals_by_one_trial() -> None:
    breaker = Breaker(threshold=3, cool_down=1.0)
    for _ in range(2):
        breaker.failed(10.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(10.0)
    assert breaker.allows(10.0)
    breaker.failed(10.0)
    assert breaker.open_until == 11.0
    assert not breaker.allows(10.9)
    assert breaker.allows(11.0)
    breaker.begin(11.0)
    assert not breaker.allows(11.5), "one trial at a time"
    breaker.succeeded()
    assert breaker.allows(11.5)
    assert breaker.open_until == 0.0


def test_each_further_failure_doubles_the_wait_up_to_the_longest() -> None:
    breaker = Breaker(threshold=1, cool_down=1.0, longest=5.0)
    waits = []
    for _ in range(5):
        breaker.failed(0.0)
        waits.append(breaker.open_until)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_trial_that_never_comes_back_does_not_block_for_ever() -> None:
    breaker = Breaker(threshold=1, cool_down=1.0)
    breaker.failed(0.0)
    breaker.begin(1.0)
    assert breaker.allows(2.0)


def test_begin_means_nothing_while_closed_or_open() -> None:
    breaker = Breaker(threshold=1)
    breaker.begin(0.0)
    assert breaker.closed
    breaker.failed(0.0)
    breaker.begin(0.5)
    assert breaker.open_until == 1.0


@given(st.lists(st.tuples(st.sampled_from(["ok", "bad", "begin"]), st.floats(0, 10)), max_size=50))
def test_it_always_heals(script: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for what, later in script:
        now += later
        if what == "ok":
            breaker.succeeded()
        elif what == "bad":
            breaker.failed(now)
        else:
            breaker.begin(now)
        assert breaker.open_until <= now + 30.0
    assert breaker.allows(now + 30.0)
    breaker.succeeded()
    assert breaker.closed


def test_addresses_keep_their_order() -> None:
    addresses = Addresses(["https://a/v1/", "https://b/v1"])
    assert addresses.urls == ("https://a/v1", "https://b/v1")
    for _ in range(3):
        addresses.breaker("https://a/v1").failed(0.0)
    assert addresses.allowed(0.5) == ["https://b/v1"]
    assert addresses.allowed(1.0) == ["https://a/v1", "https://b/v1"]
    assert addresses.breaker("https://elsewhere").closed


def test_there_must_be_an_address() -> None:
    with pytest.raises(ValueError, match="at least one base URL, found none"):
        Addresses([])


@given(st.integers(0, 10**6), st.integers())
def test_pauses_grow_and_stay_bounded(round_: int, seed: int) -> None:
    policy = RetryPolicy(base=0.2, cap=3.0)
    assert 0.1 <= policy.pause(round_, random.Random(seed)) <= 3.0
