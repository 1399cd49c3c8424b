"""The bootstrap against closed forms, known tails and a small simulation of its error rate."""

import numpy as np
import pytest
from scipy import stats

from detpretrain.comparison.bootstrap import interval, p_value, paired_difference, patient_draws


def test_draws_are_multinomial_counts():
    draws = patient_draws(30, 4000, 0, "a/cv")
    assert draws.shape == (4000, 30)
    assert (draws.sum(axis=1) == 30).all()
    # Marginally binomial(30, 1/30): mean 1, variance 29/30, each mean of 4000 within 5 standard errors.
    assert np.abs(draws.mean(axis=0) - 1).max() < 5 * np.sqrt(29 / 30 / 4000)
    assert draws.var() == pytest.approx(29 / 30, rel=0.03)


def test_draws_depend_on_seed_and_name_alone():
    first = patient_draws(10, 50, 3, "a/cv")
    assert np.array_equal(first, patient_draws(10, 50, 3, "a/cv"))
    assert not np.array_equal(first, patient_draws(10, 50, 4, "a/cv"))
    assert not np.array_equal(first, patient_draws(10, 50, 3, "b/cv"))


def test_interval_of_a_mean_agrees_with_normal_theory():
    values = np.random.default_rng(1).normal(2.0, 3.0, 400)
    means = patient_draws(400, 4000, 0, "mean") @ values / 400
    low, high = interval(means, 0.9)
    half = stats.norm.ppf(0.95) * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_leaves_out_undefined_draws():
    assert interval(np.array([np.nan, 0.0, 1.0, np.nan]), 0.5) == (0.25, 0.75)
    assert np.isnan(interval(np.array([np.nan]), 0.95)).all()


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        (np.full(1999, 0.1), 2 / 2000),  # every draw above 0
        (-np.full(1999, 0.1), 2 / 2000),
        (np.zeros(1999), 1.0),  # two equal rows
        (np.r_[np.full(95, 1.0), np.full(4, -1.0)], 2 * 5 / 100),
        (np.r_[np.full(95, 1.0), np.full(4, -1.0), np.nan, np.nan], 2 * 5 / 100),
    ],
)
def test_p_value_by_hand(draws, expected):
    assert p_value(draws) == pytest.approx(expected)


def test_p_value_without_a_defined_draw():
    assert np.isnan(p_value(np.array([np.nan])))


def test_paired_difference_keeps_the_pairs():
    """Rows that differ by a constant for every patient: no width, however far the patients are apart."""
    values = np.random.default_rng(2).normal(0, 10, 40)
    draws = patient_draws(40, 500, 0, "x")
    found = paired_difference(
        values.mean() + 0.5, values.mean(), draws @ (values + 0.5) / 40, draws @ values / 40, 0.95
    )
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.p == pytest.approx(2 / 501)


def test_paired_difference_refuses_draws_of_different_number():
    with pytest.raises(ValueError, match="paired draws"):
        paired_difference(0, 0, np.zeros(3), np.zeros(4), 0.95)


def test_false_positive_rate_without_an_effect():
    generator = np.random.default_rng(5)
    draws = patient_draws(60, 399, 0, "null") / 60
    differences = generator.normal(0, 1, (1000, 60))
    p = np.array([p_value(draws @ line) for line in differences])
    assert 0.03 < (p <= 0.05).mean() < 0.08
