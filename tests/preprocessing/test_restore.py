import numpy as np
import pytest

from detpretrain.preprocessing.restore import boxes_to_original, boxes_to_preprocessed

PROPERTIES = {"shape": [10, 40, 25], "crop_offset": [5, 2, 3], "cropped_shape": [80, 30, 50], "transpose": [1, 0, 2]}


def test_hand_worked_case():
    # preprocessed axes are the original y, z, x: ratios 30/10, 80/40, 50/25, offsets 2, 5, 3
    box = np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    expected = [
        [
            1.5 * 2 - 0.5 + 5,
            0.5 * 3 - 0.5 + 2,
            2.5 * 2 - 0.5 + 3,
            4.5 * 2 - 0.5 + 5,
            3.5 * 3 - 0.5 + 2,
            5.5 * 2 - 0.5 + 3,
        ]
    ]
    np.testing.assert_allclose(boxes_to_original(box, PROPERTIES), expected)


def test_a_box_around_the_whole_array_stays_so():
    """Voxel borders map to voxel borders: -0.5 .. n - 0.5 of the array is -0.5 .. n - 0.5 of the crop."""
    box = np.array([[-0.5, -0.5, -0.5, 9.5, 39.5, 24.5]])
    np.testing.assert_allclose(boxes_to_original(box, PROPERTIES), [[4.5, 1.5, 2.5, 84.5, 31.5, 52.5]])


@pytest.mark.parametrize("transpose", [[0, 1, 2], [1, 0, 2], [2, 0, 1]])
def test_the_two_directions_are_inverse(transpose):
    properties = PROPERTIES | {"transpose": transpose}
    boxes = np.random.default_rng(0).uniform(-20, 100, (50, 6))
    np.testing.assert_allclose(
        boxes_to_preprocessed(boxes_to_original(boxes, properties), properties), boxes, atol=1e-11
    )
    np.testing.assert_allclose(
        boxes_to_original(boxes_to_preprocessed(boxes, properties), properties), boxes, atol=1e-11
    )


def test_no_boxes_keep_their_form():
    assert boxes_to_original(np.empty((0, 6)), PROPERTIES).shape == (0, 6)
    assert boxes_to_preprocessed([], PROPERTIES).shape == (0, 6)
