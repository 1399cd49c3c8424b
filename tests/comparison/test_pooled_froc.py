"""The weighted FROC against the evaluation itself: as it stands, and on multisets of patients drawn in full."""

from pathlib import Path

import numpy as np
import pytest

from detpretrain.comparison import pooled_froc
from detpretrain.comparison.pooled_froc import Marks, PooledFROC, marks_by_iou
from detpretrain.comparison.rows import Row
from detpretrain.evaluation import froc, matches
from detpretrain.evaluation.metrics import evaluate_matched


def make_row(table):
    return Row(matches.Run("s", "nodules", "cv", "net", "scratch", 0), table, Path("row.parquet"))


def curve_of(row, threshold=0):
    return PooledFROC.of_cases([marks_by_iou(case, threshold) for case in row.cases], row.patient_numbers)


@pytest.mark.parametrize("decimals", [1, 2, 15])
@pytest.mark.parametrize(("threshold", "name"), [(0, "FROC@0.10"), (8, "FROC@0.50")])
def test_weight_one_is_the_evaluation(make_table, threshold, name, decimals):
    for seed in range(5):
        row = make_row(make_table(patients=25, decimals=decimals, seed_truth=seed, seed_finds=seed))
        expected = evaluate_matched(row.cases, num_classes=2)[name]["sensitivity"]
        assert curve_of(row, threshold)(np.ones((1, 25)))[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 15])
def test_weights_are_copies_of_patients(make_table, decimals):
    """Scores of one decimal tie within and between patients: there the curve has slopes."""
    row = make_row(make_table(patients=10, decimals=decimals))
    weights = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), size=60)
    found = curve_of(row)(weights)
    for r, draw in enumerate(weights):
        copies = [case for case, p in zip(row.cases, row.patient_numbers, strict=True) for _ in range(draw[p])]
        expected = evaluate_matched(copies, num_classes=2)["FROC@0.10"]["sensitivity"]
        assert found[r] == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    """Patient 0: a hit at 0.9; patient 1: a miss at 0.8, and a hit and a miss at 0.7. Three objects, two images."""
    marks = [
        Marks(np.array([0.9]), np.empty(0), 1),
        Marks(np.array([0.7]), np.array([0.8, 0.7]), 2),
    ]
    curve = PooledFROC.of_cases(marks, [0, 1])
    # (0, 1/3), (1/2, 1/3), slope to (1, 2/3)
    assert curve(np.array([[1, 1]]))[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    # patient 1 alone: (1, 0), slope to (2, 1/2)
    assert curve(np.array([[0, 1]]))[0] == pytest.approx([0, 0, 0, 0, 0.5, 0.5, 0.5])
    # twice patient 1, once patient 0: five objects, three images; false positives enter in pairs: (2/3, 1/5) to (4/3, 3/5)
    assert curve(np.array([[1, 2]]))[0] == pytest.approx([0.2, 0.2, 0.2, 0.4, 0.6, 0.6, 0.6])


def test_nothing_to_find_nothing_found_and_no_detection():
    empty = Marks(np.empty(0), np.empty(0), 0)
    missed = Marks(np.empty(0), np.array([0.5]), 1)
    found = PooledFROC.of_cases([empty, missed], [0, 1])(np.array([[1, 0], [0, 1]]))
    assert np.isnan(found[0]).all()
    assert found[1].tolist() == [0.0] * 7


def test_a_draw_without_any_hit_of_a_row_that_has_some():
    marks = [Marks(np.array([0.9]), np.empty(0), 1), Marks(np.empty(0), np.array([0.95]), 1)]
    assert PooledFROC.of_cases(marks, [0, 1])(np.array([[0, 2]]))[0].tolist() == [0.0] * 7


def test_chunks_do_not_show(make_table, monkeypatch):
    row = make_row(make_table())
    weights = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=30)
    whole = curve_of(row)(weights)
    monkeypatch.setattr(pooled_froc, "CHUNK_ELEMENTS", 10)
    assert np.array_equal(curve_of(row)(weights), whole)


def test_wrong_number_of_weights(make_table):
    with pytest.raises(ValueError, match="expected"):
        curve_of(make_row(make_table()))(np.ones((1, 3)))


def test_against_a_walk_over_the_detections():
    """Random scores with many ties, against numpy's interpolation of the evaluation's curve."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        marks = [
            Marks(rng.integers(0, 6, rng.integers(0, 4)) / 6, rng.integers(0, 6, rng.integers(0, 5)) / 6, 4)
            for _ in range(6)
        ]
        found, wrong = (np.concatenate([getattr(m, name) for m in marks]) for name in ("found", "false_positives"))
        hit = np.repeat([True, False], [len(found), len(wrong)])
        expected = froc.sensitivity_at(np.concatenate([found, wrong]), hit, 6, 24)
        assert PooledFROC.of_cases(marks, np.arange(6))(np.ones((1, 6)))[0] == pytest.approx(expected, abs=1e-12)
