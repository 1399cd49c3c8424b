"""Ranks by hand, and the tests against scikit-posthocs, scipy and Demsar's own table."""

import numpy as np
import pytest
import scikit_posthocs
from scipy import stats

from detpretrain.comparison.ranking import cliques, friedman, nemenyi, rank, ranks

# Demsar 2006, table 6: AUC of C4.5, +m, +cf, +m+cf on 14 data sets
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931], [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip


def test_ranks_with_ties_by_hand():
    assert ranks(np.array([[0.5, 0.7, 0.7, 0.1], [1, 1, 1, 1]])).tolist() == [[3, 1.5, 1.5, 4], [2.5, 2.5, 2.5, 2.5]]


def test_demsars_example():
    """Mean ranks 3.143, 2.000, 2.893, 1.964; chi-squared 9.28 with 3 degrees of freedom; CD at 0.10: 1.12."""
    found = rank(DEMSAR, DEMSAR[None], 0.90)
    assert found.mean_rank == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    # his statistic is not corrected for ties, scipy's is
    assert stats.chi2.sf(9.28, 3) == pytest.approx(0.0258, abs=1e-3)
    assert 0.015 < found.friedman_p < 0.0258
    assert found.critical_difference == pytest.approx(2.291 * np.sqrt(4 * 5 / (6 * 14)), abs=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_nemenyi_agrees_with_scikit_posthocs(seed):
    """Two columns differ at 0.05 there exactly when their mean ranks are further apart than the critical difference."""
    scores = np.random.default_rng(seed).normal(size=(10, 5)) + np.arange(5) * 0.6
    p = scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy()
    mean_rank = ranks(scores).mean(axis=0)
    apart = np.abs(mean_rank[:, None] - mean_rank) > nemenyi(5, 10, 0.95)
    assert np.array_equal(p < 0.05, apart)
    assert apart.any()


def test_friedman_of_what_always_ties():
    assert friedman(np.ones((4, 3))) == 1.0


def test_distribution_over_draws():
    """Two data sets; in half of the draws the second init overtakes in both of them, in all draws the third is last."""
    draws = np.array([[[0.9, 0.5, 0.1]] * 2, [[0.4, 0.5, 0.1]] * 2] * 50)
    found = rank(np.array([[0.9, 0.5, 0.1]] * 2), draws, 0.95)
    assert found.best.tolist() == [0.5, 0.5, 0.0]
    assert (found.low.tolist(), found.high.tolist()) == ([1, 1, 3], [2, 2, 3])
    tied = rank(np.array([[0.5, 0.5, 0.1]]), np.array([[[0.5, 0.5, 0.1]]]), 0.95)
    assert tied.best.tolist() == [0.5, 0.5, 0.0]


def test_one_data_set_and_two_inits_have_no_test():
    one = rank(np.array([[0.3, 0.2, 0.1]]), np.array([[[0.3, 0.2, 0.1]]]), 0.95)
    assert np.isnan([one.friedman_p, one.critical_difference]).all()
    two = rank(np.array([[0.3, 0.2]] * 4), np.array([[[0.3, 0.2]] * 4]), 0.95)
    assert np.isnan([two.friedman_p, two.critical_difference]).all()


def test_undefined_draws_are_left_out():
    draws = np.array([[[0.3, 0.2]], [[np.nan, 0.2]]])
    assert rank(np.array([[0.3, 0.2]]), draws, 0.95).best.tolist() == [1.0, 0.0]
    nothing = rank(np.array([[0.3, 0.2]]), draws[1:], 0.95)
    assert np.isnan([nothing.best, nothing.low, nothing.high]).all()


def test_cliques_by_hand():
    assert cliques(np.array([3.0, 1.0, 1.5, 2.2]), 1.0) == [(1, 2), (2, 3), (3, 0)]
    assert cliques(np.array([1.0, 1.2, 1.4]), 1.0) == [(0, 1, 2)]
    assert cliques(np.array([1.0, 3.0]), 1.0) == []
