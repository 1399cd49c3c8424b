import itertools

import numpy as np
import pytest

from detpretrain.datasets.lidc_annotations import Contour, Mark
from detpretrain.datasets.lidc_consensus import clusters, majority, mark_voxels, union

SPACING = (2.5, 0.7, 0.7)


def box(z, y, x):
    """Voxels of three ranges, each (first, last)."""
    return np.array(list(itertools.product(*(range(a, b + 1) for a, b in (z, y, x)))), np.int64)


def square(x, y, half, inclusion=True, image="1"):
    points = [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]
    return Contour(image, None, inclusion, np.array(points))


def voxel_set(voxels):
    return {tuple(voxel) for voxel in voxels.tolist()}


def test_an_exclusion_takes_its_border_too():
    mark = Mark(1, "n", [square(8, 7, 2, inclusion=False), square(8, 7, 4)])
    found = voxel_set(mark_voxels(mark, lambda contour: 3, (5, 16, 16)))
    inside = {(3, y, x) for y in range(4, 11) for x in range(5, 12)}  # 7 x 7: the outline is not part of it
    hole = {(3, y, x) for y in range(5, 10) for x in range(6, 11)}  # 5 x 5: nor is the outline of the hole
    assert found == inside - hole


def test_an_exclusion_cuts_its_own_slice_only_and_outlines_end_at_the_image():
    contours = [square(0, 0, 3, image="a"), square(0, 0, 3, image="b"), square(0, 0, 2, inclusion=False, image="b")]
    mark = Mark(1, "n", contours)
    found = voxel_set(mark_voxels(mark, lambda contour: {"a": 0, "b": 1}[contour.image], (2, 16, 16)))
    assert found == {(0, y, x) for y in range(3) for x in range(3)}


def test_two_outlines_of_a_slice_are_one_nodule_without_double_voxels():
    mark = Mark(1, "n", [square(5, 5, 3), square(6, 5, 3)])
    voxels = mark_voxels(mark, lambda contour: 0, (1, 16, 16))
    assert len(voxels) == len(voxel_set(voxels)) == 5 * 6


def test_marks_that_overlap_or_touch_are_one_nodule():
    marks = [box((0, 1), (2, 4), (2, 4)), box((0, 1), (2, 4), (5, 6)), box((0, 1), (2, 4), (8, 9))]
    assert clusters(marks, [1, 2, 3], SPACING) == [[0, 1], [2]]  # 4 and 5 touch, 6 and 8 do not
    assert clusters(marks[:2], [1, 2], (2.5, 0.7, 0.5)) == [[0, 1]]
    assert clusters(marks[:1], [1], SPACING) == [[0]]
    assert clusters([], [], SPACING) == []


def test_the_next_slice_touches_only_when_slices_are_as_close_as_pixels():
    marks = [box((0, 0), (2, 4), (2, 4)), box((1, 1), (2, 4), (2, 4))]
    assert clusters(marks, [1, 2], SPACING) == [[0], [1]]
    assert clusters(marks, [1, 2], (0.7, 0.7, 0.7)) == [[0, 1]]


def test_marks_of_one_reader_need_another_reader_to_be_joined():
    marks = [box((0, 0), (2, 4), (2, 4)), box((0, 0), (2, 4), (4, 6)), box((0, 0), (2, 4), (2, 6))]
    assert clusters(marks[:2], [1, 1], SPACING) == [[0], [1]]
    assert clusters(marks, [1, 1, 2], SPACING) == [[0, 1, 2]]


def test_where_touching_joins_more_than_four_marks_only_overlapping_ones_count():
    left = [box((0, 0), (2, 4), (0, 3))] * 3
    right = [box((0, 0), (2, 4), (4, 8))] * 3
    readers = [1, 2, 3, 1, 2, 4]
    assert clusters(left + right, readers, SPACING) == [[0, 1, 2], [3, 4, 5]]
    assert clusters(left[:2] + right[1:], [1, 2, 3, 4], SPACING) == [[0, 1, 2, 3]]  # four marks may touch


@pytest.mark.parametrize("seed", range(10))
def test_clusters_agree_with_every_pair_of_voxels_measured(seed):
    rng = np.random.default_rng(seed)
    marks = []
    for _ in range(7):
        low = rng.integers(0, 14, 3)
        marks.append(box(*zip(low.tolist(), (low + rng.integers(0, 3, 3)).tolist(), strict=True)))
    readers = rng.integers(1, 5, 7).tolist()
    near = {
        (i, j)
        for i, j in itertools.combinations(range(7), 2)
        if readers[i] != readers[j]
        and np.linalg.norm((marks[i][:, None] - marks[j][None]) * (0.7, 0.7, 0.7), axis=-1).min() <= 0.7001
    }
    groups = [{i} for i in range(7)]
    for i, j in near:
        joined = [group for group in groups if i in group or j in group]
        groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    if max(map(len, groups)) <= 4:
        assert clusters(marks, readers, (0.7, 0.7, 0.7)) == sorted(sorted(group) for group in groups)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3)])
def test_a_strict_majority_of_the_readers(count, needed):
    marks = [box((0, 0), (0, 0), (0, last)) for last in range(count)]  # voxel x is marked by count - x readers
    assert voxel_set(majority(marks, (1, 1, 8))) == {(0, 0, x) for x in range(count) if count - x >= needed}


def test_the_majority_may_be_empty():
    assert majority([box((0, 0), (0, 0), (0, 1)), box((0, 0), (0, 0), (2, 3))], (1, 1, 8)).shape == (0, 3)


def test_a_reader_counts_once():
    own = union([box((0, 0), (0, 0), (0, 2)), box((0, 0), (0, 0), (2, 3))])
    assert own.tolist() == [[0, 0, x] for x in range(4)]
    assert len(majority([own, box((0, 0), (0, 0), (5, 5))], (1, 1, 8))) == 0
