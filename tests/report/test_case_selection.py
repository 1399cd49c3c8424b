"""The cases and slices that are shown, against the evaluation and by hand."""

import numpy as np
import pytest

from detpretrain.evaluation import matches
from detpretrain.report.case_selection import case_scores, choose_cases, choose_slices, display_threshold


def test_case_scores_are_those_of_the_evaluation(study):
    row = study.rows[-1]
    found = case_scores(row)
    assert set(found["case"]) == {"case_1", "case_2", "case_3", "case_5"}  # 0 and 4 hold no object
    for line in found.itertuples():
        expected = matches.metrics(row.table[row.table["case"] == line.case], num_classes=1)
        assert line[2] == pytest.approx(expected["AP@0.10"])
        assert line[3] == pytest.approx(expected["mAP@0.10:0.50"])


def test_best_median_and_worst(study):
    row = study.rows[-1]
    scores = case_scores(row)
    chosen = choose_cases(row)
    assert [entry.rank for entry in chosen] == ["best", "median", "worst"]
    assert [entry.case for entry in chosen] == [scores["case"][i] for i in (0, 2, 3)]
    assert chosen[0].score == scores["AP@0.10"].max() >= chosen[1].score >= chosen[2].score == scores["AP@0.10"].min()


@pytest.mark.parametrize(
    ("cases", "ranks"), [(["case_0"], []), (["case_1"], ["best"]), (["case_1", "case_2"], ["best", "worst"])]
)
def test_few_cases_with_objects(study, cases, ranks):
    row = study.rows[0]
    part = type(row)(row.key, row.table[row.table["case"].isin(cases)].reset_index(drop=True), row.source)
    assert [entry.rank for entry in choose_cases(part)] == ranks


def test_display_threshold_keeps_one_false_positive_per_case(study):
    table = study.rows[0].table
    threshold = display_threshold(table)
    false = (table["kind"] == "detection") & table["truth@0.10"].isna()
    kept = (false & (table["score"] >= threshold)).sum()
    assert kept <= 6 < false.sum()
    assert (false & (table["score"] >= threshold - 1e-9)).sum() > 6  # no lower threshold would do


def test_display_threshold_with_few_false_positives(study):
    table = study.rows[0].table
    assert display_threshold(table[(table["kind"] != "detection")]) == 0.0


def test_slices_pass_through_objects_by_size_then_detections():
    small, large = [0.0, 0, 0, 4, 4, 4], [30.0, 0, 0, 50, 20, 20]
    near_large, far = [31.0, 0, 0, 48, 9, 9], [80.0, 0, 0, 90, 5, 5]
    truths, detections = np.array([small, large]), np.array([near_large, far])
    assert choose_slices(truths, detections, spacing=2.0, depth=50, limit=5) == [1, 20, 42]
    assert choose_slices(truths, detections, spacing=2.0, depth=50, limit=1) == [20]


def test_slices_stay_in_the_volume_and_fall_back_to_the_middle():
    beyond = np.array([[18.0, 0, 0, 30, 4, 4]])
    assert choose_slices(beyond, np.empty((0, 6)), spacing=1.0, depth=20, limit=5) == [19]
    assert choose_slices(np.empty((0, 6)), np.empty((0, 6)), spacing=1.0, depth=20, limit=5) == [10]
