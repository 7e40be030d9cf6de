"""Loss and jitter by RFC 3550, R and MOS by ITU-T G.107."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.rtp.quality import EModel, Reception, mos, rate


def test_the_recommendations_default_values_give_its_r() -> None:
    """G.107 §7.7: all parameters at their default give R = 93.2."""
    assert EModel().r() == pytest.approx(93.2, abs=0.05)
    assert mos(93.2) == pytest.approx(4.41, abs=0.005)


@pytest.mark.parametrize(("r", "expected"), [(90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58), (0, 1.0), (-5, 1.0), (100, 4.5), (120, 4.5), (3, 1.0)])  # fmt: skip
def test_mos_of_r_by_annex_b(r: float, expected: float) -> None:
    """Table B.1 gives 4.34, 4.03, 3.60, 3.10 and 2.58 for the limits of its categories."""
    assert mos(r) == pytest.approx(expected, abs=0.007)


def test_delay_hurts_from_100_ms_on() -> None:
    assert EModel(ta=100).r() == EModel().r()
    # §7.4, equation 7-27 at Ta = 200: X = 1, so 25 (2**(1/6) - 3 (1 + 3**-6)**(1/6) + 2)
    expected = 25 * (2 ** (1 / 6) - 3 * (1 + 3.0**-6) ** (1 / 6) + 2)
    assert EModel().r() - EModel(ta=200).r() == pytest.approx(expected)
    assert EModel(ta=400).r() < EModel(ta=300).r() < EModel(ta=200).r()


def test_echo_and_side_tone_hurt() -> None:
    assert EModel(t=100, tr=200, ta=100, telr=35).r() < EModel(t=100, tr=200, ta=100).r() < EModel().r()
    assert EModel(stmr=5).r() < EModel().r()
    assert EModel(qdu=14).r() < EModel().r()


def test_loss_by_equation_7_29() -> None:
    assert EModel().r() - EModel(ppl=4.3).r() == pytest.approx(95 / 2)
    assert EModel(ppl=2, bpl=25.1).r() - EModel(ppl=2).r() > 20  # concealment is worth that much
    assert EModel(ie=11).r() == pytest.approx(EModel().r() - 11)
    assert EModel(a=5).r() == pytest.approx(EModel().r() + 5)


@given(st.floats(0, 100), st.floats(0, 2000))
def test_a_rating_is_a_rating(loss: float, delay: float) -> None:
    r, score = rate(loss, delay)
    assert r <= 93.3
    assert 1.0 <= score <= 4.5


def test_a_rating_of_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, found -1 %"):
        rate(-1, 0)


def test_reception_counts_across_the_wrap() -> None:
    reception = Reception(8000)
    assert reception.lost == 0
    for i in range(100):
        if i not in (5, 50):
            reception.arrived((65490 + i) & 0xFFFF, (160 * i - 3000) & 0xFFFFFFFF, i * 0.02)
    assert (reception.received, reception.lost, reception.reordered) == (98, 2, 0)
    assert reception.jitter == pytest.approx(0.0, abs=1e-9)


def test_reordering_is_not_loss() -> None:
    reception = Reception(8000)
    for i in (2, 1, 3, 5, 4):  # even the first may be overtaken
        reception.arrived(i, 160 * i, i * 0.02)
    assert (reception.received, reception.lost, reception.reordered) == (5, 0, 2)


def test_jitter_by_appendix_a8() -> None:
    reception = Reception(8000)
    expected, before = 0.0, 0.0
    for i in range(200):
        late = 0.004 if i % 2 else 0.0
        reception.arrived(i, 160 * i, i * 0.02 + late)
        if i:
            expected += (abs(late - before) - expected) / 16
        before = late
    assert reception.jitter == pytest.approx(expected)
    assert reception.jitter == pytest.approx(0.004, rel=0.01)


def test_a_source_that_starts_anew_keeps_the_loss_counted_so_far() -> None:
    reception = Reception(8000)
    for i in (1, 2, 4):
        reception.arrived(i, 160 * i, i * 0.02)
    for i in (30000, 30001, 30003):
        reception.arrived(i, 160 * i, i * 0.02)
    assert reception.lost == 2
