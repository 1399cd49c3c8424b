"""A RibFrac download of seven scans: parts in subfolders, sheets as published, voxels drawn by hand."""

import json
import shutil

import numpy as np
import pytest
from downloads.ribfrac import SHAPE, VALIDATION, download
from nifti_files import AFFINES, write_nifti
from prepared_tasks import boxes, check_boxes_in_world, check_folds, check_other_process

from detpretrain import volumes
from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.ribfrac import RibFrac
from detpretrain.errors import InputError
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.ribfrac.RibFrac", "splits": {"folds": 2, "seed": 1}, "allow_partial": True}


@pytest.fixture
def raw(tmp_path):
    return download(tmp_path / "RibFrac")


def prepared(raw, output, **changes) -> Task:
    prepare("ribfrac", {**ENTRY, "raw": str(raw), **changes}, output)
    return Task.read(output)


def test_objects(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    assert task.labels == {0: "fracture"}
    assert task.cases() == [
        "RibFrac1",
        "RibFrac2",
        "RibFrac301",
        "RibFrac302",
        "RibFrac421",
        "RibFrac422",
        "RibFrac423",
    ]
    found = boxes(task, "RibFrac1")
    assert found == [[0, 1, 1, 3, 4, 5], [4, 7, 2, 6, 9, 6], [2, -1, 9, 7, 11, 14]]
    assert boxes(task, "RibFrac2") == []
    assert boxes(task, "RibFrac421") == [[1, 2, 3, 4, 7, 9]]
    assert task.objects()["class"].unique().tolist() == [0]
    check_boxes_in_world(task, "RibFrac1", "oblique")
    corners = check_boxes_in_world(task, "RibFrac301", "ras")
    # by hand, RibFrac301: index z, y, x = 0, 1, 2 -> RAS -80 + .75 * 2, -70 + .75 * 1, 40
    np.testing.assert_allclose(corners[0], [78.5, 69.25, 40], atol=1e-4)


def test_map_and_sheet_differ(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    assert boxes(task, "RibFrac301") == [[0, 1, 2, 2, 4, 7], [3, 7, 2, 5, 10, 7]]
    instances, _ = volumes.read(task.label_path("RibFrac301"))
    assert np.unique(instances).tolist() == [0, 1, 2]
    log = (tmp_path / "task" / "conversion.csv").read_text()
    assert "instances 9 of the sheet have no voxels in RibFrac301-label.nii.gz: dropped" in log
    assert "ids 2, 5 of RibFrac301-label.nii.gz are no fractures of the sheet: dropped" in log
    assert log.count("dropped") == 2


def test_case_records_and_folds(raw, tmp_path):
    task = prepared(raw, tmp_path / "task")
    assert task.test_sets == ["cv"]
    table = task.case_table().set_index("case")
    assert table.loc["RibFrac1", ["source_id", "patient", "objects_0"]].tolist() == ["RibFrac1", "RibFrac1", 3]
    check_folds(task)
    facts = json.loads((task.root / "dataset.json").read_text())
    assert facts["licence"] == "CC BY-NC 4.0"
    assert "FracNet" in facts["citation"]
    assert "3893508" in facts["download"]
    with pytest.raises(InputError, match="cases: 7 found, 500 published"):
        prepared(raw, tmp_path / "partial", allow_partial=False)


def test_cases_can_be_sent_to_another_process(raw):
    check_other_process(RibFrac(), raw)


def test_a_spreadsheet_saved_the_sheet(raw, tmp_path):
    path = raw / "ribfrac-val-info.csv"
    lines = VALIDATION.replace(",1,1", ", 1.0 ,1.0").replace("\n", "\r\n\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert boxes(prepared(raw, tmp_path / "task"), "RibFrac421") == [[1, 2, 3, 4, 7, 9]]


def lines(name, old, new):
    def damage(raw):
        text = (raw / name).read_text()
        assert old in text
        (raw / name).write_text(text.replace(old, new))

    return damage


def rename(raw, old, new):
    (raw / "labelsTr" / old).rename(raw / "labelsTr" / new)


VAL = "ribfrac-val-info.csv"
DEFECTS = {
    "no labels": (lambda raw: shutil.rmtree(raw / "labelsTr"), r"labelsTr: folder not found: complete the download"),
    "image without label": (
        lambda raw: (raw / "labelsTr" / "RibFrac421-label.nii.gz").unlink(),
        r"imagesTr/RibFrac421-image\.nii\.gz: image without label map in .*: complete the download.*\(1 problems",
    ),
    "label without image": (
        lambda raw: (raw / "imagesTr" / "RibFrac421-image.nii.gz").unlink(),
        r"labelsTr/RibFrac421-label\.nii\.gz: label map without image in .*: complete the download.*\(1 problems",
    ),
    "another name": (
        lambda raw: rename(raw, "RibFrac421-label.nii.gz", "RibFrac421.nii.gz"),
        r"labelsTr/RibFrac421\.nii\.gz: not named CASE-label\.nii\.gz: unpack",
    ),
    "both parts hold a case": (
        lambda raw: shutil.copy(raw / "imagesTr" / "Part1" / "RibFrac1-image.nii.gz", raw / "imagesTr" / "Part2"),
        r"Part2/RibFrac1-image\.nii\.gz: same case as .*Part1/RibFrac1-image\.nii\.gz: keep one",
    ),
    "no sheet": (lambda raw: (raw / VAL).unlink(), r"ribfrac-val-info\.csv: sheet not found: complete.*\(1 problems"),
    "binary sheet": (
        lambda raw: (raw / VAL).write_bytes(b"PK\3\4\xff\xfe\0\x80"),
        r"ribfrac-val-info\.csv: not a table .*: download the sheet again",
    ),
    "nothing in the sheet": (
        lambda raw: (raw / VAL).write_text(""),
        r"ribfrac-val-info\.csv: not a table .*: download the sheet again",
    ),
    "only a header": (
        lambda raw: (raw / VAL).write_text("public_id,label_id,label_code\n"),
        r"ribfrac-val-info\.csv: no lines below the header: download",
    ),
    "columns": (
        lines(VAL, "label_code", "code"),
        r"ribfrac-val-info\.csv: no column label_code \(it has public_id, label_id, code\): download",
    ),
    "separator": (lines(VAL, ",", ";"), r"ribfrac-val-info\.csv: no column public_id, label_id, label_code"),
    "twice": (
        lines(VAL, "RibFrac421,1,1", "RibFrac421,1,1\nRibFrac421,1,2"),
        r"ribfrac-val-info\.csv: line 4: RibFrac421 has label_id 1 twice: download",
    ),
    "in two sheets": (
        lines(VAL, "RibFrac421,0,0", "RibFrac421,0,0\nRibFrac302,3,1"),
        r"ribfrac-val-info\.csv: line 3: RibFrac302 is in an earlier sheet too: download",
    ),
    "unknown code": (
        lines(VAL, "RibFrac421,1,1", "RibFrac421,1,5"),
        r"ribfrac-val-info\.csv: line 3: label_code '5' is none of -1, 0, 1, 2, 3, 4: download",
    ),
    "no id": (
        lines(VAL, "RibFrac421,1,1", "RibFrac421,one,1"),
        r"ribfrac-val-info\.csv: line 3: label_id 'one' is no id of a label map: download",
    ),
    "half an id": (lines(VAL, "RibFrac421,1,1", "RibFrac421,1.5,1"), r"line 3: label_id '1\.5' is no id"),
    "negative id": (lines(VAL, "RibFrac421,1,1", "RibFrac421,-1,1"), r"line 3: label_id '-1' is no id"),
    "fractured background": (
        lines(VAL, "RibFrac421,0,0", "RibFrac421,0,2"),
        r"ribfrac-val-info\.csv: line 2: label_id 0 is background, but has label_code 2: download",
    ),
    "nobody": (lines(VAL, "RibFrac421,1,1", ",1,1"), r"ribfrac-val-info\.csv: line 3: no public_id: download"),
    "no line": (
        lines("ribfrac-train-info-1.csv", "RibFrac2,0,0\n", ""),
        r"Part1/RibFrac2-image\.nii\.gz: RibFrac2 has no line in ribfrac-train-info-1\.csv, .*: complete",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_the_download(raw, tmp_path, defect):
    damage, message = DEFECTS[defect]
    damage(raw)
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")


def test_listed_cases_that_are_missing_are_a_partial_download(raw, tmp_path):
    shutil.rmtree(raw / "imagesTr" / "Part1")
    shutil.rmtree(raw / "labelsTr" / "Part1")
    message = r"2 listed, not found: imagesTr/RibFrac1-image\.nii\.gz, imagesTr/RibFrac2-image\.nii\.gz: complete"
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task", allow_partial=False)
    assert len(prepared(raw, tmp_path / "task").cases()) == 5


def test_another_geometry(raw, tmp_path):
    write_nifti(raw / "labelsTr" / "RibFrac421-label.nii.gz", np.zeros(SHAPE, np.uint8), AFFINES["ras"])
    message = r"RibFrac421-label\.nii\.gz: geometry differs from RibFrac421-image\.nii\.gz: spacing .*: download both"
    with pytest.raises(InputError, match=message):
        prepared(raw, tmp_path / "task")
    assert len(prepared(raw, tmp_path / "task", exclude_cases={"RibFrac421": "shifted"}).cases()) == 6


def test_many_instances(raw, tmp_path):
    """More than a byte holds."""
    label = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) % 301
    write_nifti(raw / "labelsTr" / "RibFrac421-label.nii.gz", label, AFFINES["lps"])
    extra = "".join(f"RibFrac421,{number},1\n" for number in range(2, 301))
    (raw / VAL).write_text(VALIDATION + extra)
    task = prepared(raw, tmp_path / "task")
    instances, _ = volumes.read(task.label_path("RibFrac421"))
    np.testing.assert_array_equal(instances, label)
