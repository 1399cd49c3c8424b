import math

import pytest
import torch

from detpretrain.models.position_code import sine_code, vector_code, voxel_centres


def test_the_code_by_hand():
    code = sine_code(torch.tensor([0.25]), 4, temperature=100.0)
    quarter = math.pi / 2
    expected = [math.sin(quarter), math.cos(quarter), math.sin(quarter / 10), math.cos(quarter / 10)]
    torch.testing.assert_close(code, torch.tensor([expected]))


def test_128_channels_are_42_per_axis_and_two_zeros():
    vectors = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    code = vector_code(vectors, 128)
    assert code.shape == (5, 128)
    for axis in range(3):
        part = code[:, 42 * axis : 42 * (axis + 1)]
        assert torch.equal(part, sine_code(vectors[:, axis], 42))
        # sin^2 + cos^2 of every wavelength
        torch.testing.assert_close((part**2).sum(dim=1), torch.full((5,), 21.0))
    assert not code[:, 126:].any()


def test_boxes_have_six_parts():
    boxes = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0))
    code = vector_code(boxes, 384)
    assert code.shape == (2, 4, 384)
    assert torch.equal(code[..., 320:], sine_code(boxes[..., 5], 64))


def test_neighbouring_voxels_differ_and_every_place_has_its_code():
    centres = voxel_centres((4, 5, 6), torch.device("cpu"))
    code = vector_code(centres, 24)
    apart = torch.cdist(code, code) + 9 * torch.eye(len(code))
    assert apart.min() > 0.1


@pytest.mark.parametrize("size", [(2, 3, 4), (1, 1, 5)])
def test_centres_are_in_the_order_of_a_flattened_map(size):
    centres = voxel_centres(size, torch.device("cpu"))
    for axis, n in enumerate(size):
        plane = torch.arange(n).view([-1 if a == axis else 1 for a in range(3)]).expand(size)
        torch.testing.assert_close(centres[:, axis], (plane.flatten() + 0.5) / n)
