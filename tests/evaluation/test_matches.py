import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from detpretrain.errors import InputError
from detpretrain.evaluation import cases as case_files
from detpretrain.evaluation import matches, metrics
from detpretrain.evaluation.cases import Case

REFERENCE = Path(__file__).parent / "reference" / "detection_metrics.json"
SETS = {entry["name"]: entry for entry in json.loads(REFERENCE.read_text())["sets"]}
RUN = matches.Run("demo", "nodules", "cv", "retina", "mae", 0)


@pytest.fixture
def load(tmp_path):
    def read(name):
        path = tmp_path / "cases.json"
        path.write_text(json.dumps({"num_classes": SETS[name]["num_classes"], "images": SETS[name]["images"]}))
        return case_files.read(path)

    return read


def infos(cases, spacing=(2.5, 0.7, 0.7)):
    return {case.image_id: matches.CaseInfo(f"patient-{i // 2}", spacing, i % 3) for i, case in enumerate(cases)}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("absent_class", ["exclude", "nndetection"])
def test_metrics_of_the_file_equal_metrics_of_the_cases(load, tmp_path, name, absent_class):
    cases, num_classes = load(name)
    matches.write(tmp_path / "matches.parquet", matches.build(cases, infos(cases), RUN))
    table = matches.read(tmp_path / "matches.parquet")
    expected = metrics.evaluate(cases, num_classes, absent_class)
    assert matches.metrics(table, num_classes, absent_class) == expected
    assert table[table["kind"] == "case"]["case"].tolist() == [case.image_id for case in cases]


def test_a_subset_of_the_lines_is_the_evaluation_of_these_cases(load):
    cases, num_classes = load("e05_with_ignored_gt")
    table = matches.build(cases, infos(cases), RUN)
    chosen = ["patient-1", "patient-4"]
    kept = [case for i, case in enumerate(cases) if f"patient-{i // 2}" in chosen]
    part = table[table["patient"].isin(chosen)]
    assert matches.metrics(part, num_classes) == metrics.evaluate(kept, num_classes)


def test_lines_worked_by_hand(tmp_path):
    case = Case(
        "a",
        np.array([[0, 0, 0, 4, 4, 4], [10, 10, 10, 12, 12, 12.0]]),
        np.array([0, 1]),
        np.array([False, True]),
        np.array([[0, 0, 0, 4, 4, 1], [10, 10, 10, 12, 12, 12], [0, 0, 0, 4, 4, 4.0]]),
        np.array([0, 1, 0]),
        np.array([0.3, 0.5, 0.9]),
        gt_ids=np.array([7, 9]),
    )
    empty = Case("b", np.empty((0, 6)), np.empty(0), np.empty(0), np.empty((0, 6)), np.empty(0), np.empty(0))
    about = {"a": matches.CaseInfo("p", (2.0, 1.0, 0.5), 1), "b": matches.CaseInfo("q", (1.0, 1.0, 1.0))}
    matches.write(tmp_path / "m.parquet", matches.build([case, empty], about, RUN))
    table = matches.read(tmp_path / "m.parquet")
    assert table["kind"].tolist() == ["case", "truth", "truth", "detection", "detection", "detection", "case"]
    assert table["case"].tolist() == ["a"] * 6 + ["b"]
    assert table["fold"].tolist() == [1] * 6 + [pd.NA]
    assert table["seed"].tolist() == [0] * 7
    assert table.loc[[0, 6], ["class", "score", "z1", "size_mm", "truth", "truth@0.10"]].isna().all(axis=None)
    assert table["ignored"].tolist() == [False, False, True, False, False, False, False]
    assert table["truth"].tolist()[1:3] == [7, 9]
    assert table["class"].tolist()[1:6] == [0, 1, 0, 0, 1]
    assert table["score"].tolist()[3:6] == [0.9, 0.3, 0.5]
    assert table.loc[2, matches.SIDES].tolist() == [20, 10, 5, 24, 12, 6]
    assert table.loc[1, "size_mm"] == pytest.approx((8 * 4 * 2) ** (1 / 3))
    # The object is taken by the better box; the ignored one has its detection.
    assert table["truth@0.10"].tolist()[3:6] == [7, pd.NA, 9]
    assert table["iou@0.50"].tolist()[3] == 1.0
    assert np.isnan(table["iou@0.50"].tolist()[4])
    assert str(table["truth@0.45"].dtype) == "Int64"
    rebuilt, _ = matches.cases(table)
    np.testing.assert_allclose(rebuilt.gt_boxes[1], [20, 10, 5, 24, 12, 6])
    assert rebuilt.truth_ids.tolist() == [7, 9]


def test_cases_rebuilt_in_mm_score_the_same(load):
    cases, num_classes = load("s04_three_class_dense")
    table = matches.build(cases, infos(cases), RUN)
    expected = metrics.evaluate(cases, num_classes)
    assert metrics.evaluate(matches.cases(table), num_classes)["AP@0.10"] == pytest.approx(
        expected["AP@0.10"], abs=1e-9
    )


def test_two_evaluations_in_one_table_are_refused(load):
    cases, num_classes = load("s01_one_class_easy")
    table = matches.build(cases, infos(cases), RUN)
    with pytest.raises(ValueError, match="occurs twice"):
        matches.metrics(pd.concat([table, table]), num_classes)
    with pytest.raises(ValueError, match="each case once"):
        matches.build([*cases, cases[0]], infos(cases), RUN)


def test_other_files_are_refused(load, tmp_path):
    cases, _ = load("s01_one_class_easy")
    table = matches.build(cases, infos(cases), RUN)
    with pytest.raises(InputError, match="not found"):
        matches.read(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(InputError, match="not a readable parquet file"):
        matches.read(tmp_path / "text.parquet")
    table.to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(InputError, match="schema version none"):
        matches.read(tmp_path / "plain.parquet")
    arrow = pa.Table.from_pandas(table.drop(columns="score"), preserve_index=False)
    parquet.write_table(arrow.replace_schema_metadata(matches.SCHEMA.metadata), tmp_path / "short.parquet")
    with pytest.raises(InputError, match="columns differ"):
        matches.read(tmp_path / "short.parquet")
