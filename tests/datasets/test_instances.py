import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detpretrain.datasets.instances import from_semantic


def _flood_fill(mask: np.ndarray, connectivity: int) -> set[frozenset]:
    """Components by breadth-first search, as sets of voxels."""
    steps = [np.array(s) - 1 for s in np.ndindex(3, 3, 3)]
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = [s for s in steps if 0 < np.abs(s).sum() <= reach]
    left, found = set(map(tuple, np.argwhere(mask))), set()
    while left:
        todo = [left.pop()]
        component = set(todo)
        while todo:
            voxel = np.array(todo.pop())
            near = {tuple(int(v) for v in voxel + s) for s in steps} & left
            left -= near
            component |= near
            todo += near
        found.add(frozenset(tuple(int(v) for v in voxel) for voxel in component))
    return found


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([6, 18, 26]), st.floats(0.05, 0.4))
def test_components_equal_a_flood_fill(seed, connectivity, density):
    mask = np.random.default_rng(seed).random((6, 7, 5)) < density
    instances, classes = from_semantic(mask.astype(int), {1: 0}, (1, 1, 1), connectivity=connectivity)
    expected = _flood_fill(mask, connectivity)
    found = {frozenset(map(tuple, np.argwhere(instances == i).tolist())) for i in classes}
    assert found == expected
    assert sorted(classes) == list(range(1, len(expected) + 1))
    assert set(classes.values()) <= {0}


def test_diagonal_voxels():
    mask = np.zeros((2, 2, 2), int)
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    assert len(from_semantic(mask, {1: 0}, (1, 1, 1), connectivity=26)[1]) == 1
    assert len(from_semantic(mask, {1: 0}, (1, 1, 1), connectivity=18)[1]) == 2


def test_classes_parts_and_stuff():
    mask = np.zeros((3, 3, 12), int)
    mask[:, :, 0:2] = 1  # oedema and core of one tumour
    mask[:, :, 2:3] = 4
    mask[:, :, 5:7] = 2  # organ: not an object
    mask[:, :, 8:9] = 3  # cyst
    mask[:, :, 11:12] = 4
    instances, classes = from_semantic(mask, {1: 0, 4: 0, 3: 1}, (1, 1, 1))
    assert classes == {1: 0, 2: 0, 3: 1}
    assert (instances[:, :, 0:3] == 1).all()
    assert (instances[:, :, 11] == 2).all()
    assert (instances[:, :, 8] == 3).all()
    assert (instances[:, :, 5:7] == 0).all()


def test_minimum_voxels():
    mask = np.zeros((1, 1, 20), int)
    mask[0, 0, 0:3] = 1
    mask[0, 0, 5:9] = 1
    instances, classes = from_semantic(mask, {1: 0}, (1, 1, 1), min_voxels=3)
    assert classes == {1: 0}
    assert np.flatnonzero(instances).tolist() == [5, 6, 7, 8]


def test_minimum_size_leaves_the_coarsest_axis_alone():
    # one slice of 5 mm, 3 x 3 voxels of 1 mm: the box (min - 1 .. max + 1) is 4 mm long in-plane
    mask = np.zeros((3, 8, 8), int)
    mask[1, 2:5, 2:5] = 1
    spacing = (5.0, 1.0, 1.0)
    assert from_semantic(mask, {1: 0}, spacing, min_size_mm=3.9)[1] == {1: 0}
    assert from_semantic(mask, {1: 0}, spacing, min_size_mm=4.0)[1] == {}
    long = mask.copy()
    long[1, 2:5, 2:8] = 1  # longer on one in-plane axis only: still dropped
    assert from_semantic(long, {1: 0}, spacing, min_size_mm=4.0)[1] == {}


def test_empty_mask():
    instances, classes = from_semantic(np.zeros((4, 4, 4), int), {1: 0, 2: 1}, (1, 1, 1), min_size_mm=3)
    assert classes == {}
    assert instances.shape == (4, 4, 4)
    assert not instances.any()


def test_unknown_connectivity():
    with pytest.raises(ValueError, match="6, 18 or 26"):
        from_semantic(np.zeros((2, 2, 2), int), {1: 0}, (1, 1, 1), connectivity=8)
