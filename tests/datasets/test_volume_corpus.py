import pytest

from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.volume_corpus import VolumeCorpus
from detpretrain.errors import InputError
from detpretrain.task_writer import TaskWriter
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
    writer = TaskWriter(tmp_path, "corpus")
    VolumeCorpus(patterns=["ms_lesions/*/*.nii.gz"], patient=r"([^/]+)/[^/]+$").write(mini_raw, writer)
    assert set(writer.patients().values()) == {"patient07", "patient19"}
    with pytest.raises(InputError, match="names no patient"):
        VolumeCorpus(patterns=["ct/*"], patient="sub-([0-9]+)").write(mini_raw, TaskWriter(tmp_path, "other"))


def test_nothing_matches(mini_raw, tmp_path):
    with pytest.raises(InputError, match="no file matches"):
        VolumeCorpus(patterns=["brats/*/T2.nii.gz"]).write(mini_raw, TaskWriter(tmp_path, "c"))
    with pytest.raises(InputError, match="patterns: empty"):
        VolumeCorpus(patterns=[])


def test_real_volumes(real_data, tmp_path):
    patterns = ["brats/*/T1c.nii.gz", "ct/*.nii.gz"]
    prepare("corpus", {**ENTRY, "raw": str(real_data), "patterns": patterns}, tmp_path / "task")
    assert len(Task.read(tmp_path / "task").cases()) == 6
