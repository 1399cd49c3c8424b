"""Parts of a row against the evaluation of cases from which everything else was taken away."""

import numpy as np
import pytest

from detpretrain.comparison.row_metrics import RowMetrics
from detpretrain.comparison.rows import rows_of
from detpretrain.comparison.subsets import SIZES, SizeLimits, objects_of_size, of_class, of_size, sizes_of
from detpretrain.evaluation import matches
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.matching import match_case
from detpretrain.evaluation.metrics import evaluate, evaluate_matched


def cube(centre, side):
    return [centre - side / 2] * 3 + [centre + side / 2] * 3


def case_of(truths, found, name="a", ignored=()):
    """``truths``, ``found``: (centre, side) of cubes; detections score 0.9, 0.8, ..."""
    return Case(
        image_id=name,
        gt_boxes=np.array([cube(*truth) for truth in truths]).reshape(-1, 6),
        gt_labels=np.zeros(len(truths), int),
        gt_ignore=np.isin(np.arange(len(truths)), ignored).astype(int),
        pred_boxes=np.array([cube(*box) for box in found]).reshape(-1, 6),
        pred_labels=np.zeros(len(found), int),
        pred_scores=0.9 - 0.1 * np.arange(len(found)),
    )


def test_sizes_and_thirds():
    assert sizes_of(np.array([cube(0, 4.0), [0, 0, 0, 1, 8, 27], [1, 1, 1, 0, 2, 2]])).tolist() == pytest.approx(
        [4, 6, 0]
    )
    limits = SizeLimits.of([case_of([(0, side) for side in (1, 2, 3)], []), case_of([(0, 4), (0, 5), (0, 6)], [])])
    assert (limits.low, limits.high) == pytest.approx((2, 4))
    assert limits.third(np.array([0.5, 2, 2.1, 4, 4.1, 100])).tolist() == [0, 0, 1, 1, 2, 2]


def test_no_thirds_without_three_sizes():
    assert SizeLimits.of([case_of([(0, 3), (9, 3), (20, 5)], [])]) is None
    assert SizeLimits.of([case_of([], [])]) is None
    assert SizeLimits.of([case_of([(0, 1), (9, 2), (20, 3)], [], ignored=[0])]) is None
    assert (
        SizeLimits.of([case_of([(0, 1), (9, 2), (20, 3), (30, 3), (40, 3)], [])]) is None
    )  # the last third would be empty


def test_a_third_by_hand():
    """Small: one object found. The false positive of small size counts there, the large one among the large."""
    case = case_of([(0, 4), (30, 10), (60, 20)], [(0, 4), (100, 5), (60, 19), (200, 18), (30, 3)])
    matched, limits = match_case(case), SizeLimits(5.0, 12.0)
    small, medium, large = (of_size(matched, case, limits, third) for third in range(3))
    assert small.true_positive[0].tolist() == [True, False, False, False, False]
    assert small.false_positive[0].tolist() == [False, True, False, False, True]  # the last one's IoU is 0.027
    assert medium.true_positive[0].any() == np.False_
    assert medium.false_positive[0].any() == np.False_
    assert large.true_positive[0].tolist() == [False, False, True, False, False]
    assert large.false_positive[0].tolist() == [False, False, False, True, False]
    assert [int((~part.object_ignored).sum()) for part in (small, medium, large)] == [1, 1, 1]
    # a detection that is too small at IoU 0.50 is a miss there, and counts by its own size
    loose = case_of([(30, 10)], [(30, 6)])
    assert of_size(match_case(loose), loose, limits, 1).false_positive[8].tolist() == [True]
    tiny = case_of([(30, 10)], [(30, 4.9)])
    assert of_size(match_case(tiny), tiny, limits, 1).true_positive[0].tolist() == [True]
    assert of_size(match_case(tiny), tiny, limits, 1).false_positive[8].tolist() == [False]
    assert of_size(match_case(tiny), tiny, limits, 0).false_positive[8].tolist() == [True]


def test_thirds_share_out_objects_and_false_positives(make_table):
    table = make_table(patients=30)
    cases, matched = matches.cases(table), matches.matched_cases(table)
    limits = SizeLimits(9.5, 10.5)
    parts = [[of_size(m, c, limits, third) for m, c in zip(matched, cases, strict=True)] for third in range(3)]
    for name in ("true_positive", "false_positive"):
        whole = [getattr(m, name).sum(axis=1) for m in matched]
        shared = [sum(getattr(part[i], name).sum(axis=1) for part in parts) for i in range(len(matched))]
        assert np.array_equal(whole, shared)
    objects = [sum(int((~part[i].object_ignored).sum()) for part in parts) for i in range(len(matched))]
    assert objects == [int((~m.object_ignored).sum()) for m in matched]


def test_every_third_has_all_false_positives_in_froc_and_their_sensitivities_make_the_whole(make_table):
    table = make_table(patients=30)
    truths = table["kind"] == "truth"  # all of one size, which is 20 mm deep
    table.loc[truths, "z2"] += np.random.default_rng(0).choice([-10.0, 0.0, 20.0], truths.sum())
    (row,) = rows_of([("table", table)])
    cases, limits = matches.cases(table), SizeLimits(11.0, 14.0)
    thirds = [
        [objects_of_size(m, c, limits, third) for m, c in zip(row.cases, cases, strict=True)] for third in range(3)
    ]
    for third in thirds:
        for part, whole in zip(third, row.cases, strict=True):
            assert np.array_equal(part.false_positive, whole.false_positive)
    objects = np.array([sum(int((~case.object_ignored).sum()) for case in third) for third in thirds])
    assert (objects > 0).all()
    weights = np.random.default_rng(0).integers(0, 3, (5, int(row.patient_numbers.max()) + 1)).astype(float)
    weights[0] = 1
    found = RowMetrics.of_row(row, limits)(weights)
    for rate in ("sensitivity@0.125", "sensitivity@1", "sensitivity@8", "FROC@0.10"):
        shared = sum(objects[place] * found[size][rate][0] for place, size in enumerate(SIZES)) / objects.sum()
        assert shared == pytest.approx(found["all"][rate][0], abs=1e-12)


def test_boxes_that_are_too_large_are_not_spared_in_froc():
    """One small object found behind a false positive of another size: AP of the small does not see it, FROC does."""
    case = case_of([(0, 4), (30, 10), (60, 20)], [(200, 18), (0, 4)])
    limits = SizeLimits(5.0, 12.0)
    assert of_size(match_case(case), case, limits, 0).false_positive[0].tolist() == [False, False]
    assert objects_of_size(match_case(case), case, limits, 0).false_positive[0].tolist() == [True, False]


def test_a_class_is_the_evaluations_class(make_table):
    table = make_table(patients=30)
    whole = evaluate_matched(matches.matched_cases(table), 2)
    for label in range(2):
        part = evaluate_matched([of_class(case, label) for case in matches.matched_cases(table)], 2)
        expected = whole["per_class"][str(label)]
        assert part["AP@0.10"] == pytest.approx(expected["AP@0.10"], abs=1e-12)
        assert part["FROC@0.10"]["sensitivity"] == pytest.approx(expected["FROC@0.10"]["sensitivity"])


def test_all_objects_of_one_size_are_the_whole(make_table):
    table = make_table()
    cases, matched = matches.cases(table), matches.matched_cases(table)
    limits = SizeLimits(1e6, 2e6)
    part = evaluate_matched([of_size(m, c, limits, 0) for m, c in zip(matched, cases, strict=True)], 2)
    whole = evaluate(cases, 2)
    assert part["mAP@0.10:0.50"] == pytest.approx(whole["mAP@0.10:0.50"])
    assert part["FROC@0.10"]["sensitivity"] == pytest.approx(whole["FROC@0.10"]["sensitivity"])
