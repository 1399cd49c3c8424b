"""Layers for channels_last maps on CPUs: PyTorch's values, right gradients in every order of memory, and no order changed."""

import copy

import pytest
import torch
from torch import nn

from detpretrain.models import channels_last as module
from detpretrain.models.channels_last import (
    LAST,
    ChannelsLastAvgPool3d,
    ChannelsLastPointConv3d,
    channels_last,
)

FORMATS = [(first, second) for first in (LAST, None) for second in (LAST, None)]


def norm_of(channels, affine=True):
    torch.manual_seed(0)
    norm = nn.InstanceNorm3d(channels, eps=1e-3, affine=affine)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def ours_of(layer):
    return channels_last(copy.deepcopy(layer))


def formula(norm):
    def normed(maps):
        mean, variance = maps.mean((2, 3, 4), keepdim=True), maps.var((2, 3, 4), unbiased=False, keepdim=True)
        values = (maps - mean) / torch.sqrt(variance + norm.eps)
        shape = (1, -1, 1, 1, 1)
        return values if norm.weight is None else values * norm.weight.view(shape) + norm.bias.view(shape)

    return normed


def ordered(values, order):
    return values if order is None else values.contiguous(memory_format=order)


def run(function, layer, maps, gradient):
    maps = maps.clone(memory_format=torch.preserve_format).requires_grad_()
    result = function(maps)
    result.backward(gradient)
    return [result, maps.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("most", [module.MOST_VOXELS, 1])
@pytest.mark.parametrize("shape", [(3, 8, 4, 5, 6), (1, 5, 2, 3, 4), (2, 1, 4, 4, 4), (1, 3, 1, 1, 2)])
def test_norm_and_its_gradients_are_the_formula_s(shape, affine, most, formats, monkeypatch):
    """Without the way around, PyTorch's gradient of one sample is off by as much as it is large."""
    monkeypatch.setattr(module, "MOST_VOXELS", most)
    norm = norm_of(shape[1], affine)
    maps, gradient = map(ordered, (5 + 3 * torch.randn(shape), torch.randn(shape)), formats)
    exact = copy.deepcopy(norm).double()
    expected = run(formula(exact), exact, maps.double(), gradient.double())
    ours = ours_of(norm)
    for there, found in zip(expected, run(ours, ours, maps, gradient), strict=True):
        torch.testing.assert_close(found.double(), there, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize("most", [module.MOST_VOXELS, 1])
@pytest.mark.parametrize("batch", [1, 2])
def test_norm_may_be_followed_by_an_activation_in_place(batch, most, formats, monkeypatch):
    monkeypatch.setattr(module, "MOST_VOXELS", most)
    norm, shape = norm_of(5), (batch, 5, 2, 3, 4)
    maps, gradient = map(ordered, (5 + 3 * torch.randn(shape), torch.randn(shape)), formats)
    exact, ours = copy.deepcopy(norm).double(), ours_of(norm)
    normed = formula(exact)
    expected = run(lambda maps: nn.functional.leaky_relu(normed(maps)), exact, maps.double(), gradient.double())
    found = run(lambda maps: nn.functional.leaky_relu_(ours(maps)), ours, maps, gradient)
    for there, here in zip(expected, found, strict=True):
        torch.testing.assert_close(here.double(), there, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv3d(8, 5, 1), ChannelsLastPointConv3d),
        (nn.Conv3d(8, 5, 1, bias=False), ChannelsLastPointConv3d),
        (nn.AvgPool3d(2), ChannelsLastAvgPool3d),
        (nn.AvgPool3d((1, 2, 3), (1, 2, 3)), ChannelsLastAvgPool3d),
    ],
)
@pytest.mark.parametrize("shape", [(2, 8, 4, 4, 6), (1, 8, 4, 5, 6)])
def test_convolution_and_pooling_are_pytorch_s(layer, kind, shape, formats):
    torch.manual_seed(0)
    ours = ours_of(layer)
    assert type(ours) is kind
    maps = ordered(torch.randn(shape), formats[0])
    gradient = ordered(torch.randn_like(layer(maps)), formats[1])
    theirs = copy.deepcopy(layer)
    for there, found in zip(run(theirs, theirs, maps, gradient), run(ours, ours, maps, gradient), strict=True):
        torch.testing.assert_close(found, there, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [norm_of(8), nn.Conv3d(8, 4, 1), nn.AvgPool3d(2)])
def test_order_of_memory_stays(layer):
    maps = torch.randn(2, 8, 4, 4, 4).contiguous(memory_format=LAST)
    torch.set_num_threads(1)
    assert not layer(maps).is_contiguous(memory_format=LAST)
    assert ours_of(layer)(maps).is_contiguous(memory_format=LAST)
    assert ours_of(layer)(maps.contiguous()).shape == layer(maps).shape


def test_samples_are_normed_one_by_one():
    ours = ours_of(norm_of(4))
    maps = torch.randn(3, 4, 5, 5, 5).contiguous(memory_format=LAST)
    torch.testing.assert_close(ours(maps)[1:2], ours(maps[1:2]))


def test_norm_of_large_maps_is_as_exact_as_pytorch_s():
    norm = norm_of(2)
    maps = (5 + 3 * torch.randn(1, 2, 128, 128, 16)).contiguous(memory_format=LAST)
    exact = formula(copy.deepcopy(norm).double())(maps.double())
    assert (ours_of(norm)(maps) - exact).abs().max() < 1e-5


@pytest.mark.parametrize("layer", [norm_of(8, affine=False), nn.Conv3d(8, 4, 1).bfloat16()])
@pytest.mark.parametrize("batch", [1, 2])
def test_bf16_goes_pytorch_s_way(layer, batch):
    maps = torch.randn(batch, 8, 4, 4, 4).bfloat16().contiguous(memory_format=LAST)
    assert torch.equal(ours_of(layer)(maps), layer(maps))


def test_only_layers_that_mean_the_same_are_changed():
    kept = [
        nn.InstanceNorm3d(2, track_running_stats=True),
        nn.Conv3d(2, 2, 1, stride=2),
        nn.Conv3d(2, 2, 1, padding=1),
        nn.Conv3d(2, 2, 1, groups=2),
        nn.Conv3d(2, 2, 3),
        nn.AvgPool3d(3, stride=2),
        nn.AvgPool3d(2, padding=1),
        nn.AvgPool3d(2, ceil_mode=True),
    ]
    network = nn.Sequential(nn.Conv3d(1, 2, 1), *kept)
    names, kinds = list(network.state_dict()), [type(layer) for layer in kept]
    channels_last(network)
    assert list(network.state_dict()) == names
    assert [type(layer) for layer in network] == [ChannelsLastPointConv3d, *kinds]
    assert network[5].weight.is_contiguous(memory_format=LAST)


def test_gradients_have_the_strides_of_their_weights():
    """Or DDP, which puts gradients into buckets of the weights' strides, warns of it in every training."""
    network = nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.Conv3d(8, 4, 1), nn.Conv3d(4, 2, 1, stride=2))
    network = channels_last(network)
    network(torch.randn(2, 4, 6, 6, 6).to(memory_format=LAST)).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad.stride() == weight.stride(), name
