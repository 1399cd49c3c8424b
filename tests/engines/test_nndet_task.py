import json
import pickle
from dataclasses import replace

import nndet_standin
import numpy as np
import pytest
from nifti_files import AFFINES, write_nifti
from nndet_tasks import CASES, FOLDS, IGNORED, TESTS

from detpretrain import volumes
from detpretrain.engines import nndet_task
from detpretrain.errors import InputError
from detpretrain.preprocessing.raw_case import find_cases
from detpretrain.tasks import Task


@pytest.fixture
def written(task, tmp_path):
    folder = nndet_task.task_folder(tmp_path / "work", "far")
    nndet_task.write_task(Task.read(task), "far", folder)
    return folder


def test_task_is_one_that_nndetection_reads(written):
    assert written.parts[-2:] == ("data", "Task100_far")
    assert sorted(nndet_standin.check_task(written)) == CASES  # and none of a test set
    content = json.loads((written / "dataset.json").read_text())
    assert content["labels"] == {"0": "lesion", "1": "cyst"}
    assert content["annotation_style"] == "seg"


def test_files_that_fit_are_links_and_others_are_written_anew(written, task):
    before = (task / "raw_splitted" / "labelsTr" / f"{IGNORED}.nii.gz").read_bytes()
    for case in CASES:
        image = written / "raw_splitted" / "imagesTr" / f"{case}_0000.nii.gz"
        label = written / "raw_splitted" / "labelsTr" / f"{case}.nii.gz"
        assert image.resolve() == task / "raw_splitted" / "imagesTr" / image.name
        assert label.is_symlink() == (case != IGNORED)
    found, geometry = volumes.read(written / "raw_splitted" / "labelsTr" / f"{IGNORED}.nii.gz")
    source, own = volumes.read(task / "raw_splitted" / "labelsTr" / f"{IGNORED}.nii.gz")
    np.testing.assert_array_equal(found, np.select([source == 1, source == 3], [1, 2], 0))
    assert geometry.matches(own)
    assert (task / "raw_splitted" / "labelsTr" / f"{IGNORED}.nii.gz").read_bytes() == before


def test_writing_again_replaces_links_and_no_source(written, task):
    label = task / "raw_splitted" / "labelsTr" / "case_0.nii.gz"
    before = label.read_bytes()
    annotation = task / "raw_splitted" / "labelsTr" / "case_0.json"
    annotation.write_text(json.dumps({"instances": {"1": 0, "2": 1, "3": 0}, "ignored": ["1"]}))
    nndet_task.write_task(Task.read(task), "far", written)
    assert label.read_bytes() == before
    nndet_standin.check_task(written)
    content = json.loads((written / "raw_splitted" / "labelsTr" / "case_0.json").read_text())
    assert content == {"instances": {"1": 1, "2": 0}}


def test_boxes_without_masks_are_weak_and_covered_ones_are_told(task, tmp_path, capsys):
    annotation = task / "raw_splitted" / "labelsTr" / "case_0.json"
    box = [1, 2, 3, 4, 5, 6]
    content = {"instances": {str(n): 0 for n in (1, 2, 3, 9)}, "boxes": {str(n): box for n in (1, 2, 3, 9)}}
    annotation.write_text(json.dumps(content))
    nndet_task.write_task(Task.read(task), "far", tmp_path / "Task100_far")
    assert "case_0: 1 objects without a voxel" in capsys.readouterr().out
    nndet_standin.check_task(tmp_path / "Task100_far")
    assert json.loads((tmp_path / "Task100_far" / "dataset.json").read_text())["annotation_style"] == "weak"


@pytest.mark.parametrize("count", [3, 300])
def test_renumbered_is_what_a_loop_makes(count):
    rng = np.random.default_rng(count)
    instances = rng.integers(-1, 2 * count, (6, 7, 8))
    ids = sorted(rng.choice(np.arange(1, 2 * count), count, replace=False).tolist())
    found = nndet_task.renumbered(instances, ids)
    expected = [
        [[ids.index(value) + 1 if value in ids else 0 for value in row] for row in plane] for plane in instances
    ]
    assert found.tolist() == expected
    assert found.dtype == (np.uint8 if count < 256 else np.int32)


def test_no_object_at_all_is_background():
    assert not nndet_task.renumbered(np.full((2, 2, 2), 5), []).any()


def test_splits_are_written_as_nndetection_does(tmp_path):
    folds = [{"train": ["b", "a"], "val": ["d", "c"], "test": ["e"]}, {"train": ["d", "c"], "val": ["a", "b"]}]
    nndet_task.write_splits(tmp_path, folds)
    expected = [{"train": ["a", "b"], "val": ["c", "d"]}, {"train": ["c", "d"], "val": ["a", "b"]}]
    assert json.loads((tmp_path / "splits_final.json").read_text()) == expected
    assert pickle.loads((tmp_path / "splits_final.pkl").read_bytes()) == expected


def test_cells_share_the_prepared_task_but_for_the_splits(prepared, tmp_path):
    source = nndet_task.task_folder(prepared, "far")
    (source / "preprocessed" / "splits_final.pkl").write_bytes(pickle.dumps("nnDetection's own"))
    before = sorted(path.relative_to(source) for path in source.rglob("*"))
    target = nndet_task.task_folder(tmp_path / "cell", "far")
    for _ in range(2):  # again, as after an interruption
        nndet_task.with_own_splits(source, target, FOLDS)
    assert json.loads((target / "preprocessed" / "splits_final.json").read_text()) == FOLDS
    assert pickle.loads((target / "preprocessed" / "splits_final.pkl").read_bytes()) == FOLDS
    assert pickle.loads((source / "preprocessed" / "splits_final.pkl").read_bytes()) == "nnDetection's own"
    assert sorted(path.relative_to(source) for path in source.rglob("*")) == before
    assert (target / "preprocessed" / "D3V002_3d" / "imagesTr" / "case_0.npy").resolve().is_relative_to(source)
    assert (target / "dataset.json").resolve() == source / "dataset.json"


@pytest.mark.parametrize("name", ["with.dot", "with space", "a_seg_b", "ä"])
def test_folders_that_nndetection_cannot_work_in_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="takes only paths of letters, digits") as error:
        nndet_task.check_folder(tmp_path / name / "deep")
    assert "\n" not in str(error.value)
    assert nndet_task.check_folder(tmp_path / "plain-1_x") == tmp_path / "plain-1_x"


def test_cases_that_nndetection_passes_over_are_refused(task, tmp_path):
    (case, *_) = find_cases(Task.read(task))
    with pytest.raises(InputError, match="case a_seg: nnDetection passes over names with '_seg'"):
        nndet_task.link_images([replace(case, case="a_seg")], tmp_path / "images")


def test_test_sets_become_folders_of_their_own(task, tmp_path):
    cases = find_cases(Task.read(task), "test")
    nndet_task.link_images(cases, tmp_path / "images")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [f"{case}_0000.nii.gz" for case in TESTS]


def test_missing_images_and_labels_are_one_line(task, tmp_path):
    (task / "raw_splitted" / "imagesTr" / "case_2_0000.nii.gz").unlink()
    (task / "raw_splitted" / "imagesTr" / "case_2_0001.nii.gz").symlink_to(tmp_path / "nowhere")
    content = json.loads((task / "dataset.json").read_text())
    with pytest.raises(InputError, match="case_2"):
        nndet_task.write_task(Task.read(task), "far", tmp_path / "Task100_far")
    (task / "dataset.json").write_text(json.dumps({**content, "labels": {}}))
    with pytest.raises(InputError, match="has no labels: nnDetection cannot be trained on it"):
        nndet_task.write_task(Task.read(task), "far", tmp_path / "other")


def test_environment_is_nndetection_s_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("det_logging", "true")
    monkeypatch.setenv("KEPT", "yes")
    found = nndet_task.environment(tmp_path, workers=0)
    assert (found["det_data"], found["det_models"]) == (str(tmp_path / "data"), str(tmp_path / "models"))
    assert (found["OMP_NUM_THREADS"], found["det_num_threads"], found["KEPT"]) == ("1", "1", "yes")
    assert not {"PYTHONPATH", "det_logging"} & set(found)
    assert nndet_task.environment(tmp_path, workers=7)["det_num_threads"] == "7"


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("auto", None, None),
        ("cuda", "3,5", "3,5"),
        ("cuda:1", None, "1"),
        ("cuda:1", "3,5", "5"),
        ("cuda:0", "GPU-ab", "GPU-ab"),
        ("cuda:4", "3,5", "4"),
    ],
)
def test_one_gpu_alone_is_shown_where_the_study_names_one(tmp_path, monkeypatch, device, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nndet_task.environment(tmp_path, 1, device).get("CUDA_VISIBLE_DEVICES") == expected


def test_maps_of_many_objects_stay_integers(task, tmp_path):
    instances = np.zeros((14, 24, 21), np.int16)
    instances.flat[: 2 * 300 : 2] = np.arange(2, 302)
    write_nifti(task / "raw_splitted" / "labelsTr" / "case_0.nii.gz", instances, AFFINES["lps"])
    annotation = {"instances": {str(number): 0 for number in range(2, 302)}}
    (task / "raw_splitted" / "labelsTr" / "case_0.json").write_text(json.dumps(annotation))
    nndet_task.write_task(Task.read(task), "far", tmp_path / "Task100_far")
    nndet_standin.check_task(tmp_path / "Task100_far")
