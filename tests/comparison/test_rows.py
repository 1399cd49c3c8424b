"""Rows: read and told apart, refused when they cannot be paired, scored as the evaluation scores them."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.comparison import rows
from detpretrain.errors import InputError
from detpretrain.evaluation import matches


def test_rows_are_split_by_test_set_and_ordered(make_table, write_rows):
    both = pd.concat([make_table("scratch"), make_table("scratch", test_set="test", seed_truth=9)])
    found = rows.read_rows(write_rows(both, make_table("mae")))
    assert [(row.key.test_set, row.key.init) for row in found] == [
        ("cv", "mae"),
        ("cv", "scratch"),
        ("test", "scratch"),
    ]
    assert [len(group) for group in rows.groups(found)] == [2, 1]


def test_folds_are_scored_alone(make_table, write_rows):
    (row,) = rows.read_rows(write_rows(make_table()))
    found = rows.score_folds(row)
    assert list(found["fold"]) == [0, 1, 2]
    for line in found.to_dict("records"):
        expected = matches.metrics(row.table[row.table["fold"] == line["fold"]], num_classes=2)
        assert line["AP@0.10"] == expected["AP@0.10"]
        assert line["FROC@0.10"] == expected["FROC@0.10"]["score"]
        assert line["patients"] == 4
    whole = rows.counts(row)
    assert {name: found[name].sum() for name in rows.COUNTS} == whole
    assert whole["objects"] == ((row.table["kind"] == "truth") & ~row.table["ignored"]).sum()
    assert whole["ignored"] == row.table["ignored"].sum() > 0


def test_test_set_of_all_folds_has_no_fold_lines(make_table, write_rows):
    (row,) = rows.read_rows(write_rows(make_table(test_set="test")))
    assert rows.score_folds(row).empty


def test_score_without_objects_is_nan(make_table, write_rows):
    table = make_table()
    (row,) = rows.read_rows(write_rows(table[table["kind"] == "case"]))
    assert np.isnan(list(rows.score(row.cases).values())).all()


def test_froc_points_give_the_score(make_table, write_rows):
    (row,) = rows.read_rows(write_rows(make_table(patients=30)))
    fppi, sensitivity = rows.froc_points(row.cases, "0.10")
    expected = matches.metrics(row.table, num_classes=2)["FROC@0.10"]
    assert np.interp(expected["fppi"], fppi, sensitivity) == pytest.approx(expected["sensitivity"], abs=1e-12)


def test_same_row_twice_is_refused(make_table, write_rows):
    with pytest.raises(InputError, match=r"row1\.parquet.*already in .*row0\.parquet"):
        rows.read_rows(write_rows(make_table(), make_table()))


def test_no_rows_and_empty_table_are_refused(make_table, write_rows):
    with pytest.raises(InputError, match="no row given"):
        rows.read_rows([])
    with pytest.raises(InputError, match=r"row0\.parquet: no line"):
        rows.read_rows(write_rows(make_table().iloc[:0]))


@pytest.mark.parametrize("change", ["patients", "objects"])
def test_rows_of_other_cases_cannot_be_paired(make_table, write_rows, change):
    other = make_table("mae", patients=11) if change == "patients" else make_table("mae", seed_truth=1)
    with pytest.raises(InputError, match=r"row\d\.parquet: cases, patients or objects of nodules"):
        list(rows.groups(rows.read_rows(write_rows(make_table(), other))))
