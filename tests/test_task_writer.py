import json

import numpy as np
import pytest
import SimpleITK as sitk

from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.task_writer import TaskWriter
from detpretrain.tasks import Task

GEOMETRY = Geometry((8, 9, 10), (2.5, 1.0, 0.5))
BOX = ["z1", "y1", "x1", "z2", "y2", "x2"]


def _map() -> np.ndarray:
    instances = np.zeros(GEOMETRY.shape, np.uint8)
    instances[0:2, 3:5, 4:8] = 1
    instances[5, 6, 7] = 2
    return instances


def _image() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 400, GEOMETRY.shape).astype(np.int16)


def _writer(root, **kwargs) -> TaskWriter:
    writer = TaskWriter(root, "demo", **{"folds": 2, **kwargs})
    writer.describe(labels=["small", "large"], modalities=["CT"])
    return writer


def _add(writer, case, **kwargs) -> None:
    writer.add_case(case, [_image()], GEOMETRY, **{"instances": _map(), "classes": {1: 1, 2: 0}, **kwargs})


def test_tables_of_a_hand_worked_case(tmp_path):
    writer = _writer(tmp_path)
    _add(writer, "a", ignored=[2], patient="p1", session="day0", source_id="RAW/1")
    _add(writer, "b")
    writer.finish()
    task = Task.read(tmp_path)
    objects = task.objects()
    first = objects[objects["case"] == "a"]
    assert first["truth"].tolist() == [1, 2]
    assert first["class"].tolist() == [1, 0]
    assert first[BOX].to_numpy().tolist() == [[-1, 2, 3, 2, 5, 8], [4, 5, 6, 6, 7, 8]]
    assert first["ignored"].tolist() == [False, True]
    row = task.case_table().iloc[0]
    assert row[["case", "source_id", "patient", "session", "test_set"]].tolist() == ["a", "RAW/1", "p1", "day0", "cv"]
    assert row[["spacing_z", "spacing_y", "spacing_x"]].tolist() == [2.5, 1.0, 0.5]
    assert row[["shape_z", "shape_y", "shape_x"]].tolist() == [8, 9, 10]
    assert row[["objects_0", "objects_1"]].tolist() == [1, 1]
    assert row["size"] == task.image_paths("a")[0].stat().st_size
    assert json.loads((tmp_path / "dataset.json").read_text())["labels"] == {"0": "small", "1": "large"}
    assert len(task.folds()) == 2


def test_boxes_of_the_sheet_are_kept(tmp_path):
    writer = _writer(tmp_path)
    sheet = {1: [-0.5, 2.25, 3.5, 2.0, 5.0, 8.0], 2: [4, 5, 6, 6, 7, 8]}
    _add(writer, "a", boxes=sheet)
    _add(writer, "b")
    writer.finish()
    task = Task.read(tmp_path)
    assert task.annotation("a").boxes == sheet
    objects = task.objects()
    assert objects[objects["case"] == "a"][BOX].to_numpy().tolist() == list(sheet.values())


def test_fitting_files_are_linked_and_others_converted(tmp_path):
    source = tmp_path / "raw"
    volumes.write(source / "i.nii.gz", _image(), GEOMETRY)
    label = sitk.GetImageFromArray(_map())
    GEOMETRY.apply_to(label)
    sitk.WriteImage(label, str(source / "m.mha"))
    writer = _writer(tmp_path / "t")
    for case in ("a", "b"):
        writer.add_case(case, [source / "i.nii.gz"], instances=source / "m.mha", classes={1: 0, 2: 0})
    writer.finish()
    task = Task.read(tmp_path / "t")
    (image,) = task.image_paths("a")
    assert image.is_symlink()
    assert image.resolve() == (source / "i.nii.gz").resolve()
    assert not task.label_path("a").is_symlink()
    np.testing.assert_array_equal(volumes.read(task.label_path("a"))[0], _map())


def test_nothing_is_a_task_before_it_is_finished(tmp_path):
    _add(_writer(tmp_path), "a")
    with pytest.raises(InputError, match=r"dataset\.json"):
        Task.read(tmp_path)


def test_patients_stay_together_and_test_sets_stay_out_of_the_folds(tmp_path):
    writer = _writer(tmp_path, folds=3)
    for patient in range(4):
        for session in range(2):
            _add(writer, f"c{patient}{session}", patient=f"p{patient}")
    _add(writer, "t", test_set="test")
    writer.finish()
    folds = Task.read(tmp_path).folds()
    assert sorted(case for fold in folds for case in fold["val"]) == [f"c{p}{s}" for p in range(4) for s in range(2)]
    for fold in folds:
        assert not {case[1] for case in fold["train"]} & {case[1] for case in fold["val"]}


def test_official_folds_replace_the_seeded_ones(tmp_path):
    writer = _writer(tmp_path, exclude_cases={"c": "broken"})
    for case in "abc":
        _add(writer, case)
    writer.official_folds = [{"train": ["a", "c"], "val": ["b"]}]
    writer.finish()
    assert Task.read(tmp_path).folds() == [{"train": ["a"], "val": ["b"]}]


def test_leaking_official_folds_are_refused(tmp_path):
    writer = _writer(tmp_path)
    for case in "ab":
        _add(writer, case, patient="p")
    writer.official_folds = [{"train": ["a"], "val": ["b"]}]
    with pytest.raises(InputError, match="patient p in both"):
        writer.finish()


def test_excluded_cases_are_left_out_and_recorded(tmp_path):
    writer = _writer(tmp_path, exclude_cases={"b": "motion"})
    for case in "abc":
        _add(writer, case)
    writer.finish()
    assert Task.read(tmp_path).cases() == ["a", "c"]
    assert json.loads((tmp_path / "dataset.json").read_text())["excluded_cases"] == {"b": "motion"}


def test_an_excluded_case_that_does_not_exist(tmp_path):
    writer = _writer(tmp_path, exclude_cases={"zz": "typo"})
    _add(writer, "a")
    with pytest.raises(InputError, match="zz: no such case"):
        writer.finish()


@pytest.mark.parametrize("case", ["a.b", "a/b", "", "_a", "a b", "é"])
def test_unsafe_case_ids(tmp_path, case):
    with pytest.raises(InputError, match="letters, digits"):
        _add(_writer(tmp_path), case)


def test_a_case_twice(tmp_path):
    writer = _writer(tmp_path)
    _add(writer, "a")
    with pytest.raises(InputError, match="comes twice"):
        _add(writer, "a")


def test_no_cases(tmp_path):
    with pytest.raises(InputError, match="no cases found"):
        _writer(tmp_path).finish()


def test_wrong_number_of_channels(tmp_path):
    with pytest.raises(ValueError, match="2 images"):
        _writer(tmp_path).add_case("a", [_image(), _image()], GEOMETRY, instances=_map(), classes={1: 0, 2: 0})
