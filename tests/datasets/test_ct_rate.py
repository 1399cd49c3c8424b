import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from detpretrain import volumes
from detpretrain.datasets.ct_rate import CTRate, Repair
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.ct_rate.CTRate", "allow_partial": True}
FIXED = Geometry((5, 6, 7), (1.5, 0.7, 0.7))
BLANK = Geometry((5, 6, 7), (1.0, 1.0, 1.0))
NAMES = ["train_1_a_1", "train_1_a_2", "train_1_b_1", "train_2_a_2", "train_2_a_10", "train_3_a_1"]


def put(raw: Path, part: str, name: str, geometry: Geometry = FIXED) -> Path:
    scan = name.rpartition("_")[0]
    path = raw / "dataset" / part / scan.rpartition("_")[0] / scan / f"{name}.nii.gz"
    values = np.random.default_rng(len(name)).integers(0, 2000, geometry.shape)
    volumes.write(path, values.astype(np.float32), geometry)
    return path


@pytest.fixture
def raw(tmp_path):
    """Three patients of the fixed release; train_3_a_1 is a head. The sheet is that of the first release, shortened."""
    raw = tmp_path / "CT-RATE"
    for name in NAMES:
        put(raw, "train_fixed", name)
    metadata = raw / "dataset" / "metadata"
    metadata.mkdir()
    lines = "".join(f'{name}.nii.gz,Philips,-1024,2,"[0.7, 0.8]",1.5\n' for name in NAMES)
    (metadata / "train_metadata.csv").write_text(
        f"VolumeName,Manufacturer,RescaleIntercept,RescaleSlope,XYSpacing,ZSpacing\n{lines}"
    )
    (metadata / "no_chest_train.txt").write_text("train_3_a_1.nii.gz\n\n")
    return raw


def run(raw: Path, **arguments) -> Task:
    prepare("ct_rate", {**ENTRY, "raw": str(raw), **arguments}, raw.parent / "out" / "task")
    return Task.read(raw.parent / "out" / "task")


def test_the_first_reconstruction_of_every_chest_scan_is_linked(raw):
    task = run(raw)
    assert (task.labelled, task.modalities) == (False, {0: "CT"})
    assert task.cases() == ["train_1_a_1", "train_1_b_1", "train_2_a_2"]  # 2 comes before 10
    table = task.case_table().set_index("case")
    assert table.loc["train_1_b_1", ["patient", "session", "source_id", "modality"]].tolist() == [
        "train_1", "train_1_b", "train_1_b_1.nii.gz", "CT",
    ]  # fmt: skip
    assert table.loc["train_2_a_2", ["spacing_z", "spacing_y", "shape_z", "shape_x"]].tolist() == [1.5, 0.7, 5, 7]
    for case in task.cases():
        assert task.image_paths(case)[0].resolve().is_relative_to(raw)
    (fold,) = task.folds()
    assert {len({table.loc[c, "patient"] for c in part}) for part in fold.values()} == {1}
    facts = json.loads((task.root / "dataset.json").read_text())
    assert facts["licence"] == "CC BY-NC-SA 4.0"
    assert "cases" not in facts


def test_all_reconstructions_heads_included(raw):
    assert run(raw, reconstructions="all", chest_only=False).cases() == sorted(NAMES)


def test_the_first_release_is_repaired_from_the_sheet(raw):
    path = put(raw, "train", "train_1_a_1", BLANK)
    put(raw, "train", "train_2_a_2", BLANK)
    task = run(raw, parts=["train"], metadata="dataset/metadata/train_metadata.csv")
    image = task.image_paths("train_1_a_1")[0]
    assert not image.is_symlink()
    array, geometry = volumes.read(image)
    assert geometry.spacing == (1.5, 0.7, 0.8)
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, volumes.read(path)[0] * 2 - 1024)


def test_a_volume_that_was_repaired_in_place_is_not_rescaled_twice(raw):
    path = put(raw, "train", "train_1_a_1", BLANK)
    put(raw, "train", "train_2_a_2", BLANK)
    image = sitk.ReadImage(str(path))
    image.SetMetaData("ITK_FileNotes", "fixed")  # becomes NIfTI's descrip
    sitk.WriteImage(image, str(path))
    with pytest.raises(InputError, match=r"train_1_a_1\.nii\.gz: its header says that it is fixed already"):
        run(raw, parts=["train"], metadata="dataset/metadata/train_metadata.csv")


def test_values_beyond_int16_stay_floats(raw):
    put(raw, "train", "train_1_a_1", BLANK)
    put(raw, "train", "train_2_a_2", BLANK)
    sheet = raw / "dataset/metadata/train_metadata.csv"
    sheet.write_text(sheet.read_text().replace("-1024,2", "-1024,50"))
    task = run(raw, parts=["train"], metadata=str(sheet.relative_to(raw)))
    assert volumes.read(task.image_paths("train_1_a_1")[0])[0].dtype == np.float32


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"XYSpacing": "[0.7, 0.8]"}, ((1.5, 0.7, 0.8), 2.0, -3.0)),
        ({"XYSpacing": "0.7"}, ((1.5, 0.7, 0.7), 2.0, -3.0)),
    ],
)
def test_a_line_of_the_sheet(line, expected):
    repair = Repair.of_line({"ZSpacing": "1.5", "RescaleSlope": "2", "RescaleIntercept": "-3", **line})
    assert (repair.spacing, repair.slope, repair.intercept) == expected


@pytest.mark.parametrize("line", [{"ZSpacing": "0"}, {"XYSpacing": ""}, {"RescaleSlope": "0"}, {"RescaleSlope": "nan"}])
def test_impossible_numbers(line):
    with pytest.raises(ValueError, match=r"could not convert|not a spacing or a rescale"):
        Repair.of_line(
            {"XYSpacing": "[1, 1]", "ZSpacing": "1.5", "RescaleSlope": "2", "RescaleIntercept": "-3", **line}
        )


def drop_sheet_line(raw):
    put(raw, "train", "train_9_a_1", BLANK)
    put(raw, "train", "train_1_a_1", BLANK)


def zero_spacing(raw):
    drop_sheet_line(raw)
    sheet = raw / "dataset/metadata/train_metadata.csv"
    sheet.write_text(sheet.read_text().replace(",1.5\n", ",0\n", 1) + 'train_9_a_1.nii.gz,x,0,1,"[1, 1]",1\n')


def move(raw):
    (raw / "dataset/train_fixed/train_1/train_1_a").rename(raw / "dataset/train_fixed/train_1/train_7_a")


def pointer(raw):
    path = raw / "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


SHEET = {"parts": ["train"], "metadata": "dataset/metadata/train_metadata.csv"}


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (
            lambda raw: (raw / "dataset/metadata/no_chest_train.txt").unlink(),
            {},
            r"no_chest_train\.txt: file not found: download",
        ),
        (move, {}, r"train_1_a_1\.nii\.gz: not PATIENT/SCAN/SCAN_NUMBER\.nii\.gz: remove the file"),
        (pointer, {}, r"train_1_a_1\.nii\.gz: a Git LFS pointer .*: download it again"),
        (
            lambda raw: None,
            {"parts": ["valid_fixed"], "chest_only": False},
            r"valid_fixed: no volume .* in it: download the part",
        ),
        (drop_sheet_line, SHEET, r"train_metadata\.csv: train_9_a_1\.nii\.gz: no line: complete the sheet"),
        (zero_spacing, SHEET, r"train_1_a_1\.nii\.gz: line 2: no spacing above 0 or no rescale"),
        (drop_sheet_line, {**SHEET, "metadata": "other.csv"}, r"other\.csv: sheet not found"),
    ],
)
def test_defects_of_the_download(raw, spoil, arguments, message):
    spoil(raw)
    with pytest.raises(InputError, match=message):
        run(raw, **arguments)


def test_sheet_without_a_column(raw):
    drop_sheet_line(raw)
    sheet = raw / "dataset/metadata/train_metadata.csv"
    sheet.write_text(sheet.read_text().replace("ZSpacing", "Z"))
    with pytest.raises(InputError, match=r"train_metadata\.csv: no column ZSpacing .*: download the sheet again"):
        run(raw, **SHEET)


def test_counts_and_missing_volumes_stop_a_partial_download(raw, capsys):
    (raw / "dataset/train_fixed/train_1/train_1_b/train_1_b_1.nii.gz").unlink()
    with pytest.raises(
        InputError, match=r"cases: 3 found, 24128 published; 1 listed, not found: train_1_b: complete the download"
    ):
        run(raw, allow_partial=False)
    assert run(raw).cases() == ["train_1_a_1", "train_2_a_2"]
    assert "not found: train_1_b" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"5 found, 47149 published; 1 listed, not found: train_1_b_1\.nii\.gz"):
        run(raw, allow_partial=False, reconstructions="all")


def test_published_numbers_of_both_parts_are_those_of_the_paper():
    both = ["train_fixed", "valid_fixed"]
    assert CTRate(parts=both).published.cases == {"cv": 25_692}
    assert CTRate(parts=both, reconstructions="all").published.cases == {"cv": 50_188}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ["train"]}, "lacks spacing and rescale"),
        ({"parts": ["train_fixed"], "metadata": "x.csv"}, "in HU with its spacing already"),
        ({"parts": ["train", "train_fixed"], "metadata": "x.csv"}, "hold the same scans"),
        ({"parts": ["test"]}, "parts: test: choose of train, train_fixed"),
        ({"parts": []}, "parts: empty"),
        ({"reconstructions": "last"}, "neither first nor all"),
    ],
)
def test_choices_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        CTRate(**arguments)


def test_only_headers_are_read_unless_asked(raw):
    path = raw / "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])
    assert "train_1_a_1" in run(raw).cases()
    with pytest.raises(InputError, match=r"train_1_a_1\.nii\.gz: truncated"):
        run(raw, check_voxels=True)
