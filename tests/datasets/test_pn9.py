from pathlib import Path

import numpy as np
import pytest
from downloads.pn9 import HEADER, SHAPE, TEST, TRAIN, VAL, download

from detpretrain import boxes as box_ops
from detpretrain import volumes
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.geometry import IDENTITY
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.pn9.PN9", "splits": {"folds": 1}, "allow_partial": True}
SIDES = ["z1", "y1", "x1", "z2", "y2", "x2"]


@pytest.fixture
def raw(tmp_path) -> Path:
    return download(tmp_path / "PN9")


def prepared(raw: Path, **changes) -> Task:
    prepare("pn9", {**ENTRY, "raw": str(raw), **changes}, raw.parent / "task")
    return Task.read(raw.parent / "task")


def boxes_of(task: Task, scan: str) -> list[list[float]]:
    objects = task.objects()
    return objects.loc[objects["case"] == scan, SIDES].to_numpy(np.float64).tolist()


def test_the_sheet_s_voxels_become_boxes(raw):
    task = prepared(raw)
    # x 3..7 from one is 2..6 from zero; the box reaches a voxel further on both sides
    assert boxes_of(task, "00001") == [[2, 0, 1, 8, 6, 7]]
    assert boxes_of(task, "00009") == [[0, 0, 0, 12, 12, 12], [4, 4, 4, 8, 8, 8]]
    assert boxes_of(task, "00002") == [[5, 3, 3, 7, 9, 9]]
    assert boxes_of(task, "00004") == [[1, 6, 8, 5, 12, 14]]
    assert boxes_of(task, "00012") == boxes_of(task, "00020") == []
    assert task.annotation("00009").classes == {1: 0, 2: 0}
    assert task.labels == {0: "nodule"}
    geometry = volumes.read_geometry(task.image_paths("00001")[0])
    assert (geometry.shape, geometry.spacing, geometry.direction) == (SHAPE, (1.0, 1.0, 1.0), IDENTITY)
    assert geometry.index_to_world([[5, 3, 4]]).tolist() == [[4, 3, 5]]


def test_masks_are_ellipsoids_in_the_boxes(raw):
    task = prepared(raw)
    for scan in ("00001", "00004", "00009"):
        _, found = box_ops.from_instances(volumes.read(task.label_path(scan))[0])
        assert found.tolist() == boxes_of(task, scan)
    raster, _ = volumes.read(task.label_path("00009"))
    assert raster[6, 6, 6] == 2  # the small nodule in the large one
    assert raster[6, 6, 9] == 1
    assert raster[1, 1, 1] == 0  # a corner of the large one's box
    raster, _ = volumes.read(task.label_path("00002"))
    assert np.unique(np.argwhere(raster)[:, 0]).tolist() == [6]


def test_voxels_splits_and_facts(raw):
    task = prepared(raw)
    array, _ = volumes.read(task.image_paths("00040")[0])
    assert array.dtype == np.uint8
    assert (array == np.random.default_rng(40).integers(0, 256, (1, *SHAPE))[0]).all()
    assert task.folds() == [{"train": TRAIN, "val": VAL}]
    assert task.test_sets == ["cv", "test"]
    assert task.cases("test") == TEST
    assert task.modalities == {0: "CT_rescaled"}
    table = task.case_table().set_index("case")
    assert table.loc["00009", ["source_id", "patient", "test_set"]].tolist() == ["00009", "00009", "cv"]
    facts = read_json(task.root / "dataset.json")
    assert facts["licence"] == "for non-commercial research purposes only"
    assert "SANet" in facts["citation"]
    assert facts["download"] == "https://github.com/mj129/SANet"


def test_lines_that_come_twice_and_nodules_at_the_border_are_noted(raw):
    with (raw / "train_anno.csv").open("a") as sheet:
        sheet.write("1,CN,3,7,2,6,4,8,1\n20,CN,18,24,1,5,0,3,0\n")
    task = prepared(raw)
    assert boxes_of(task, "00001") == [[2, 0, 1, 8, 6, 7]]
    assert boxes_of(task, "00020") == [[-2, -1, 16, 3, 5, 24]]
    log = (task.root / "conversion.csv").read_text().splitlines()
    assert "1 lines come twice" in next(line for line in log if line.startswith("00001"))
    assert "nodule 1 reaches beyond the scan" in next(line for line in log if line.startswith("00020"))
    assert sum("reaches" in line for line in log) == 1  # one that ends with the scan does not


def test_a_nodule_that_ends_with_the_scan_is_not_beyond_it(raw):
    with (raw / "train_anno.csv").open("a") as sheet:
        sheet.write("20,CN,1,22,1,18,1,14,0\n")
    task = prepared(raw)
    assert boxes_of(task, "00020") == [[-1, -1, -1, 14, 18, 22]]
    assert "reaches" not in (task.root / "conversion.csv").read_text()


def test_other_numbers_of_scans_must_be_accepted(raw):
    with pytest.raises(
        InputError, match=r"cases: 6 found, 6707 published; cases of test set test: 3 found, 2091 .*--allow-partial"
    ):
        prepared(raw, allow_partial=False)
    (raw / "train" / "00031_zoom.npy").unlink()
    with pytest.raises(InputError, match=r"1 listed, not found: train/00031_zoom\.npy"):
        prepared(raw, allow_partial=False)
    assert prepared(raw).folds() == [{"train": TRAIN, "val": ["00004"]}]


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _save(path: Path, array: np.ndarray) -> None:
    np.save(path, array)


DEFECTS = {
    "no folder": (lambda raw: (raw / "test").rename(raw / "tests"), r"PN9/test: folder not found: unpack the \.npy"),
    "empty folder": (
        lambda raw: [path.unlink() for path in (raw / "test").iterdir()],
        r"PN9/test: no ID_zoom\.npy in it: unpack the \.npy",
    ),
    "no list": (lambda raw: (raw / "val.txt").unlink(), r"val\.txt: file not found: take the list from"),
    "empty list": (lambda raw: (raw / "val.txt").write_text("\n"), r"val\.txt: empty: write one number a line"),
    "not a list": (
        lambda raw: _append(raw / "val.txt", "scan7\n"),
        r"val\.txt: 'scan7' is no scan's number: write one",
    ),
    "no sheet": (
        lambda raw: (raw / "test_anno.csv").unlink(),
        r"test_anno\.csv: sheet not found: complete the download",
    ),
    "unreadable sheet": (
        lambda raw: (raw / "test_anno.csv").write_bytes(b"\xff\xfe,\x00"),
        r"test_anno\.csv: not a table .*: download the sheet again",
    ),
    "empty sheet": (
        lambda raw: (raw / "test_anno.csv").write_text(HEADER),
        r"test_anno\.csv: no lines below the header",
    ),
    "no column": (
        lambda raw: (raw / "test_anno.csv").write_text("pid,xmin,xmax,ymin,ymax,zmax\n0,1,2,3,4,5\n"),
        r"test_anno\.csv: no column zmin .*: download the sheet again",
    ),
    "no number": (
        lambda raw: _append(raw / "test_anno.csv", "0,CN,3,7,2,6.5,4,8,0\n"),
        r"test_anno\.csv: line 4: '6\.5' is no whole number: write whole numbers",
    ),
    "backwards": (
        lambda raw: _append(raw / "test_anno.csv", "0,CN,3,7,6,2,4,8,0\n"),
        r"test_anno\.csv: line 4: the first voxel \(4, 6, 3\) .* behind the last \(8, 2, 7\): correct",
    ),
    "line of no scan": (
        lambda raw: _append(raw / "test_anno.csv", "1,CN,3,7,2,6,4,8,0\n"),
        r"test_anno\.csv: line 4: pid 1 is no scan of test/ and not in test\.txt: correct the pid",
    ),
    "nodule outside": (
        lambda raw: _append(raw / "test_anno.csv", "0,CN,23,25,2,6,4,8,0\n"),
        r"test_anno\.csv: pid 0: nodule \(4, 2, 23, 8, 6, 25\) .* lies outside \(14, 18, 22\): correct",
    ),
    "nodule before the scan": (
        lambda raw: _append(raw / "test_anno.csv", "0,CN,3,7,2,6,-4,0,0\n"),
        r"test_anno\.csv: pid 0: nodule \(-4, 2, 3, 0, 6, 7\) .* lies outside",
    ),
    "scan in no list": (
        lambda raw: _save(raw / "train" / "00050_zoom.npy", np.zeros((1, *SHAPE), np.uint8)),
        r"00050_zoom\.npy: not in train\.txt or val\.txt: add it to its list",
    ),
    "scan in two lists": (
        lambda raw: _append(raw / "val.txt", "00012\n"),
        r"train\.txt: scan 00012 is named twice in train\.txt or val\.txt: keep one",
    ),
    "scan in two folders": (
        lambda raw: (
            _save(raw / "test" / "00009_zoom.npy", np.zeros((1, *SHAPE), np.uint8)),
            _append(raw / "test.txt", "00009\n"),
        ),
        r"test/00009_zoom\.npy: the scan is train/00009_zoom\.npy, too: keep it where",
    ),
    "another file": (
        lambda raw: _save(raw / "train" / "mean_zoom.npy", np.zeros(3)),
        r"mean_zoom\.npy: not named ID_zoom\.npy with a number: remove or rename",
    ),
    "truncated": (
        lambda raw: (raw / "train" / "00009_zoom.npy").write_bytes((raw / "train/00009_zoom.npy").read_bytes()[:-9]),
        r"00009_zoom\.npy: truncated or damaged \(.*\): download it again",
    ),
    "no volume": (
        lambda raw: _save(raw / "train" / "00009_zoom.npy", np.zeros(SHAPE, np.uint8)),
        r"00009_zoom\.npy: uint8 \(14, 18, 22\), not numbers \[1, D, H, W\]: download",
    ),
    "pickled": (
        lambda raw: np.save(raw / "train" / "00009_zoom.npy", np.array([{}]), allow_pickle=True),
        r"00009_zoom\.npy: truncated or damaged",
    ),
    "not rescaled": (
        lambda raw: _save(raw / "train" / "00009_zoom.npy", np.full((1, *SHAPE), -700, np.int16)),
        r"00009_zoom\.npy: values -700 \.\. -700, not 0 \.\. 255: download",
    ),
    "NaN": (
        lambda raw: _save(raw / "train" / "00009_zoom.npy", np.full((1, *SHAPE), np.nan, np.float32)),
        r"00009_zoom\.npy: values nan \.\. nan, not 0 \.\. 255: download",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_the_download_are_named(raw, defect):
    spoil, message = DEFECTS[defect]
    spoil(raw)
    with pytest.raises(InputError, match=message) as caught:
        prepared(raw)
    assert "\n" not in str(caught.value)
    assert not (raw.parent / "task").exists()


def test_a_bad_scan_can_be_excluded(raw):
    path = raw / "train" / "00009_zoom.npy"
    path.write_bytes(path.read_bytes()[:-9])
    task = prepared(raw, exclude_cases={"00009": "truncated"})
    assert task.folds()[0]["train"] == ["00001", "00012", "00020"]
