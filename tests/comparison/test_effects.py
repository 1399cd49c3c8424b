import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from detpretrain.comparison.effects import detectable_difference, effect_of
from detpretrain.comparison.multiplicity import holm, holm_within


def test_holm_by_hand():
    """Holm's own scheme: 0.01 x 4, 0.02 x 3, 0.03 x 2 (raised to the one before), 0.5 x 1."""
    assert holm(np.array([0.03, 0.01, 0.5, 0.02])).tolist() == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_holm_equals_statsmodels(seed):
    p = np.random.default_rng(seed).random(20).round(1 + seed) / 10  # with ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_leaves_out_what_has_no_p():
    assert holm(np.array([np.nan, 0.01, 0.04])).tolist() == pytest.approx([np.nan, 0.02, 0.04], nan_ok=True)
    assert holm(np.array([])).tolist() == []


def test_families_are_adjusted_apart():
    table = pd.DataFrame({"metric": ["a", "b", "a", "b"], "p": [0.01, 0.02, 0.04, np.nan]}, index=[3, 5, 7, 9])
    assert holm_within(table, ["metric"]).tolist() == pytest.approx([0.02, 0.02, 0.04, np.nan], nan_ok=True)
    assert holm_within(table.iloc[:0], ["metric"]).empty


def test_effect_of_a_mean_is_cohens_d():
    """The bootstrap of a mean has the standard error sd / sqrt(n)."""
    rng = np.random.default_rng(0)
    observed = rng.normal(0.3, 1.0, 50)
    draws = observed[rng.integers(0, 50, (20_000, 50))].mean(axis=1)
    found = effect_of(0.5 + observed.mean(), 0.5, draws, 50, 0.95)
    assert found.standardised == pytest.approx(observed.mean() / observed.std(ddof=1), rel=0.03)
    assert found.relative == pytest.approx(observed.mean() / 0.5)
    assert effect_of(0.6, 0.5, np.array([0.1, -0.1, 0.0, 0.2]), 4, 0.95).superiority == pytest.approx(2.5 / 4)


def test_what_is_not_defined_is_nan():
    found = effect_of(0.2, 0.0, np.full(3, np.nan), 1, 0.95)
    assert np.isnan([found.relative, found.superiority, found.standardised, found.detectable]).all()
    same = effect_of(0.2, 0.2, np.zeros(10), 5, 0.95)
    assert (same.relative, same.superiority, same.detectable) == (0.0, 0.5, 0.0)
    assert np.isnan(same.standardised)


def test_detectable_difference_has_the_stated_power():
    """A difference of that size, estimated with that error, is found in four of five studies."""
    size = detectable_difference(0.02, 0.95)
    assert size == pytest.approx((1.96 + 0.8416) * 0.02, rel=1e-4)
    assert np.mean(np.random.default_rng(1).normal(size, 0.02, 20_000) > 1.96 * 0.02) == pytest.approx(0.8, abs=0.02)
