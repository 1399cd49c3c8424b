import json

import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.datasets.nnunet import NnUNetDataset, read_labels
from detpretrain.datasets.prepare import prepare
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.tasks import Task
from detpretrain.training.pretrain import annotated_source

GEOMETRY = Geometry((8, 9, 10), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
VERSION_2 = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
VERSION_1 = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "tumour"}, "training": []}


def label_map(values):
    array = np.zeros(GEOMETRY.shape, np.uint8)
    for place, value in enumerate(values):
        array[place : place + 2, 2:5, 3:6] = value
    return array


def write_raw(folder, content, cases, dtype=np.uint8, ending=".nii.gz"):
    channels = content.get("channel_names") or content["modality"]
    for number, values in enumerate(cases):
        for channel in channels:
            image = np.random.default_rng([number, int(channel)]).normal(size=GEOMETRY.shape).astype(np.float32)
            volumes.write(folder / "imagesTr" / f"pat{number:02d}.a_{int(channel):04d}{ending}", image, GEOMETRY)
        volumes.write(folder / "labelsTr" / f"pat{number:02d}.a{ending}", label_map(values).astype(dtype), GEOMETRY)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def prepared(raw, folder, **arguments):
    entry = {"class": "detpretrain.datasets.nnunet.NnUNetDataset", "raw": str(raw), "splits": {"folds": 1}, **arguments}
    prepare("seg", entry, folder)
    return Task.read(folder)


def test_regions_and_the_ignore_label_reach_the_method(tmp_path):
    raw = write_raw(tmp_path / "raw", VERSION_2, [[1, 2, 3], [3, 4], [0], [1], [2]])
    task = prepared(raw, tmp_path / "task")
    assert task.cases()[0] == "pat00_a"
    assert task.modalities == {0: "T1", 1: "FLAIR"}
    source = annotated_source(task, 4)
    assert source.class_names == ["whole tumour", "core", "enhancing"]
    assert source.members == [[1, 2, 3], [2, 3], [3]]
    assert source.ignored == [4]
    assert source.cases == 4
    for case, values in (("pat00_a", {1, 2, 3}), ("pat01_a", {3, 4}), ("pat02_a", set())):
        array, geometry = volumes.read(task.label_path(case))
        assert geometry.difference(GEOMETRY) is None
        classes = task.annotation(case).classes
        assert {label + 1 for label in classes.values()} == values
        restored = sum((array == key) * (label + 1) for key, label in classes.items()) + np.zeros_like(array)
        np.testing.assert_array_equal(restored, volumes.read(raw / "labelsTr" / f"{case[:5]}.a.nii.gz")[0])


def test_version_1_and_float_maps(tmp_path):
    raw = write_raw(tmp_path / "raw", VERSION_1, [[1, 2], [2]] + [[1]] * 4, dtype=np.float32)
    task = prepared(raw, tmp_path / "task", modality="MR")
    assert task.labels == {0: "liver", 1: "tumour"}
    assert task.modalities == {0: "MR"}
    assert not task.regions
    assert annotated_source(task, 5).members == [[1], [2]]
    assert volumes.is_integer(task.label_path("pat00_a"))


def test_patients_from_the_case_names(tmp_path):
    raw = write_raw(tmp_path / "raw", VERSION_1, [[1]] * 6)
    task = prepared(raw, tmp_path / "task", patient=r"^pat\d(\d)")
    assert sorted(task.case_table()["patient"]) == list("012345")
    with pytest.raises(InputError, match="correct patient:"):
        prepared(raw, tmp_path / "other", patient=r"^case(\d)")


def test_labels_without_gaps_are_not_asked_for():
    labels = read_labels("dataset.json", {"labels": {"background": 0, "a": 2, "b": 7}})
    assert labels.values == [2, 7]
    assert labels.names == ["a", "b"]
    assert labels.regions == {}
    assert labels.ignore is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no labels"),
        ({"labels": {"background": 0}}, "no value above 0"),
        ({"labels": {"background": 0, "a": "x"}}, "whole numbers"),
        ({"labels": [1, 2]}, "no labels"),
    ],
)
def test_malformed_labels_are_input_errors(content, message):
    with pytest.raises(InputError, match=message):
        read_labels("dataset.json", content)


def test_defects_are_named(tmp_path):
    raw = write_raw(tmp_path / "raw", VERSION_1, [[1], [2]])
    (raw / "labelsTr" / "pat01.a.nii.gz").unlink()
    with pytest.raises(InputError, match=r"labelsTr/pat01\.a\.nii\.gz: file not found"):
        prepared(raw, tmp_path / "a")
    volumes.write(raw / "labelsTr" / "pat01.a.nii.gz", label_map([3]), GEOMETRY)
    with pytest.raises(InputError, match=r"holds value 3, which dataset\.json does not name"):
        prepared(raw, tmp_path / "b")
    volumes.write(raw / "labelsTr" / "pat01.a.nii.gz", label_map([1]).astype(np.float32) / 2, GEOMETRY)
    with pytest.raises(InputError, match="holds fractions"):
        prepared(raw, tmp_path / "c")
    (raw / "dataset.json").write_text(json.dumps({**VERSION_1, "modality": None}))
    with pytest.raises(InputError, match="no channel_names"):
        prepared(raw, tmp_path / "d")
    empty = write_raw(tmp_path / "empty", VERSION_1 | {"file_ending": ".mha"}, [[1]])
    with pytest.raises(InputError, match=r"no CASE_0000\.mha in it"):
        prepared(empty, tmp_path / "e")


def test_the_class_takes_no_raw_folder_for_granted():
    with pytest.raises(InputError, match="raw: missing"):
        NnUNetDataset().write(None, None)
