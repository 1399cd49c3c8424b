"""Centre hits: by hand, and against the LUNA16 challenge's own rules on spheres."""

import numpy as np

from detpretrain.comparison.centre_marks import marks_by_centre
from detpretrain.evaluation.cases import Case


def cube(z, side):
    return [z - side / 2, -side / 2, -side / 2, z + side / 2, side / 2, side / 2]


def marks(truths, found, labels=None, found_labels=None, ignored=()):
    return marks_by_centre(
        Case(
            image_id="a",
            gt_boxes=np.array([cube(*truth) for truth in truths]).reshape(-1, 6),
            gt_labels=np.array(labels or [0] * len(truths), int),
            gt_ignore=np.isin(np.arange(len(truths)), ignored).astype(int),
            pred_boxes=np.array([cube(z, side) for z, side, _ in found]).reshape(-1, 6),
            pred_labels=np.array(found_labels or [0] * len(found), int),
            pred_scores=np.array([score for *_, score in found]),
        )
    )


def test_a_hit_lies_closer_than_the_radius_whatever_its_size():
    found = marks([(0, 10), (50, 10)], [(4.9, 1, 0.9), (55, 10, 0.8), (0, 10, 0.7)])
    assert found.found.tolist() == [0.9]  # the better one of two marks; the other is no false positive
    assert found.false_positives.tolist() == [0.8]  # exactly at the radius
    assert found.objects == 2


def test_ignored_objects_take_marks_and_are_not_wanted():
    found = marks([(0, 10), (50, 10)], [(0, 5, 0.9), (50, 5, 0.8), (90, 5, 0.7)], ignored=[1])
    assert (found.found.tolist(), found.false_positives.tolist(), found.objects) == ([0.9], [0.7], 1)


def test_classes_do_not_find_each_other():
    found = marks([(0, 10), (0, 10)], [(0, 5, 0.9)], labels=[0, 1], found_labels=[1])
    assert (found.found.tolist(), found.false_positives.tolist(), found.objects) == ([0.9], [], 2)
    assert marks([(0, 10)], [(0, 5, 0.9)], found_labels=[1]).false_positives.tolist() == [0.9]


def test_no_object_and_no_detection():
    found = marks([], [])
    assert (len(found.found), len(found.false_positives), found.objects) == (0, 0, 0)
