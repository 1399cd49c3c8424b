import json
import re

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.files import write_json
from detpretrain.folds import read_fold
from detpretrain.geometry import Geometry

CASES = {"a1": ("a", "cv"), "a2": ("a", "cv"), "b1": ("b", "cv"), "c1": ("c", "cv"), "d1": ("d", "test")}
TWO_FOLDS = [{"train": ["a1", "a2", "b1"], "val": ["c1"]}, {"train": ["c1"], "val": ["a1", "a2", "b1"]}]


@pytest.fixture
def write(tmp_path):
    """``write(folds, cases)`` -> splits.json, cases.csv beside it."""

    def make(folds=TWO_FOLDS, cases=CASES):
        lines = [f"{case},{patient},{test_set}" for case, (patient, test_set) in cases.items()]
        (tmp_path / "cases.csv").write_text("\n".join(["case,patient,test_set", *lines]) + "\n")
        (tmp_path / "splits.json").write_text(json.dumps({"folds": folds}))
        return tmp_path / "splits.json"

    return make


def test_a_sound_fold_is_read_as_it_is(write):
    assert read_fold(write(), 0) == TWO_FOLDS[0]
    assert read_fold(write(), 1, trained_on=["c1"]) == TWO_FOLDS[1]


def test_a_third_part_is_kept(write):
    fold = {"train": ["a1", "a2"], "val": ["b1"], "test": ["c1"]}
    assert read_fold(write([fold]), 0) == fold


@pytest.mark.parametrize(
    ("folds", "number", "trained_on", "message"),
    [
        ([{"train": ["a1", "b1"], "val": ["a2"]}], 0, (), "fold 0: patient a in both train and val"),
        ([{"train": ["a1", "b1"], "val": ["c1", "b1"]}], 0, (), "fold 0: patient b in both train and val"),
        ([TWO_FOLDS[0], {"train": ["a1"], "val": ["a2"]}], 0, (), "fold 1: patient a in both train and val"),
        ([{"train": ["a1"], "val": ["b1"], "test": ["a2"]}], 0, (), "patient a in both train and test"),
        ([{"train": ["a1", "zz"], "val": ["b1"]}], 0, (), "fold 0: unknown cases zz"),
        ([{"train": ["a1", "d1"], "val": ["b1"]}], 0, (), "fold 0: unknown cases d1"),
        ([{"train": ["a1"], "val": []}], 0, (), "fold 0: no case in val"),
        (TWO_FOLDS, 2, (), "has 2 folds, from 0, and no fold 2"),
        # the split was edited after the model was trained
        (TWO_FOLDS, 0, ["c1"], "fold 0: patient c was trained on and is in what the model is scored on"),
        (TWO_FOLDS, 1, ["a2"], "fold 1: patient a was trained on and is in what the model is scored on"),
        (TWO_FOLDS, 0, ["d1"], "fold 0: patient d was trained on and is in what the model is scored on"),
    ],
)
def test_a_leak_is_one_line_that_names_the_file_and_the_patient(write, folds, number, trained_on, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_fold(write(folds), number, trained_on)
    assert str(error.value).startswith(f"{write(folds)}: ")
    assert str(error.value).endswith("prepare the task again")
    assert "\n" not in str(error.value)


def test_a_patient_of_the_training_part_in_a_test_set(write):
    with pytest.raises(InputError, match="fold 0: patient a was trained on and is in the test sets"):
        read_fold(write(cases={**CASES, "d1": ("a", "test")}), 0)


@pytest.fixture
def own_task(tmp_path):
    """A user's task folder with its own splits and patients: a1, a2 of one patient, b1, and t1 in a test set."""
    root = tmp_path / "own"
    write_json(root / "dataset.json", {"name": "own", "labels": {"0": "lesion"}, "modalities": {"0": "CT"}})
    noise, instances = np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32), np.zeros((6, 6, 6), np.uint8)
    instances[2:4, 2:4, 2:4] = 1
    geometry = Geometry((6, 6, 6), (1.0, 1.0, 1.0))
    for case, part in {"a1": "Tr", "a2": "Tr", "b1": "Tr", "t1": "Ts"}.items():
        folder = root / "raw_splitted"
        volumes.write(folder / f"images{part}" / f"{case}_0000.nii.gz", noise, geometry)
        volumes.write(folder / f"labels{part}" / f"{case}.nii.gz", instances, geometry)
        write_json(folder / f"labels{part}" / f"{case}.json", {"instances": {"1": 0}})
    return root


def adopt(own_task, patients, folds):
    lines = [f"{case},{patient}" for case, patient in patients.items()]
    (own_task / "cases.csv").write_text("\n".join(["case,patient", *lines]) + "\n")
    write_json(own_task / "splits.json", {"folds": folds})
    entry = {"class": "detpretrain.datasets.task_folder.TaskFolder", "raw": str(own_task)}
    prepare("own", entry, own_task.parent / "task")
    return own_task.parent / "task" / "splits.json"


PATIENTS = {"a1": "a", "a2": "a", "b1": "b", "t1": "t"}


def test_a_sound_official_split_is_taken(own_task):
    fold = {"train": ["a1", "a2"], "val": ["b1"]}
    assert read_fold(adopt(own_task, PATIENTS, [fold]), 0) == fold


def test_an_official_split_that_leaks_never_becomes_one(own_task):
    with pytest.raises(InputError, match="own: official splits: fold 0: patient a in both train and val: correct the"):
        adopt(own_task, PATIENTS, [{"train": ["a1", "b1"], "val": ["a2"]}])
    assert not (own_task.parent / "task").exists()


def test_a_patient_of_the_folds_in_a_test_set_is_refused(own_task):
    with pytest.raises(InputError, match="own: t1 of test set test: patient b is in the folds too: leave one of them"):
        adopt(own_task, PATIENTS | {"t1": "b"}, [{"train": ["a1", "a2"], "val": ["b1"]}])
    assert not (own_task.parent / "task").exists()
