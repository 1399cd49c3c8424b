from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from detpretrain.errors import InputError
from detpretrain.importing.cell_checks import check
from detpretrain.importing.prepared import Prepared


@pytest.fixture
def cell(smoke_cells):
    return smoke_cells["mae"][1]


@pytest.fixture
def folder(everything, cell):
    return everything.cell(cell)


@pytest.fixture
def refused(ours, cell, folder):
    """``refused(here, text)``: the cell is refused for this reason, which names its file."""

    def run(here, match):
        with pytest.raises(InputError, match=match) as error:
            check(ours, cell, folder, here)
        assert str(error.value).startswith(str(folder))
        assert "\n" not in str(error.value)

    return run


def again(ours):
    return Prepared.read(ours, "smoke_nodules", "smoke", [])


def test_cell_that_fits_tells_where_it_comes_from(ours, cell, folder, here):
    found = check(ours, cell, folder, here)
    assert (found.study, found.same_bytes) == ("smoke", True)
    assert set(found.stages) == {"finetune", "predict", "evaluate", "pretrain"}
    assert found.stages["finetune"]["commit"] == "c" * 40
    assert set(found.stages["evaluate"]) == {"recipe", "source", "commit", "dirty"}
    assert found.pretrain["seconds"] == 5.0


def test_expected_cases_are_those_of_the_fold_and_the_test_sets(here, cell):
    assert here.predicted(1) == {"case_2", "case_3", "apart_0"}
    lines = here.scored(cell)
    assert lines.groupby("case")["kind"].apply(list).to_dict() == {
        "apart_0": ["case"],
        "case_2": ["case", "truth", "truth"],
        "case_3": ["case"],
    }


def test_fold_with_a_test_part_is_scored_on_it_alone(here, cell):
    folds = [{"train": ["case_0"], "val": ["case_1"], "test": ["case_2"]}] * 2
    divided = replace(here, folds=folds)
    assert divided.predicted(1) == {"case_1", "case_2", "apart_0"}
    assert set(divided.scored(cell)["case"]) == {"case_2", "apart_0"}


@pytest.mark.parametrize("stage", ["finetune", "predict", "evaluate", "pretrain"])
def test_other_recipe_of_a_stage_is_refused(theirs, cell, here, refused, stage):
    theirs.write_cell(cell, **{stage: {"recipe": "0" * 12}})
    refused(
        here, rf"metrics\.json: recipe of {stage} is 000000000000, this study's is [0-9a-f]{{12}}: their configuration"
    )


def test_other_source_is_no_reason(theirs, ours, cell, here):
    theirs.write_cell(cell, finetune={"source": "other"})
    assert check(ours, cell, theirs.cell(cell), here).stages["finetune"]["source"] == "other"


@pytest.mark.parametrize(
    "change", [lambda c: c.pop("provenance"), lambda c: c["provenance"].pop("predict"), lambda c: c.pop("test_sets")]
)
def test_something_else_than_metrics_is_refused(folder, here, refused, edit_json, change):
    edit_json(folder / "metrics.json", change)
    refused(here, r"metrics\.json: not the metrics of a cell")


def test_boxes_of_another_run_are_refused(theirs, cell, folder, here, refused):
    kept = (folder / "raw_boxes.parquet").read_bytes()
    theirs.write_cell(cell, finetune={"seconds": 6.0})
    (folder / "raw_boxes.parquet").write_bytes(kept)
    refused(here, r"raw_boxes\.parquet: comes from another finetune than metrics\.json")


def test_other_splits_are_refused(ours, data, refused, edit_json):
    def swap(content):
        content["folds"][1]["val"], content["folds"][1]["train"] = (
            ["case_0", "case_2"],
            ["case_1", "case_3", "case_4", "case_5"],
        )

    edit_json(data / "smoke_nodules" / "task" / "splits.json", swap)
    refused(again(ours), r"raw_boxes\.parquet: lacks case case_0, which fold 1 scores here: other splits")


def test_case_that_is_not_scored_here_is_refused(ours, data, refused, edit_json):
    edit_json(
        data / "smoke_nodules" / "task" / "splits.json", lambda content: content["folds"][1]["val"].remove("case_3")
    )
    refused(again(ours), r"raw_boxes\.parquet: holds case case_3, which fold 1 does not score here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [20, 30, 41]),
        ("boxes", [[0.0, 0, 4, 4, 5, 13], [2.0, 3, 4, 6, 8, 12]]),
        ("classes", [0, 1]),
        ("ignored", [1]),
    ],
)
def test_case_that_was_preprocessed_otherwise_is_refused(ours, data, refused, edit_json, key, value):
    def change(content):
        content["cases"][2][key] = value

    edit_json(data / "smoke_nodules" / "smoke" / "preprocessed" / "index.json", change)
    refused(again(ours), rf"raw_boxes\.parquet: case case_2: {key} differs from what is preprocessed here")


def test_other_number_of_classes_is_refused(ours, here, refused):
    refused(replace(here, classes=2), r"raw_boxes\.parquet: 1 classes, here the data set has 2")


def test_same_objects_from_other_bytes_are_told(ours, cell, folder, data, edit_json):
    def change(content):
        content["cases"][3]["source"] = "other bytes"

    edit_json(data / "smoke_nodules" / "smoke" / "preprocessed" / "index.json", change)
    assert not check(ours, cell, folder, again(ours)).same_bytes


def edit_table(path, change):
    """``change(table)``: in place, or the changed table."""
    table = pd.read_csv(path, dtype={"session": str}, keep_default_na=False)
    changed = change(table)
    (table if changed is None else changed).to_csv(path, index=False)


def test_object_in_another_place_is_refused(ours, data, refused):
    def change(table):
        table.loc[table["case"] == "case_2", "z2"] += 1.0

    edit_table(data / "smoke_nodules" / "task" / "objects.csv", change)
    refused(again(ours), r"matches\.parquet: case case_2: boxes of objects differ")


def test_other_number_of_objects_is_refused(ours, data, refused):
    edit_table(data / "smoke_nodules" / "task" / "objects.csv", lambda table: table.drop(index=2))
    refused(again(ours), r"matches\.parquet: case case_2: 2 objects, here it has 1")


@pytest.mark.parametrize(("column", "value"), [("patient", "somebody"), ("spacing_x", 0.6)])
def test_other_patient_or_image_is_refused(ours, data, refused, column, value):
    def change(table):
        table.loc[table["case"] == "case_3", column] = value

    edit_table(data / "smoke_nodules" / "task" / "cases.csv", change)
    refused(again(ours), "case_3: (patient differs from what is prepared|spacing of the image differs)")


@pytest.mark.parametrize("column", ["init", "detector", "dataset", "seed", "fold"])
def test_tables_of_another_cell_are_refused(theirs, cell, here, refused, column):
    other = {"init": "scratch", "detector": "x", "dataset": "y", "seed": 7, "fold": 2}[column]
    theirs.write_cell(cell, named=replace(cell, **{column: other}))
    refused(here, rf"matches\.parquet: {column} is {other}, the cell's is {getattr(cell, column)}")


def test_study_may_be_called_otherwise_there(theirs, ours, cell, here):
    theirs.write_cell(cell, study="part_b")
    assert check(ours, cell, theirs.cell(cell), here).study == "part_b"


def test_other_schema_is_refused(folder, here, refused):
    table = parquet.read_table(folder / "matches.parquet")
    parquet.write_table(
        table.replace_schema_metadata({b"detpretrain.matches.version": b"0"}), folder / "matches.parquet"
    )
    refused(here, r"matches\.parquet: schema version 0, not 1")


def test_boxes_in_another_form_are_refused(folder, here, refused):
    table = parquet.read_table(folder / "raw_boxes.parquet")
    names = [name.replace("weight", "w") for name in table.column_names]
    metadata = table.schema.metadata
    renamed = table.rename_columns(names).replace_schema_metadata(metadata)
    parquet.write_table(renamed, folder / "raw_boxes.parquet")
    refused(here, r"raw_boxes\.parquet: not raw boxes as this version writes them")
    parquet.write_table(pa.table({"a": [1]}), folder / "raw_boxes.parquet")
    refused(here, r"raw_boxes\.parquet: not a file of raw boxes")


@pytest.mark.parametrize("cut", [0, 100, -10])
def test_model_that_was_cut_off_is_refused(folder, here, refused, cut):
    (folder / "model.pth").write_bytes((folder / "model.pth").read_bytes()[:cut])
    refused(here, r"model\.pth: not a whole file")


def test_damaged_model_is_refused(folder, here, refused):
    content = bytearray((folder / "model.pth").read_bytes())
    content[1000] ^= 255
    (folder / "model.pth").write_bytes(content)
    refused(here, r"model\.pth: damaged in archive/data\.pkl")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("epoch,train_loss\n1,2\n", "no column seconds"),
        ("epoch,train_loss,seconds\n", "no epoch in it"),
        ("", "cannot be read"),
    ],
)
def test_log_that_the_report_cannot_read_is_refused(folder, here, refused, text, why):
    (folder / "log.csv").write_text(text)
    refused(here, rf"log\.csv: {why}")
