import itertools

import pytest
import torch

from detpretrain.detectors.anchors import AnchorGenerator

SIZES = {"z": [2, 4, 6], "y": [3, 5, 7], "x": [4, 8, 10]}
CPU = torch.device("cpu")


def test_every_anchor_by_hand():
    generator = AnchorGenerator(SIZES, [(1, 2, 2), (2, 4, 8)])
    maps = [(2, 3, 2), (1, 2, 1)]
    grid = generator.grid(maps, CPU)
    expected, centres = [], []
    # the second level is coarser by (2, 2, 4) than the first, and so are its anchors
    for shape, stride, scale in zip(maps, [(1, 2, 2), (2, 4, 8)], [(1, 1, 1), (2, 2, 4)], strict=True):
        for position in itertools.product(*map(range, shape)):
            centre = [index * step for index, step in zip(position, stride, strict=True)]
            centres.append(centre)
            for sizes in itertools.product(SIZES["z"], SIZES["y"], SIZES["x"]):
                half = [size * factor / 2 for size, factor in zip(sizes, scale, strict=True)]
                low = [c - h for c, h in zip(centre, half, strict=True)]
                high = [c + h for c, h in zip(centre, half, strict=True)]
                expected.append(low + high)
    assert grid.boxes.tolist() == expected
    assert torch.cat(grid.positions).tolist() == centres
    assert [len(level) for level in grid.positions] == [12, 2]
    assert grid.shapes == generator.shapes == 27


def test_number_of_anchors_of_nndetections_64_cube():
    generator = AnchorGenerator(SIZES, [(s, s, s) for s in (2, 4, 8, 16)])
    grid = generator.grid([(n, n, n) for n in (32, 16, 8, 4)], CPU)
    assert grid.boxes.shape == (1_010_880, 6)
    assert grid.boxes.dtype == torch.float32


def test_a_grid_is_made_once_per_image_shape():
    generator = AnchorGenerator(SIZES, [(2, 2, 2)])
    small = generator.grid([(2, 2, 2)], CPU)
    assert generator.grid([torch.Size((2, 2, 2))], CPU) is small
    assert len(generator.grid([(2, 2, 3)], CPU).boxes) == 12 * 27


def test_one_map_per_level():
    with pytest.raises(ValueError, match="zip"):
        AnchorGenerator(SIZES, [(1, 1, 1), (2, 2, 2)]).grid([(2, 2, 2)], CPU)
