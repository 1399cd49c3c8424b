"""The weighted AP against the evaluation itself: as it stands, and on multisets of patients drawn in full."""

from pathlib import Path

import numpy as np
import pytest

from detpretrain.comparison.pooled_ap import PooledAP
from detpretrain.comparison.rows import Row, summarise_ap
from detpretrain.evaluation import matches
from detpretrain.evaluation.matching import MatchedCase
from detpretrain.evaluation.metrics import evaluate_matched

AP_NAMES = ("AP@0.10", "mAP@0.10:0.50", "AP@0.50")


def make_row(table):
    return Row(matches.Run("s", "nodules", "cv", "net", "scratch", 0), table, Path("row.parquet"))


def weighted(row, weights):
    return summarise_ap(PooledAP.of_cases(row.cases, row.patient_numbers)(np.atleast_2d(weights)))


@pytest.mark.parametrize("decimals", [2, 15])
@pytest.mark.parametrize("seed", range(5))
def test_weight_one_is_the_evaluation(make_table, seed, decimals):
    row = make_row(make_table(patients=25, decimals=decimals, seed_truth=seed, seed_finds=seed))
    expected = evaluate_matched(row.cases, num_classes=2)
    found = weighted(row, np.ones(25))
    assert 0.1 < expected["AP@0.10"] < 0.9
    assert [found[name][0] for name in AP_NAMES] == pytest.approx([expected[name] for name in AP_NAMES], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_copies_of_patients(make_table, seed):
    """Each draw equals the evaluation of the cases of its patients, taken as often as they were drawn."""
    row = make_row(make_table(patients=10, seed_truth=seed, seed_finds=seed))
    weights = np.random.default_rng(seed).multinomial(10, np.full(10, 0.1), size=40)
    found = weighted(row, weights)
    for r, draw in enumerate(weights):
        copies = [case for case, p in zip(row.cases, row.patient_numbers, strict=True) for _ in range(draw[p])]
        expected = evaluate_matched(copies, num_classes=2)
        assert [found[n][r] for n in AP_NAMES] == pytest.approx([expected[n] for n in AP_NAMES], abs=1e-12)


def test_by_hand():
    """Two objects in two patients; hit at 0.9 (patient 0), miss at 0.8 (patient 1), hit at 0.7 (patient 1)."""

    def case(name, scores, truth):
        n = len(scores)
        return MatchedCase(
            name,
            np.zeros(n, int),
            np.array(scores),
            np.arange(n),
            np.array([truth]),
            np.zeros((1, n)),
            np.zeros(1, int),
            np.zeros(1, bool),
        )

    ap = PooledAP.of_cases([case("a", [0.9], [0]), case("b", [0.8, 0.7], [-1, 0])], [0, 1])
    # Recall 0.5 at precision 1 (points 0 .. 0.50: 51), then recall 1 at 2/3 (50 points).
    both = (51 + 50 * 2 / 3) / 101
    # Patient 1 twice: 3 objects, precision 1 up to recall 1/3 (34 points), then 3 hits of 5 (67 points).
    twice = (34 + 67 * 3 / 5) / 101
    # Patient 0 alone: all found. Patient 1 alone: one hit of two.
    assert ap(np.array([[1, 1], [1, 2], [1, 0], [0, 1]]))[:, 0] == pytest.approx([both, twice, 1.0, 0.5])


def test_draw_without_objects_is_not_defined(make_table):
    table = make_table(patients=30)
    row = make_row(table)
    patients = np.unique(row.case_lines["patient"].to_numpy(str))
    empty = set(patients) - set(table.loc[(table["kind"] == "truth") & ~table["ignored"], "patient"])
    assert empty, "the seed has to give a patient without objects"
    weights = np.isin(patients, list(empty)).astype(float)
    assert np.isnan(weighted(row, weights)["AP@0.10"]).all()


def test_row_without_objects_and_row_without_detections(make_table):
    table = make_table()
    no_objects = make_row(table[table["kind"] == "case"])
    assert np.isnan(weighted(no_objects, np.ones((3, 12)))["AP@0.10"]).all()
    no_detections = make_row(table[table["kind"] != "detection"])
    assert (weighted(no_detections, np.ones((3, 12)))["AP@0.10"] == 0).all()


def test_chunks_do_not_show(make_table, monkeypatch):
    row = make_row(make_table())
    weights = np.random.default_rng(0).integers(0, 3, (50, 12))
    whole = weighted(row, weights)["mAP@0.10:0.50"]
    monkeypatch.setattr("detpretrain.comparison.pooled_ap.CHUNK_ELEMENTS", 64)
    assert np.array_equal(whole, weighted(row, weights)["mAP@0.10:0.50"], equal_nan=True)


def test_wrong_number_of_weights(make_table):
    row = make_row(make_table())
    with pytest.raises(ValueError, match=r"expected \[draws, 12\]"):
        weighted(row, np.ones(11))
