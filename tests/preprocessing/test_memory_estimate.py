import pytest

from detpretrain.preprocessing.architecture_planning import derived_levels, pool_late
from detpretrain.preprocessing.memory_estimate import BUDGET, parameters, training_bytes, widths


def architecture(patch):
    strides, kernels = pool_late([1, 1, 1], patch, 4)
    return strides, kernels, derived_levels(len(strides))


def test_reference_network_has_the_published_size():
    """nnDetection v0.1 at 64^3, five stages, one class, counted by running it: 13.36 M parameters."""
    assert parameters(*architecture([64] * 3), channels=1, classes=1) == pytest.approx(13.36e6, rel=2e-3)


def test_widths_are_those_of_the_reference():
    encoder, neck = widths(6, 2)
    assert encoder.tolist() == [32, 64, 128, 256, 320, 320]
    assert neck.tolist() == [32, 64, 128, 128, 128, 128]


def test_activations_by_hand():
    """One stage of 8^3, one channel, one class, batch 1: 128 channels in the neck, heads at full resolution."""
    voxels = 8**3
    encoder, neck = 4 * 32 * 2, 2 * 128 * 2
    heads = 4 * 128 * (2 + 4 + 4 + 2) + 27 * 7 * (2 + 4)
    segmentation_and_input = 2 * (2 + 4 + 4) + (4 + 2)
    gradients, anchors = 2 * 128 * 2, 27 * 6 * 4
    weights = 18 * parameters([[1] * 3], [[3] * 3], [0], 1, 1)
    expected = voxels * (encoder + neck + heads + segmentation_and_input + gradients + anchors) + weights
    assert training_bytes([8] * 3, [[1] * 3], [[3] * 3], [0], 1, 1, batch=1) == expected


def test_a_patch_of_128_at_batch_4_fits_the_reference_card_and_192_does_not():
    assert (
        training_bytes([128] * 3, *architecture([128] * 3), 1, 1)
        < BUDGET
        < training_bytes([192] * 3, *architecture([192] * 3), 1, 1)
    )
