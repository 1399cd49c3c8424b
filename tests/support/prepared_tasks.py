"""What the tests of data sets ask of a source of data and of a task that it made."""

import pickle

import numpy as np
from nifti_files import AFFINES, world

from detpretrain import volumes
from detpretrain.tasks import Task

BOXES = ["z1", "y1", "x1", "z2", "y2", "x2"]


def boxes(task: Task, case: str) -> list[list[float]]:
    """The boxes of objects.csv of a case, in the order of their ids."""
    return task.objects().query("case == @case")[BOXES].to_numpy().tolist()


def check_boxes_in_world(task: Task, case: str, affine: str) -> np.ndarray:
    """The label map's geometry puts the corners of a case's boxes where this affine does; returns them there, ``[2 n, 3]``."""
    corners = np.reshape(boxes(task, case), (-1, 3))
    found = volumes.read_geometry(task.label_path(case)).index_to_world(corners)
    np.testing.assert_allclose(found, world(AFFINES[affine], corners), atol=1e-4)
    return found


def check_folds(task: Task) -> None:
    for fold in task.folds():
        assert sorted(fold["train"] + fold["val"]) == task.cases()


def check_other_process(source, raw) -> None:
    """A source and its cases convert alike after the way to a worker."""
    cases = source.layout(raw).cases
    assert pickle.loads(pickle.dumps((source.labels, cases))) == (source.labels, cases)
    again = pickle.loads(pickle.dumps(source)).convert(cases[0])
    np.testing.assert_array_equal(again.instances, source.convert(cases[0]).instances)
