import itertools

import numpy as np
import pytest

from detpretrain.inference.tiling import axis_starts, pad_to_patch, tile_starts, tile_weights

SIZES = range(16, 70)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("patch", [7, 16])
def test_tiles_cover_every_voxel_and_stay_inside(patch, overlap):
    for size in SIZES:
        starts = axis_starts(size, patch, overlap)
        covered = np.zeros(size, bool)
        for start in starts:
            assert 0 <= start <= size - patch
            covered[start : start + patch] = True
        assert covered.all()
        assert starts == sorted(set(starts))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_neighbours_overlap_at_least_as_asked(overlap):
    for size in SIZES:
        steps = np.diff(axis_starts(size, 16, overlap))
        assert (steps <= 16 * (1 - overlap)).all()


def test_the_grid_is_symmetric_about_the_image():
    for size in SIZES:
        starts = axis_starts(size, 16, 0.5)
        mirrored = [size - 16 - start for start in reversed(starts)]
        # an odd remainder cannot be halved
        assert max(abs(a - b) for a, b in zip(starts, mirrored, strict=True)) <= 1


@pytest.mark.parametrize(
    ("size", "overlap", "expected"),
    [
        (16, 0.5, [0]),
        (24, 0.5, [0, 8]),
        (32, 0.0, [0, 16]),
        (30, 0.0, [0, 14]),  # both stick out by one voxel and are shifted inside
        (28, 0.5, [0, 6, 12]),  # the grid starts at -2: the outer ones are shifted, the middle one is not
    ],
)
def test_starts_by_hand(size, overlap, expected):
    assert axis_starts(size, 16, overlap) == expected


def test_tiles_are_all_combinations_of_the_axes():
    starts = tile_starts((16, 24, 28), (16, 16, 16), 0.5)
    assert starts.tolist() == [list(s) for s in itertools.product([0], [0, 8], [0, 6, 12])]


def test_a_small_image_is_reflected_on_both_sides():
    data = np.arange(2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)
    padded, front = pad_to_patch(data, (8, 5, 4))
    assert padded.shape == (2, 8, 5, 6)
    assert front.tolist() == [2, 0, 0]
    # edge voxels are repeated: 1 0 | 0 1 2 | 2 1 0 along z, and one more row behind along y
    np.testing.assert_array_equal(padded, data[:, [1, 0, 0, 1, 2, 2, 1, 0]][:, :, [0, 1, 2, 3, 3]])


def test_an_image_much_smaller_than_the_patch_is_reflected_again_and_again():
    padded, front = pad_to_patch(np.array([1.0, 2.0]).reshape(1, 2, 1, 1), (8, 1, 1))
    assert padded.ravel().tolist() == [2, 2, 1, 1, 2, 2, 1, 1]
    assert padded[0, front[0] : front[0] + 2].ravel().tolist() == [1, 2]


def test_a_large_image_is_not_copied():
    data = np.zeros((1, 9, 9, 9))
    padded, front = pad_to_patch(data, (8, 8, 8))
    assert padded is data
    assert front.tolist() == [0, 0, 0]


def test_weights_by_hand():
    def at(*centre):
        return np.add([*centre, *centre], [-1, -1, -1, 1, 1, 1])

    # the patch's centre is (5, 10, 5): distance to the corner is sqrt(150)
    boxes = np.array([at(5, 10, 5), at(0, 0, 0), at(2.5, 5, 2.5), at(1.25, 2.5, 1.25), at(5, 20, 5), at(-3, -9, -3)])
    expected = [1.0, 0.5, 1.0, 0.75, 1.5 - 10 / np.sqrt(150), 0.5]
    np.testing.assert_allclose(tile_weights(boxes, (10, 20, 10)), expected, rtol=1e-12)
