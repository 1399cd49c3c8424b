import json

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.task_writer import TaskWriter
from detpretrain.tasks import Annotation, Task, folder_suffix, read_splits, test_set_of

GEOMETRY = Geometry((6, 7, 8), (2.0, 1.0, 1.0))


def _written(root, labels=("a", "b")) -> Task:
    writer = TaskWriter(root, "demo", folds=2)
    writer.describe(labels=list(labels), modalities=["T1", "T2"])
    for number, test_set in enumerate(["cv", "cv", "test", "internal"]):
        instances = np.zeros(GEOMETRY.shape, np.uint8)
        instances[1:3, 2:4, 2:5] = 1
        image = np.full(GEOMETRY.shape, number, np.int16)
        truth = {"instances": instances, "classes": {1: number % 2}} if labels else {}
        patient = "007" if test_set == "cv" else "008"
        writer.add_case(f"case_{number}_x", [image, image], GEOMETRY, patient=patient, test_set=test_set, **truth)
    if not labels:
        image = np.zeros(GEOMETRY.shape, np.int16)
        writer.add_case("other", [image, image], GEOMETRY)
    else:
        writer.add_case("other", [image, image], GEOMETRY, instances=instances * 0, classes={}, patient="NA")
    writer.finish()
    return Task.read(root)


def test_a_written_task_reads_back(tmp_path):
    task = _written(tmp_path / "t")
    assert (task.name, task.labels, task.modalities) == ("demo", {0: "a", 1: "b"}, {0: "T1", 1: "T2"})
    assert task.test_sets == ["cv", "internal", "test"]
    assert task.cases() == ["case_0_x", "case_1_x", "other"]
    assert task.cases("test") == ["case_2_x"]
    assert task.cases("internal") == ["case_3_x"]
    assert [p.name for p in task.image_paths("case_1_x")] == ["case_1_x_0000.nii.gz", "case_1_x_0001.nii.gz"]
    assert task.label_path("case_3_x") == tmp_path / "t/raw_splitted/labelsTs_internal/case_3_x.nii.gz"
    assert task.annotation("case_1_x") == Annotation({1: 1})
    assert task.annotation("other") == Annotation({})
    assert all(path.is_file() for path in task.image_paths("case_2_x"))


def test_identifiers_stay_text(tmp_path):
    table = _written(tmp_path).case_table().set_index("case")
    assert table.loc["case_0_x", "patient"] == "007"
    assert table.loc["other", "patient"] == "NA"
    assert table.loc["other", "session"] == ""


def test_corpus_without_labels(tmp_path):
    task = _written(tmp_path, labels=())
    assert not task.labelled
    assert not (tmp_path / "raw_splitted" / "labelsTr").exists()
    assert task.objects().empty


def test_unknown_case(tmp_path):
    with pytest.raises(InputError, match="no case 'nobody'"):
        _written(tmp_path).image_paths("nobody")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("imagesTr", "cv"),
        ("imagesTs", "test"),
        ("imagesTs_internal", "internal"),
        ("imagesTsX", None),
        ("images", None),
    ],
)
def test_names_of_test_sets(folder, name):
    assert test_set_of(folder) == name
    if name:
        assert f"images{folder_suffix(name)}" == folder


def test_yaml_dataset_files_are_read(tmp_path):
    (tmp_path / "dataset.yaml").write_text("task: Task012_LIDC\nlabels: {'0': nodule}\nmodalities: {'0': CT}\n")
    task = Task.read(tmp_path)
    assert (task.name, task.labels, task.modalities) == ("Task012_LIDC", {0: "nodule"}, {0: "CT"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": {"0": "a"}}, "names no modalities"),
        ({"labels": {"1": "a"}, "modalities": {"0": "CT"}}, r"numbered \[1\]"),
        ({"labels": ["a"], "modalities": {"0": "CT"}}, "labels must be"),
        ([1, 2], "holds no mapping"),
    ],
)
def test_malformed_dataset_files(tmp_path, content, message):
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        Task.read(tmp_path)
    assert str(tmp_path / "dataset.json") in str(caught.value)


def test_no_dataset_file(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json: file not found"):
        Task.read(tmp_path)


def test_annotation_with_boxes_and_ignored_round_trips(tmp_path):
    annotation = Annotation({1: 0, 2: 1}, {1: [0.5, 1, 2, 3, 4, 5], 2: [1, 2, 3, 4, 5, 6]}, {2})
    (tmp_path / "c.json").write_text(json.dumps(annotation.to_json()))
    assert Annotation.read(tmp_path / "c.json") == annotation


@pytest.mark.parametrize(
    "content", [{}, {"instances": [1]}, {"instances": {"x": 0}}, {"instances": {"1": "lesion"}}, []]
)
def test_malformed_annotations(tmp_path, content):
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not an annotation"):
        Annotation.read(tmp_path / "c.json")


def test_folds_have_a_test_part_where_the_file_has_one(tmp_path):
    path = tmp_path / "splits.json"
    for fold in ({"train": ["a"], "val": ["b"]}, {"train": ["a"], "val": ["b"], "test": ["c", "d"]}):
        path.write_text(json.dumps({"folds": [{**fold, "comment": ["x"]}]}))
        assert read_splits(path) == [fold]
    path.write_text(json.dumps({"folds": [{"train": ["a"], "test": ["b"]}]}))
    with pytest.raises(InputError, match=r"splits\.json: not a list of folds"):
        read_splits(path)
