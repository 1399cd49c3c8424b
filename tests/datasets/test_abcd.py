import json

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets.abcd import ABCD
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.abcd.ABCD"}
GEOMETRY = Geometry((5, 6, 7), (1.0, 1.0, 1.2))
BASE, LATER = "ses-baselineYear1Arm1", "ses-2YearFollowUpYArm1"


def put(raw, subject, session, suffix, run="", ending=".nii.gz"):
    path = raw / subject / session / "anat" / f"{subject}_{session}_{run}{suffix}{ending}"
    array = np.arange(5 * 6 * 7, dtype=np.int16).reshape(GEOMETRY.shape)
    volumes.write(path.with_name("x.nii.gz"), array, GEOMETRY)
    if ending == ".nii.gz":
        return path.with_name("x.nii.gz").rename(path)
    import SimpleITK as sitk

    sitk.WriteImage(sitk.ReadImage(str(path.with_name("x.nii.gz"))), str(path))
    path.with_name("x.nii.gz").unlink()
    return path


@pytest.fixture
def raw(tmp_path):
    raw = tmp_path / "abcd"
    put(raw, "sub-NDARINV0001", BASE, "T1w", "run-01_")
    put(raw, "sub-NDARINV0001", BASE, "T2w", "run-01_")
    put(raw, "sub-NDARINV0001", LATER, "T1w")
    put(raw, "sub-NDARINV0002", BASE, "T1w", ending=".nii")
    put(raw, "sub-NDARINV0002", BASE, "T1wref")
    (raw / "participants.tsv").write_text("participant_id\tage\nsub-NDARINV0001\t9\nsub-NDARINV0002\t9\n")
    return raw


def run(raw, **arguments):
    prepare("abcd", {**ENTRY, "raw": str(raw), **arguments}, raw.parent / "out" / "task")
    return Task.read(raw.parent / "out" / "task")


def test_structural_images_of_every_visit(raw):
    task = run(raw)
    table = task.case_table().set_index("case")
    assert sorted(table["modality"]) == ["T1w", "T1w", "T1w", "T2w"]  # T1wref is something else
    assert task.modalities == {0: "MR"}
    line = table[table["session"] == LATER].iloc[0]
    assert line["patient"] == "sub-NDARINV0001"
    assert line["source_id"] == f"sub-NDARINV0001/{LATER}/anat/sub-NDARINV0001_{LATER}_T1w.nii.gz"
    assert line[["spacing_z", "spacing_x", "shape_y"]].tolist() == [1.0, 1.2, 6]
    paths = {case: task.image_paths(case)[0] for case in task.cases()}
    linked = {case for case, path in paths.items() if path.is_symlink()}
    assert set(paths) - linked == {c for c in paths if "NDARINV0002" in c}  # .nii is packed
    (fold,) = task.folds()
    assert not {table.loc[c, "patient"] for c in fold["train"]} & {table.loc[c, "patient"] for c in fold["val"]}
    assert "Casey" in json.loads((task.root / "dataset.json").read_text())["citation"]


def test_chosen_suffixes(raw):
    assert len(run(raw, suffixes=["T1w"]).cases()) == 3


def test_a_listed_participant_without_image_stops_unless_accepted(raw):
    sheet = raw / "participants.tsv"
    sheet.write_text(sheet.read_text() + "NDARINV0003\t9\n")
    with pytest.raises(InputError, match=r"abcd: 1 listed, not found: sub-NDARINV0003: complete the download"):
        run(raw)
    assert len(run(raw, allow_partial=True).cases()) == 4


def test_a_subject_folder_without_the_image_is_missing_too(raw):
    (raw / "sub-NDARINV0004" / BASE).mkdir(parents=True)
    with pytest.raises(InputError, match="not found: sub-NDARINV0004"):
        run(raw)


@pytest.mark.parametrize(
    ("old", "new"),
    [("sub-NDARINV0001", "sub-NDARINV0009"), (LATER, BASE), ("sub-NDARINV0001_", "")],
)
def test_a_name_that_contradicts_its_folder(raw, old, new):
    path = raw / "sub-NDARINV0001" / LATER / "anat" / f"sub-NDARINV0001_{LATER}_T1w.nii.gz"
    path.rename(path.with_name(path.name.replace(old, new)))
    with pytest.raises(
        InputError, match=r"T1w\.nii\.gz: its name does not say the subject and session.*: rename or remove"
    ):
        run(raw)


def test_the_same_image_packed_and_not(raw):
    put(raw, "sub-NDARINV0002", BASE, "T1w")
    with pytest.raises(InputError, match=r"is that of .* too: remove or rename one of them"):
        run(raw)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no sub-\*/ses-\*/anat/\*_T1w\.nii\.gz in it: unpack the archives"):
        run(tmp_path / "empty")


def test_a_sheet_of_another_form(raw):
    (raw / "participants.tsv").write_text("subject\n1\n")
    with pytest.raises(InputError, match=r"participants\.tsv: no column participant_id"):
        run(raw)


def test_suffixes_are_a_list():
    with pytest.raises(InputError, match="suffixes: list at least one"):
        ABCD(suffixes="T1w")
