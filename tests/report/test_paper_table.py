"""The printed table by hand: order, marks, best and second, what is missing."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.report.paper_table import BETTER, LATEX, MARKDOWN, WORSE, paper_table

ROWS = [  # dataset, test set, detector, init, AP
    ("b", "cv", "net", "scratch", 0.5), ("b", "cv", "net", "mae", 0.6), ("b", "cv", "net", "aaa", 0.4),
    ("a", "cv", "net", "scratch", 0.3), ("a", "cv", "net", "mae", 0.2), ("a", "cv", "net", "aaa", 0.3),
    ("a", "centre 2", "net", "scratch", 0.1), ("a", "centre 2", "net", "mae", 0.2),
]  # fmt: skip


def tables(rows=ROWS, p=None, seeds=(0,), overlap=0):
    keys = ["dataset", "test_set", "detector", "init"]
    scores = pd.DataFrame([(*row, seed) for row in rows for seed in seeds], columns=[*keys, "AP@0.10", "seed"])
    scores["overlap"] = np.where(scores["init"] == "mae", overlap, 0)
    differences = scores[scores["init"] != "scratch"].assign(metric="AP@0.10", difference=0.1, p_holm=1.0)
    for line, (difference, value) in (p or {}).items():
        differences.loc[differences.index[line], ["difference", "p_holm"]] = difference, value
    return scores, differences


def test_lines_and_columns_are_in_order():
    found = paper_table(*tables(), "scratch").values
    assert list(found.index) == [("net", "scratch"), ("net", "aaa"), ("net", "mae")]
    assert list(found.columns) == ["a", "a (centre 2)", "b", "mean", "mean rank"]


def test_mean_and_rank_of_complete_rows_only():
    found = paper_table(*tables(), "scratch").values
    assert found["mean"].tolist() == pytest.approx([0.3, np.nan, 1 / 3], nan_ok=True)
    # a: 1, 2; a (centre 2): 2, 1; b: 2, 1
    assert found["mean rank"].tolist() == pytest.approx([5 / 3, np.nan, 4 / 3], nan_ok=True)


def test_best_is_bold_second_underlined_and_ties_share():
    text = paper_table(*tables(), "scratch").written(MARKDOWN)
    assert text["a"].tolist() == ["**0.300**", "**0.300**", "0.200"]
    assert text["b"].tolist() == ["<u>0.500</u>", "0.400", "**0.600**"]
    assert text["a (centre 2)"].tolist() == ["<u>0.100</u>", "–", "**0.200**"]
    assert text["mean rank"].tolist() == ["<u>1.7</u>", "–", "**1.3**"]


def test_a_single_row_is_neither_best_nor_second():
    text = paper_table(*tables(ROWS[:1]), "scratch").written(MARKDOWN)
    assert text["b"].tolist() == ["0.500"]


def test_marks_stand_for_adjusted_differences():
    scores, differences = tables(p={0: (0.1, 0.01), 1: (-0.1, 0.049), 2: (-0.1, 0.05)})
    marks = paper_table(scores, differences, "scratch").marks
    assert marks.loc[("net", "mae"), "b"] == BETTER
    assert marks.loc[("net", "aaa"), "b"] == WORSE
    assert marks.loc[("net", "mae"), "a"] == ""
    assert paper_table(scores, differences, "scratch").written(MARKDOWN)["b"].tolist()[2] == f"**0.600**{BETTER}"


def test_all_seeds_must_show_it():
    scores, differences = tables(ROWS[:2], p={0: (0.1, 0.01), 1: (0.1, 0.2)}, seeds=(0, 1))
    found = paper_table(scores, differences, "scratch")
    assert found.marks.loc[("net", "mae"), "b"] == ""
    assert len(found.values) == 2


def test_latex_is_escaped_outside_of_its_marks():
    scores, differences = tables(
        [("a_b", "cv", "net_x", "scratch", 0.5), ("a_b", "cv", "net_x", "m&g", 0.6)], {0: (0.1, 0.001)}
    )
    text = paper_table(scores, differences, "scratch").written(LATEX)
    assert list(text.columns[:3]) == ["detector", "init", r"a\_b"]
    assert text[r"a\_b"].tolist() == [r"\underline{0.500}", r"\textbf{0.600}$^{\uparrow}$"]
    assert text["init"].tolist() == ["scratch", r"m\&g"]


def test_overlap_keeps_its_dagger():
    text = paper_table(*tables(overlap=3), "scratch").written(MARKDOWN)
    assert text["init"].tolist() == ["scratch", "aaa", "mae †"]
