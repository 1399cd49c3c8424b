import numpy as np
import pytest

from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.preprocessing.raw_case import find_cases, read_raw_case
from detpretrain.tasks import Task

SHAPE = (6, 7, 8)


def image(value=1.0):
    return np.full(SHAPE, value, np.float32)


def two_instances(dtype=np.uint8):
    instances = np.zeros(SHAPE, dtype)
    instances[1:3, 2:4, 2:4] = 1
    instances[4:6, 4:6, 5:8] = 2
    return instances


def read(folder, test_set="cv"):
    (files,) = find_cases(Task.read(folder.root), test_set)
    return read_raw_case(files)


def test_channels_instances_and_objects(make_task):
    task = make_task(labels=("a", "b"), modalities=("MR", "MR"))
    task.add("c", [image(1), image(2)], two_instances(), {1: 1, 2: 0}, spacing=(3.0, 1.0, 2.0))
    case = read(task)
    np.testing.assert_array_equal(case.images, np.stack([image(1), image(2)]))
    assert case.geometry.spacing == (3.0, 1.0, 2.0)
    ids, classes, boxes = case.objects()
    assert (ids.tolist(), classes.tolist()) == ([1, 2], [1, 0])
    np.testing.assert_array_equal(boxes, [[0, 1, 1, 3, 4, 4], [3, 3, 4, 6, 6, 8]])


def test_ignored_objects_do_not_count_and_given_boxes_win(make_task):
    task = make_task()
    given = [0.5, 1.5, 1.5, 3.5, 4.5, 4.5]
    task.add("c", [image()], two_instances(), {1: 0, 2: 0}, boxes={"1": given}, ignored=["2"])
    ids, _, boxes = read(task).objects()
    assert ids.tolist() == [1]
    np.testing.assert_array_equal(boxes, [given])


def test_a_corpus_and_a_test_set_without_labels(make_task):
    corpus = make_task(labels=(), name="corpus")
    corpus.add("c", [image()])
    assert read(corpus).instances is None
    task = make_task()
    task.add("c", [image()], suffix="Ts_far")
    assert read(task, "far").annotation is None


def test_a_training_case_must_have_a_label(make_task):
    task = make_task()
    task.add("c", [image()])
    with pytest.raises(InputError, match=r"c\.nii\.gz: file not found"):
        read(task)


def test_float_label_maps_are_read_when_they_hold_whole_numbers(make_task):
    task = make_task()
    task.add("c", [image()], two_instances(np.float32), {1: 0, 2: 0})
    assert read(task).instances.dtype == np.int32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a / 2, "fractional values"),
        (lambda a: -a.astype(np.int16), "negative ids"),
        (lambda a: a * 5, "no class for instance 5, 10"),
        (lambda a: np.where(a == 2, 0, a).astype(np.uint8), "instance 2 has no voxel"),
    ],
)
def test_bad_instance_maps(make_task, change, message):
    task = make_task()
    task.add("c", [image()], change(two_instances()), {1: 0, 2: 0})
    with pytest.raises(InputError, match=message):
        read(task)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(make_task, monkeypatch, bad):
    task = make_task()
    task.add("c", [image()], two_instances(), {1: 0, 2: 0})
    broken = image()
    broken[1, 2, 3] = bad
    # Handed in, because some NIfTI readers turn such voxels into 0 before anyone sees them.
    monkeypatch.setattr(volumes, "read", lambda path: (broken, Geometry(SHAPE, (1.0, 1.0, 1.0))))
    with pytest.raises(InputError, match=r"c_0000\.nii\.gz: holds NaN or infinite voxels"):
        read(task)


def test_channels_on_different_grids(make_task):
    task = make_task(modalities=("MR", "MR"))
    task.add("c", [image(), image()[:5]], two_instances(), {1: 0, 2: 0})
    with pytest.raises(InputError, match=r"c_0001\.nii\.gz: lies otherwise in space"):
        read(task)
