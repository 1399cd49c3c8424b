import itertools

import pytest
import torch

from detpretrain.detectors import dense_head
from detpretrain.detectors.anchors import AnchorGenerator
from detpretrain.detectors.dense_head import DenseHead


def test_outputs_of_a_head_belong_to_the_anchors_of_the_grid():
    """A single bright position, and one output channel that looks at it: the row must be the anchor of that place and shape."""
    sizes = {"z": [2, 4, 6], "y": [3, 5, 7], "x": [4, 8, 10]}
    grid = AnchorGenerator(sizes, [(1, 2, 4)]).grid([(2, 3, 4)], torch.device("cpu"))
    head = DenseHead(channels=1, width=16, convs=0, shapes=27, outputs=2)
    shapes = list(itertools.product(sizes["z"], sizes["y"], sizes["x"]))
    for (z, y, x), shape, output in (((0, 0, 1), 0, 0), ((1, 2, 3), 26, 1), ((1, 0, 2), 5, 1), ((0, 2, 0), 11, 0)):
        features = torch.zeros(1, 1, 2, 3, 4)
        features[0, 0, z, y, x] = 1
        with torch.no_grad():
            head.out.weight.zero_()
            head.out.weight[shape * 2 + output, 0, 1, 1, 1] = 1
            result = head(features)
        assert result.shape == (1, 24 * 27, 2)
        rows = result[0, :, output].nonzero()[:, 0].tolist()
        assert len(rows) == 1
        assert not result[0, :, 1 - output].any()
        anchor = grid.boxes[rows[0]]
        assert ((anchor[:3] + anchor[3:]) / 2).tolist() == [z, 2 * y, 4 * x]
        assert (anchor[3:] - anchor[:3]).tolist() == list(shapes[shape])


def test_the_plain_published_head_has_2_42_million_parameters():
    """nnDetection v0.1: one class, two convolutions of 128 channels, 27 anchors."""
    with torch.device("meta"):
        heads = [DenseHead(128, 128, 2, 27, 1, -4.6), DenseHead(128, 128, 2, 27, 6)]
    assert sum(p.numel() for head in heads for p in head.parameters()) / 1e6 == pytest.approx(2.42, abs=0.005)
    norms = [module for module in heads[0].modules() if isinstance(module, torch.nn.GroupNorm)]
    assert [norm.num_channels // norm.num_groups for norm in norms] == [16, 16]


@pytest.mark.parametrize("convs", [0, 2])
@pytest.mark.parametrize("size", [(4, 5, 6), (1, 2, 3), (1, 1, 1)])
def test_rows_of_a_few_anchors_are_those_of_all(convs, size, monkeypatch):
    """Every anchor of two images, in a random order and some twice: corners and borders are among them."""
    torch.manual_seed(0)
    head = DenseHead(channels=16, width=16, convs=convs, shapes=3, outputs=6).double()
    features = torch.randn(2, 16, *size, dtype=torch.float64)
    dense = head(features)
    image, anchor = torch.cat([torch.cartesian_prod(torch.arange(2), torch.arange(dense.shape[1]))] * 2).unbind(dim=1)
    monkeypatch.setattr(dense_head, "CHUNK", 50)
    order = torch.randperm(len(image))[: len(image) * 3 // 4]
    image, anchor = image[order], anchor[order]
    rows = head.at(features, image, anchor // 3, anchor % 3)
    torch.testing.assert_close(rows, dense[image, anchor], rtol=1e-5, atol=1e-8)


def test_no_anchors_train_nothing_but_reach_every_parameter():
    head = DenseHead(channels=16, width=16, convs=1, shapes=3, outputs=6)
    nothing = torch.empty(0, dtype=torch.int64)
    rows = head.at(torch.randn(2, 16, 4, 4, 4), nothing, nothing, nothing)
    assert rows.shape == (0, 6)
    rows.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())
