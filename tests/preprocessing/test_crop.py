import numpy as np
import pytest
from scipy import ndimage

from detpretrain.errors import InputError
from detpretrain.preprocessing.crop import bounding_box, foreground_mask


def test_bounding_box_is_the_union_of_the_channels():
    images = np.zeros((2, 6, 7, 8), np.float32)
    images[0, 2, 3, 4] = -5.0
    images[1, 4, 1, 4] = 1.0
    assert bounding_box(images) == (slice(2, 5), slice(1, 4), slice(4, 5))


def test_an_image_without_zeros_is_not_cropped():
    assert bounding_box(np.full((1, 3, 4, 5), -1024.0)) == (slice(0, 3), slice(0, 4), slice(0, 5))


def test_an_empty_image_is_refused():
    with pytest.raises(InputError, match="every voxel of the image is 0"):
        bounding_box(np.zeros((2, 4, 4, 4)))


def test_mask_fills_closed_holes_only():
    images = np.zeros((1, 7, 7, 7))
    images[0, 1:6, 1:6, 1:6] = 1.0
    images[0, 3, 3, 3] = 0.0  # closed
    images[0, 0:3, 2, 2] = 0.0  # a channel to the outside
    mask = foreground_mask(images)
    assert mask[3, 3, 3]
    assert not mask[2, 2, 2]
    assert mask.sum() == 5**3 - 2


@pytest.mark.parametrize("density", [0.3, 0.6, 0.9, 1.0])
def test_mask_equals_scipys_hole_filling(density):
    occupied = np.random.default_rng(3).random((2, 12, 13, 14)) < density
    np.testing.assert_array_equal(foreground_mask(occupied), ndimage.binary_fill_holes(occupied.any(axis=0)))
