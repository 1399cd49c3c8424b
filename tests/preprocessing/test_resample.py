import numpy as np
import pytest
from scipy import ndimage

from detpretrain.preprocessing.resample import resample_image, resample_labels, resampled_shape


def test_shape_is_rounded_size_times_ratio():
    assert resampled_shape((10, 101, 3), (3.0, 0.7, 1.0), (1.0, 1.4, 10.0)) == (30, 50, 1)
    # 101 * 0.5 = 50.5 rounds half to even, as numpy does


@pytest.mark.parametrize("shape", [(9, 30, 17), (20, 8, 25), (15, 16, 40), (3, 16, 12)])
def test_image_equals_scipys_spline_zoom(shape):
    image = np.random.default_rng(0).normal(0, 100, (15, 16, 12)).astype(np.float32)
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    expected = ndimage.zoom(image.astype(np.float64), factors, order=3, mode="nearest", grid_mode=True)
    expected = np.clip(expected, image.min(), image.max())
    np.testing.assert_allclose(resample_image(image, shape), expected, atol=2e-4)


def test_a_linear_ramp_stays_linear_between_voxel_centres():
    z = np.arange(40, dtype=np.float32)
    image = np.broadcast_to(z[:, None, None], (40, 5, 6))
    resampled = resample_image(image, (60, 5, 6))
    expected = (np.arange(60) + 0.5) * 40 / 60 - 0.5
    inner = slice(12, 48)  # repeated edges bend a ramp near its ends
    np.testing.assert_allclose(resampled[inner, 2, 3], expected[inner], atol=1e-3)


def test_a_constant_stays_constant_and_the_range_is_kept():
    np.testing.assert_allclose(resample_image(np.full((5, 6, 7), 3.5), (9, 3, 14)), 3.5, atol=1e-5)
    step = np.zeros((12, 12, 12), np.float32)
    step[6:] = 1.0
    resampled = resample_image(step, (31, 12, 12))
    assert resampled.min() >= 0.0  # a spline overshoots at a step
    assert resampled.max() <= 1.0


def test_the_input_is_not_changed():
    image = np.random.default_rng(1).random((6, 7, 8)).astype(np.float32)
    before = image.copy()
    resample_image(image, (12, 5, 8))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(9, 30, 17), (20, 8, 25), (30, 8, 4)])
def test_labels_take_the_nearest_voxel(shape):
    labels = np.random.default_rng(0).integers(0, 5, (15, 16, 12)).astype(np.int16)
    factors = [new / old for new, old in zip(shape, labels.shape, strict=True)]
    expected = ndimage.zoom(labels, factors, order=0, mode="nearest", grid_mode=True)
    resampled = resample_labels(labels, shape)
    np.testing.assert_array_equal(resampled, expected)
    assert resampled.dtype == labels.dtype


def test_labels_on_a_voxel_border_are_decided_upwards():
    np.testing.assert_array_equal(resample_labels(np.array([[[0, 1, 2, 3]]]), (1, 1, 2))[0, 0], [1, 3])
