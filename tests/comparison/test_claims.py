"""Claims: contrasts by hand, verdicts over all cases, and end to end on rows with a planted effect."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.comparison import claims
from detpretrain.comparison.claims import CONTRADICTED, NOT_SUPPORTED, SUPPORTED, TOO_LITTLE, verdict
from detpretrain.comparison.rows import Row
from detpretrain.comparison.scoring import Score, ScoredRow
from detpretrain.comparison.settings import CompareSettings
from detpretrain.evaluation.matches import Run

KINDS = {"mae": "reconstruction", "mg": "reconstruction", "voco": "contrastive", "multitalent": "supervised"}


def scored(init, value, draws=(0.0, 0.0), dataset="a", detector="net", seed=0, test_set="cv"):
    """``draws``: of the score, relative to its value."""
    key = Run("s", dataset, test_set, detector, init, seed)
    score = Score(value, np.empty(0), value + np.asarray(draws, dtype=float))
    return ScoredRow(Row(key, pd.DataFrame(), None), {"all": {"AP@0.10": score}}, pd.DataFrame())


def judged(rows, **settings):
    return {found.claim.name: found for found in claims.judge(rows, KINDS, CompareSettings(**settings))}


def test_contrasts_by_hand():
    rows = [
        scored("scratch", 0.30),
        scored("mae", 0.40),
        scored("mg", 0.36),
        scored("multitalent", 0.33),
        scored("voco", 0.31),
        scored("scratch", 0.50, dataset="b"),
        scored("mae", 0.52, dataset="b"),
    ]
    found = judged(rows)
    # a: mean of four inits 0.35 - 0.30; b: 0.02
    assert found["C1"].estimate == pytest.approx((0.05 + 0.02) / 2)
    assert (found["C1"].datasets, found["C1"].comparisons) == (2, 2)
    assert found["C2"].estimate == pytest.approx(0.38 - 0.33)
    assert (found["C2"].verdict, found["C2"].reason) == (TOO_LITTLE, "1 data set: the claim is about several")
    assert found["C3"].estimate == pytest.approx(0.01)


def test_every_data_set_weighs_the_same():
    """Two seeds and two detectors in one data set do not outweigh another data set."""
    rows = [scored("scratch", 0.0, dataset=d, detector=n, seed=s) for d, n, s in
            (("a", "x", 0), ("a", "x", 1), ("a", "y", 0), ("b", "x", 0))]  # fmt: skip
    rows += [
        scored("mae", 0.2, detector="x"),
        scored("mae", 0.4, detector="x", seed=1),
        scored("mae", 0.9, detector="y"),
        scored("mae", 0.1, dataset="b", detector="x"),
    ]
    assert judged(rows)["C1"].estimate == pytest.approx(((0.3 + 0.9) / 2 + 0.1) / 2)


def test_draws_are_averaged_as_the_values_are():
    wide = np.linspace(-0.1, 0.1, 2001)
    rows = [scored("scratch", 0.3, np.zeros(2001), dataset=d) for d in "ab"]
    rows += [scored("mae", 0.4, wide if d == "a" else np.zeros(2001), dataset=d) for d in "ab"]
    found = judged(rows)["C1"]
    assert (found.low, found.high) == pytest.approx((0.1 - 0.0475, 0.1 + 0.0475), abs=1e-3)
    assert found.verdict == SUPPORTED
    assert found.p == pytest.approx(2 / 2002)


def test_a_study_without_one_side_has_no_contrast():
    found = judged([scored("scratch", 0.3), scored("mae", 0.4)])
    assert np.isnan(found["C2"].estimate)
    assert (found["C2"].verdict, found["C2"].reason) == (TOO_LITTLE, "no data set has rows of both sides")
    assert found["C2"].comparisons == 0
    assert np.isnan(judged([scored("scratch", 0.3), scored("unknown", 0.4)])["C1"].estimate)


@pytest.mark.parametrize(
    ("low", "high", "null", "expected"),
    [
        (0.01, 0.05, False, SUPPORTED),
        (-0.05, -0.01, False, CONTRADICTED),
        (-0.05, 0.01, False, NOT_SUPPORTED),
        (-0.01, 0.03, False, TOO_LITTLE),
        (-0.01, 0.01, True, SUPPORTED),
        (0.001, 0.01, True, SUPPORTED),  # a difference, but none that matters
        (0.03, 0.05, True, CONTRADICTED),
        (-0.05, -0.03, True, CONTRADICTED),
        (0.01, 0.05, True, NOT_SUPPORTED),
        (-0.05, -0.01, True, NOT_SUPPORTED),
        (-0.01, 0.03, True, TOO_LITTLE),
        (-0.03, 0.03, True, TOO_LITTLE),
        (np.nan, np.nan, True, TOO_LITTLE),
        (np.nan, np.nan, False, TOO_LITTLE),
    ],
)
def test_verdicts(low, high, null, expected):
    assert verdict(low, high, null, margin=0.02) == expected


def test_p_of_equivalence_by_hand():
    draws = np.array([-0.03, 0.0, 0.01, 0.025, 0.03, np.nan])
    assert claims.p_of_equivalence(draws, 0.02) == pytest.approx(3 / 6)
    assert claims.p_of_equivalence(np.zeros(99), 0.02) == pytest.approx(0.01)
    assert np.isnan(claims.p_of_equivalence(np.array([np.nan]), 0.02))


def test_equivalence_p_is_below_its_level_when_the_interval_lies_within_the_margins():
    draws = np.random.default_rng(0).normal(0.0, 0.008, 4000)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert verdict(low, high, True, 0.02) == SUPPORTED
    assert claims.p_of_equivalence(draws, 0.02) < 0.05
