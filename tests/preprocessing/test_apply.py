import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.preprocessing.apply import preprocess
from detpretrain.preprocessing.restore import boxes_to_original

RAW = {
    "channels": 1,
    "modalities": ["MR"],
    "transpose": [0, 1, 2],
    "spacing": [1.0, 1.0, 1.0],
    "intensity": {"scheme": [{"scheme": "raw"}], "nonzero_mask": False},
}


def geometry(shape, spacing=(1.0, 1.0, 1.0)):
    return Geometry(shape, spacing)


def test_a_plan_that_changes_nothing():
    images = np.random.default_rng(0).normal(5, 1, (1, 6, 7, 8)).astype(np.float32)
    data, instances, properties = preprocess(images, geometry((6, 7, 8)), RAW)
    np.testing.assert_array_equal(data, images)
    assert instances is None
    assert properties == {
        "shape": [6, 7, 8],
        "crop_offset": [0, 0, 0],
        "cropped_shape": [6, 7, 8],
        "transpose": [0, 1, 2],
        "geometry": geometry((6, 7, 8)).to_json(),
    }


def test_crop_transpose_and_resample_by_hand():
    images = np.zeros((1, 8, 9, 10))
    images[0, 2:6, 1:7, 4:8] = 7.0
    instances = np.zeros((8, 9, 10), np.uint8)
    instances[2:4, 1:4, 5:7] = 3
    plan = RAW | {"transpose": [1, 0, 2], "spacing": [3.0, 0.5, 1.0]}
    data, map_, properties = preprocess(images, geometry((8, 9, 10), (1.0, 2.0, 1.0)), plan, instances)
    # crop 4 x 6 x 4 from (2, 1, 4); plan's axes are y, z, x: 6 * 2 / 3 = 4, 4 * 1 / 0.5 = 8, 4
    assert data.shape == (1, 4, 8, 4)
    np.testing.assert_allclose(data, 7.0, atol=1e-5)
    assert (properties["crop_offset"], properties["cropped_shape"]) == ([2, 1, 4], [4, 6, 4])
    # y 0..2 of 6 -> 0..1 of 4, z 0..1 of 4 -> 0..3 of 8, x 1..2
    assert np.argwhere(map_ == 3).min(axis=0).tolist() == [0, 0, 1]
    assert np.argwhere(map_ == 3).max(axis=0).tolist() == [1, 3, 2]
    assert (properties["ids"], properties["boxes"]) == ([3], [[-1, -1, 0, 2, 4, 3]])


def test_boxes_come_back_to_where_the_object_is():
    """After an upsampling the restored box lies within half a voxel of the object's extent on every side."""
    rng = np.random.default_rng(1)
    images = rng.normal(50, 5, (1, 30, 32, 34)).astype(np.float32)
    instances = np.zeros((30, 32, 34), np.int16)
    instances[5:12, 8:20, 3:9] = 1
    plan = RAW | {"spacing": [0.5, 0.8, 1.0], "transpose": [2, 0, 1]}
    _, _, properties = preprocess(images, geometry((30, 32, 34), (1.0, 2.0, 1.5)), plan, instances)
    restored = boxes_to_original(np.array(properties["boxes"]), properties)[0]
    np.testing.assert_allclose(restored, [4.5, 7.5, 2.5, 11.5, 19.5, 8.5], atol=0.75)


def test_normalisation_is_after_resampling_and_per_channel():
    rng = np.random.default_rng(2)
    images = rng.normal(100, 30, (2, 10, 10, 10)).astype(np.float32)
    ct = {"scheme": "ct", "clip": [80.0, 120.0], "mean": 100.0, "sd": 10.0}
    plan = RAW | {
        "channels": 2,
        "modalities": ["MR", "CT"],
        "spacing": [0.7, 1.0, 1.0],
        "intensity": {"scheme": [{"scheme": "zscore"}, ct], "nonzero_mask": False},
    }
    data = preprocess(images, geometry((10, 10, 10)), plan).data
    assert data[0].mean() == pytest.approx(0, abs=1e-5)
    assert data[0].std() == pytest.approx(1, abs=1e-5)
    assert (data[1].min(), data[1].max()) == (-2.0, 2.0)


def test_a_masked_zscore_leaves_zeros_outside():
    images = np.zeros((1, 10, 10, 10), np.float32)
    images[0, :, 2:8, 2:8] = np.random.default_rng(3).normal(100, 10, (10, 6, 6))
    images[0, 0, 0, 0] = 50.0  # the crop stays the whole image
    images[0, 9, 9, 9] = 50.0
    plan = RAW | {"intensity": {"scheme": [{"scheme": "zscore"}], "nonzero_mask": True}}
    data = preprocess(images, geometry((10, 10, 10)), plan).data[0]
    assert not data[images[0] == 0].any()
    assert data[images[0] != 0].std() == pytest.approx(1, abs=1e-4)


def test_lost_objects_are_not_in_the_result():
    images, instances = np.ones((1, 20, 20, 20), np.float32), np.zeros((20, 20, 20), np.uint8)
    instances[2, 2, 2] = 1  # between the centres that a coarse grid keeps
    instances[5:15, 5:15, 5:15] = 2
    properties = preprocess(images, geometry((20, 20, 20)), RAW | {"spacing": [4.0, 4.0, 4.0]}, instances).properties
    kept = set(np.unique(instances[np.ix_(*[[2, 6, 10, 14, 18]] * 3)]).tolist()) - {0}
    assert set(properties["ids"]) == kept


def test_other_channels_than_the_plans_and_bad_voxels():
    with pytest.raises(InputError, match=r"2 channels given, the plan has 1 \(MR\)"):
        preprocess(np.ones((2, 4, 4, 4)), geometry((4, 4, 4)), RAW)
    with pytest.raises(InputError, match="NaN or infinite"):
        preprocess(np.full((1, 4, 4, 4), np.inf), geometry((4, 4, 4)), RAW)
    with pytest.raises(InputError, match="every voxel of the image is 0"):
        preprocess(np.zeros((1, 4, 4, 4)), geometry((4, 4, 4)), RAW)
    with pytest.raises(ValueError, match="do not have the geometry's shape"):
        preprocess(np.ones((1, 4, 4, 4)), geometry((4, 4, 5)), RAW)
