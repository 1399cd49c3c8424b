import pytest
import torch

from detpretrain.models.fpn import UFPN, pyramid_channels


@pytest.mark.parametrize(
    ("stages", "first_level", "expected"),
    [
        (5, 1, [64, 128, 128, 128, 128]),  # nnDetection's plan of a 64^3 patch
        (6, 2, [32, 64, 128, 128, 128, 128]),
        (3, 0, [128, 128, 128]),
        (7, 6, [8, 8, 8, 16, 32, 64, 128]),  # never fewer than 8
    ],
)
def test_channels_halve_below_the_first_detection_level(stages, first_level, expected):
    assert pyramid_channels(stages, first_level, 128) == expected


def test_the_least_number_of_channels_also_holds_for_a_narrow_pyramid():
    assert pyramid_channels(4, 2, channels=12) == [8, 8, 12, 12]


def features_of(channels, shapes, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, n, *shape, generator=generator) for n, shape in zip(channels, shapes, strict=True)]


@pytest.fixture
def pyramid():
    torch.manual_seed(0)
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 1]]
    kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 1, 5]]
    return UFPN([4, 6, 10, 12], strides, kernels, first_level=2, channels=32)


SHAPES = [(6, 16, 24), (6, 8, 12), (3, 4, 6), (3, 2, 6)]


def test_maps_have_the_shapes_of_the_encoder_stages(pyramid):
    maps = pyramid(features_of([4, 6, 10, 12], SHAPES))
    assert {level: tuple(found.shape) for level, found in maps.items()} == {
        0: (2, 8, *SHAPES[0]),
        1: (2, 16, *SHAPES[1]),
        2: (2, 32, *SHAPES[2]),
        3: (2, 32, *SHAPES[3]),
    }


def test_lowest_leaves_the_finer_maps_out_and_changes_nothing_else(pyramid):
    features = features_of([4, 6, 10, 12], SHAPES)
    whole, part = pyramid(features), pyramid(features, lowest=2)
    assert sorted(part) == [2, 3]
    for level, found in part.items():
        assert torch.equal(found, whole[level])


def test_a_level_is_output_of_lateral_plus_what_comes_from_above(pyramid):
    features = features_of([4, 6, 10, 12], SHAPES)
    top = pyramid.lateral[3](features[3])
    below = pyramid.lateral[2](features[2]) + pyramid.up[2](top)
    maps = pyramid(features)
    torch.testing.assert_close(maps[3], pyramid.out[3](top))
    torch.testing.assert_close(maps[2], pyramid.out[2](below))
    # the top map's own output convolution is no part of the way down
    with torch.no_grad():
        pyramid.out[3].weight.zero_()
    torch.testing.assert_close(pyramid(features)[2], maps[2])


def test_nndetections_decoder_has_2_44_million_parameters():
    # 64^3, 5 stages: encoder 32, 64, 128, 256, 320
    cube = [[2] * 3] * 5
    with torch.device("meta"):
        pyramid = UFPN([32, 64, 128, 256, 320], [[1] * 3, *cube[1:]], [[3] * 3] * 5, first_level=1)
    assert sum(p.numel() for p in pyramid.parameters()) / 1e6 == pytest.approx(2.44, abs=0.01)
    assert all(module.bias is not None for module in [*pyramid.lateral, *pyramid.up, *pyramid.out])
