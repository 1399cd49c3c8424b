import itertools

import numpy as np
import pytest
import torch

from detpretrain.loading.augmentation import rotation
from detpretrain.loading.spatial import mirror, read_region, resample, source_region

SHAPE = (12, 15, 18)


def volume(seed=0, shape=SHAPE, channels=2):
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


def transformed(array, start, patch, matrix, nearest=False):
    """As the loader does it: the region that is needed, resampled."""
    start = np.asarray(start)
    low, high = source_region(start, patch, matrix)
    offset = torch.from_numpy(start + (np.asarray(patch) - 1) / 2 - low)
    return resample(torch.from_numpy(read_region(array, low, high)), torch.from_numpy(matrix), offset, patch, nearest)


def brute_force(array, start, patch, matrix):
    """Trilinear interpolation, voxel by voxel, zero outside the volume."""
    start, half = np.asarray(start), (np.asarray(patch) - 1) / 2
    result = np.zeros((len(array), *patch))
    for position in itertools.product(*map(range, patch)):
        source = start + half + matrix @ (np.array(position) - half)
        floor = np.floor(source).astype(int)
        for corner in itertools.product((0, 1), repeat=3):
            index = floor + corner
            if (index >= 0).all() and (index < array.shape[1:]).all():
                weight = np.prod(np.where(corner, source - floor, 1 - (source - floor)))
                result[(slice(None), *position)] += weight * array[(slice(None), *index)]
    return result


@pytest.mark.parametrize(("low", "high"), [((2, 3, 4), (6, 9, 12)), ((-3, -2, 10), (4, 20, 25)), ((0, 0, 0), SHAPE)])
def test_regions_are_zero_outside_the_volume(low, high):
    array = volume()
    padded = np.pad(array, ((0, 0), (10, 10), (10, 10), (10, 10)))
    window = tuple(slice(a + 10, b + 10) for a, b in zip(low, high, strict=True))
    found = read_region(array, np.array(low), np.array(high))
    np.testing.assert_array_equal(found, padded[(slice(None), *window)])
    labels = (array[0] * 10).astype(np.int16)
    found = read_region(labels, np.array(low), np.array(high))
    np.testing.assert_array_equal(found, (padded[0] * 10).astype(np.int16)[window])
    assert found.dtype == np.int16


def test_a_region_beside_the_volume_is_empty():
    assert not read_region(volume(), np.array([20, 0, 0]), np.array([24, 4, 4])).any()
    assert not read_region(volume(), np.array([0, -9, 0]), np.array([4, -4, 4])).any()


def test_without_a_transform_the_patch_itself_is_read():
    low, high = source_region(np.array([-1, 2, 3]), (4, 5, 6), None)
    assert (low.tolist(), high.tolist()) == ([-1, 2, 3], [3, 7, 9])


@pytest.mark.parametrize("patch", [(6, 7, 8), (5, 5, 5)])
def test_the_identity_is_a_crop(patch):
    array = volume()
    found = transformed(array, (2, 3, 4), patch, np.eye(3))
    expected = array[:, 2 : 2 + patch[0], 3 : 3 + patch[1], 4 : 4 + patch[2]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    nearest = transformed(array, (2, 3, 4), patch, np.eye(3), nearest=True)
    np.testing.assert_array_equal(nearest.numpy(), expected)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_equal_rot90(axis, turns):
    """The matrix says where content comes from, so the content itself turns the other way round."""
    array, side = volume(shape=(13, 13, 13)), 7
    angles = np.zeros(3)
    angles[axis] = turns * np.pi / 2
    plane = tuple(1 + other for other in range(3) if other != axis)
    expected = np.rot90(array[:, 3:10, 3:10, 3:10], k=-turns, axes=plane)
    for nearest in (False, True):
        found = transformed(array, (3, 3, 3), (side,) * 3, rotation(angles), nearest)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def random_matrix(rng):
    return rotation(np.deg2rad(rng.uniform(-30, 30, 3))) * rng.uniform(0.7, 1.4)


@pytest.mark.parametrize("seed", range(8))
def test_the_region_holds_all_that_the_transform_needs(seed):
    """Resampling what was read equals resampling the whole volume, borders included."""
    rng = np.random.default_rng(seed)
    array, matrix, patch = volume(seed), random_matrix(rng), (5, 6, 7)
    start = rng.integers(-4, 12, 3)
    found = transformed(array, start, patch, matrix)
    np.testing.assert_allclose(found.numpy(), brute_force(array, start, patch, matrix), atol=1e-4)


def test_zooming_out_shrinks_the_content():
    array = np.zeros((1, 30, 30, 30), dtype=np.float32)
    array[0, 10:20, 10:20, 10:20] = 1
    found = transformed(array, (5, 5, 5), (20, 20, 20), np.eye(3) * 1.4)
    assert found.sum().item() == pytest.approx(1000 / 1.4**3, rel=0.05)
    found = transformed(array, (5, 5, 5), (20, 20, 20), np.eye(3) * 0.7)
    assert found.sum().item() == pytest.approx(1000 / 0.7**3, rel=0.05)


def test_labels_are_never_mixed():
    labels = np.random.default_rng(0).choice([0, 3, 1000], SHAPE).astype(np.int32)
    found = transformed(labels[None], (1, 1, 1), (8, 8, 8), random_matrix(np.random.default_rng(5)), nearest=True)
    assert set(found.unique().tolist()) == {0, 3, 1000}


def test_mirroring_flips_the_last_three_axes():
    array = torch.from_numpy(volume())
    for axes in itertools.product((False, True), repeat=3):
        expected = np.flip(array.numpy(), [axis + 1 for axis in range(3) if axes[axis]])
        np.testing.assert_array_equal(mirror(array, axes).numpy(), expected)
        np.testing.assert_array_equal(mirror(array[0], axes).numpy(), expected[0])
