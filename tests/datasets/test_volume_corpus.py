import pytest

from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.volume_corpus import VolumeCorpus
from detpretrain.errors import InputError
from detpretrain.tasks import Task

ENTRY = {"class": "detpretrain.datasets.volume_corpus.VolumeCorpus"}
PATTERNS = ["brats/*/T1c.nii.gz", "ms_lesions/*/*.nii.gz", "ct/*.nii.gz", "ms_lesions/*/T1.nii.gz"]


def test_every_matching_volume_is_one_case(mini_raw, tmp_path):
    prepare("corpus", {**ENTRY, "raw": str(mini_raw), "patterns": PATTERNS}, tmp_path / "task")
    task = Task.read(tmp_path / "task")
    assert not task.labelled
    assert task.modalities == {0: "MR"}
    table = task.case_table().set_index("case")
    assert len(table) == 3 + 2 * 4 + 1  # a file that two patterns match counts once
    assert table.loc["ms_lesions_patient07_T1", "source_id"] == "ms_lesions/patient07/T1.nii.gz"
    assert table.loc["brats_pat0000_1_T1c", "patient"] == "brats_pat0000_1"
    assert table.loc["ct_scan", "patient"] == "scan"  # a flat folder: every file is a patient
    (fold,) = task.folds()
    assert not {table.loc[c, "patient"] for c in fold["train"]} & {table.loc[c, "patient"] for c in fold["val"]}
    assert all(path.is_symlink() for case in task.cases() for path in task.image_paths(case))


def test_patient_pattern(mini_raw, tmp_path):
    entry = {**ENTRY, "raw": str(mini_raw), "patterns": ["ms_lesions/*/*.nii.gz"]}
    prepare("corpus", {**entry, "patient": r"([^/]+)/[^/]+$"}, tmp_path / "task")
    assert set(Task.read(tmp_path / "task").case_table()["patient"]) == {"patient07", "patient19"}
    with pytest.raises(
        InputError, match=r"ms_lesions/patient07/FLAIR\.nii\.gz: names no patient by .*: correct patient:"
    ):
        prepare("corpus", {**entry, "patient": "sub-([0-9]+)"}, tmp_path / "other")


def test_nothing_matches(mini_raw, tmp_path):
    with pytest.raises(InputError, match=r"T2\.nii\.gz: no file matches: correct patterns:"):
        prepare("corpus", {**ENTRY, "raw": str(mini_raw), "patterns": ["brats/*/T2.nii.gz"]}, tmp_path / "task")
    with pytest.raises(InputError, match="patterns: empty"):
        VolumeCorpus(patterns=[])


@pytest.mark.parametrize("choice", [{}, {"check_voxels": False}])
def test_voxels_are_checked_unless_only_headers_are_wanted(mini_raw, tmp_path, choice):
    path = mini_raw / "brats" / "pat0001.1" / "T1c.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    entry = {**ENTRY, "raw": str(mini_raw), "patterns": ["brats/*/T1c.nii.gz"], **choice}
    if choice:
        prepare("corpus", entry, tmp_path / "task")
        assert len(Task.read(tmp_path / "task").cases()) == 3
    else:
        with pytest.raises(InputError, match=r"pat0001\.1/T1c\.nii\.gz: truncated"):
            prepare("corpus", entry, tmp_path / "task")


def test_a_random_subset_of_patients(mini_raw, tmp_path):
    entry = {**ENTRY, "raw": str(mini_raw), "patterns": PATTERNS, "max_cases": 6, "seed": 4}
    prepare("corpus", entry, tmp_path / "task")
    table = Task.read(tmp_path / "task").case_table()
    assert 2 <= len(table) <= 6
    assert table.groupby("patient").size().to_dict().get("ms_lesions_patient07", 4) == 4


def test_real_volumes(real_data, tmp_path):
    patterns = ["brats/*/T1c.nii.gz", "ct/*.nii.gz"]
    prepare("corpus", {**ENTRY, "raw": str(real_data), "patterns": patterns}, tmp_path / "task")
    assert len(Task.read(tmp_path / "task").cases()) == 6
