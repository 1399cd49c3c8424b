import pytest
import torch
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.shallow_maps import DeepenedConv3d
from detpretrain.models.simple_feature_pyramid import ChannelNorm, Levels, SimpleFeaturePyramid, resampling

GRID = (4, 2, 6)


def pyramid_of(token, strides, features=16, channels=8):
    torch.manual_seed(0)
    return SimpleFeaturePyramid(features, token, strides, channels)


@pytest.mark.parametrize(
    ("token", "strides"),
    [
        ((8, 8, 8), {2: (4, 4, 4), 3: (8, 8, 8), 4: (16, 16, 16)}),
        ((8, 8, 8), {1: (2, 2, 2), 2: (4, 4, 4)}),
        ((4, 8, 8), {1: (1, 2, 2), 2: (2, 4, 4), 3: (4, 8, 16)}),  # anisotropic
        ((4, 4, 4), {1: (2, 4, 8)}),  # finer along z, coarser along x
    ],
)
def test_every_level_has_its_stride(token, strides):
    maps = pyramid_of(token, strides)(torch.randn(2, 16, *GRID))
    for level, stride in strides.items():
        expected = [cells * side // step for cells, side, step in zip(GRID, token, stride, strict=True)]
        assert maps[level].shape == (2, 8, *expected)


@pytest.mark.parametrize(
    ("stride", "cell"),
    [((2, 2, 2), (1, 1, 1)), ((4, 4, 4), (1, 1, 1)), ((8, 8, 8), (1, 1, 1)), ((16, 8, 16), (2, 1, 2))],
)
def test_resampling_keeps_places_a_token_reaches_the_cells_it_covers_and_no_others(stride, cell):
    torch.manual_seed(0)
    layers, width = resampling(16, (8, 8, 8), stride)
    tokens = torch.randn(1, 16, *GRID)
    changed = tokens.clone()
    changed[0, :, 2, 1, 4] += 1
    with torch.no_grad():
        before, after = (nn.Sequential(*layers)(maps) for maps in (tokens, changed))
    assert before.shape[1] == width
    differs = (before != after).any(dim=1)[0]
    up = [max(1, 8 // step) for step in stride]
    expected = torch.zeros_like(differs)
    place = [slice(at // c * u, (at // c + 1) * u) for at, c, u in zip((2, 1, 4), cell, up, strict=True)]
    expected[tuple(place)] = True
    assert torch.equal(differs, expected)


def test_upwards_the_channels_halve_at_every_step_with_norm_and_gelu_between_as_in_vitdet():
    layers, width = resampling(16, (8, 8, 8), (2, 2, 2))
    assert [type(layer) for layer in layers] == [nn.ConvTranspose3d, ChannelNorm, nn.GELU, nn.ConvTranspose3d]
    assert width == 4
    assert resampling(16, (8, 8, 8), (8, 8, 8)) == ([], 16)


def test_the_norm_is_over_the_channels_of_each_voxel():
    maps = torch.randn(2, 16, *GRID) * 3 + 1
    with torch.no_grad():
        normed = ChannelNorm(16)(maps)
    expected = (maps - maps.mean(1, keepdim=True)) / (maps.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(normed, expected, atol=1e-5, rtol=1e-4)


def test_convolutions_are_safe_on_shallow_maps():
    kinds = [type(module) for module in pyramid_of((8, 8, 8), {1: (8, 8, 8)}).modules()]
    assert DeepenedConv3d in kinds


def test_a_stride_that_no_whole_number_leads_to_is_an_input_error():
    with pytest.raises(InputError, match="one must be a multiple of the other"):
        pyramid_of((8, 8, 8), {1: (3, 8, 8)})


def test_levels_say_which_there_are():
    levels = Levels({2: "a", 3: "b"})
    assert levels[3] == "b"
    with pytest.raises(InputError, match=r"no map of the plan's level 1, it makes 2, 3: raise"):
        levels[1]
    for use in (len, list, sum):
        with pytest.raises(InputError, match="use Deformable DETR, or a convolutional backbone"):
            use(levels)
