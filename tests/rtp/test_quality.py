"""R and MOS by ITU-T G.107."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kallglot_ari.rtp.quality import EModel, mos, rate


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


def test_a_leg_is_rated_as_g711_with_concealment() -> None:
    """What alarms are set by: the same loss means the same MOS in every release."""
    r, score = rate(2.0, 20.0)
    assert r == pytest.approx(93.2 - 95 * 2 / (2 + 25.1), abs=0.05)
    assert score == pytest.approx(4.24, abs=0.01)
    assert rate(0.0, 100.0) == rate(0.0, 0.0)
    assert rate(0.0, 0.0)[0] == pytest.approx(93.2, abs=0.05)


def test_a_rating_of_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, found -1 %"):
        rate(-1, 0)
    with pytest.raises(ValueError, match="and -1 ms"):
        rate(0, -1)
