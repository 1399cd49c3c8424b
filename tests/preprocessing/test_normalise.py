import numpy as np
import pytest

from detpretrain.preprocessing.normalise import moments, normalise


def volume(values):
    return np.array(values, dtype=np.float32).reshape(1, 1, -1)


def test_ct_clips_and_uses_the_data_sets_figures():
    image = volume([-1000, 0, 100, 3000])
    result = normalise(image, {"scheme": "ct", "clip": [-50.0, 150.0], "mean": 50.0, "sd": 25.0})
    np.testing.assert_allclose(result.ravel(), [-4, -2, 2, 4])
    assert result is image


def test_ct2_uses_this_images_voxels_between_the_bounds():
    result = normalise(volume([-1000, 10, 30, 3000]), {"scheme": "ct2", "clip": [0.0, 100.0]})
    np.testing.assert_allclose(result.ravel(), [-2, -1, 1, 8])  # mean 20, sd 10; the bounds do not count


def test_zscore_over_all_voxels():
    result = normalise(volume([1, 3, 1, 3]), {"scheme": "zscore"})
    np.testing.assert_allclose(result.ravel(), [-1, 1, -1, 1])


def test_zscore_inside_a_mask_sets_the_outside_to_zero():
    mask = volume([1, 1, 0, 0]).astype(bool)
    result = normalise(volume([1, 3, 0, 50]), {"scheme": "zscore"}, mask)
    np.testing.assert_allclose(result.ravel(), [-1, 1, 0, 0])


def test_raw_changes_nothing_and_a_constant_becomes_zero():
    np.testing.assert_array_equal(normalise(volume([5, -3]), {"scheme": "raw"}).ravel(), [5, -3])
    np.testing.assert_array_equal(normalise(volume([1234.567] * 7), {"scheme": "zscore"}).ravel(), 0)


def test_unknown_scheme():
    with pytest.raises(ValueError, match="unknown intensity scheme"):
        normalise(volume([1, 2]), {"scheme": "minmax", "clip": [0, 1]})


def test_moments_equal_numpys_in_float64():
    image = np.random.default_rng(0).normal(3000, 2, (20, 30, 10)).astype(np.float32)
    mask = np.random.default_rng(1).random(image.shape) < 0.3
    np.testing.assert_allclose(moments(image), (image.mean(dtype=float), image.std(dtype=float)), rtol=1e-12)
    inside = image[mask].astype(float)
    np.testing.assert_allclose(moments(image, mask), (inside.mean(), inside.std()), rtol=1e-12)
    assert moments(image, np.zeros_like(mask)) == (0.0, 0.0)
