import pytest
import torch
from torch import nn

from detpretrain.models.resenc import ResEnc
from detpretrain.models.shallow_maps import DeepenedConv3d, guard
from detpretrain.training.precision import cpu_has_bf16


def gradients(convolution, maps, upstream, bf16):
    convolution.zero_grad()
    maps = maps.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        result = convolution(maps)
    result.float().backward(upstream)
    return result.detach().float(), maps.grad, convolution.weight.grad.clone(), convolution.bias.grad.clone()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(80, 64, 2, 2, 2), (2, 16, 2, 4, 6), (4, 32, 2, 8, 8)])
def test_bf16_gradients_of_maps_two_voxels_deep_are_those_of_float64(shape, channels_last):
    torch.manual_seed(0)
    convolution = guard(nn.Sequential(nn.Conv3d(shape[1], 24, 3, padding=1)))[0]
    maps = torch.randn(shape)
    layout = {"memory_format": torch.channels_last_3d} if channels_last else {}
    upstream = torch.randn(shape[0], 24, *shape[2:])
    # without fast bf16, which no training uses, sums round more often: 1.07 % was seen
    tolerance = 0.01 if cpu_has_bf16() else 0.02
    for _ in range(3):  # what is wrong without it changes from call to call
        found = gradients(convolution.to(**layout), maps.to(**layout), upstream, bf16=True)
        plain = nn.Conv3d(shape[1], 24, 3, padding=1).double()
        plain.load_state_dict(convolution.state_dict())
        expected = gradients(plain, maps.double(), upstream.double(), bf16=False)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).norm() / theirs.norm() < tolerance


def test_other_maps_pass_through():
    torch.manual_seed(0)
    plain = nn.Conv3d(3, 4, 3, padding=1)
    guarded = nn.Conv3d(3, 4, 3, padding=1)
    guarded.load_state_dict(plain.state_dict())
    guard(guarded)
    for depth in (1, 2, 3, 5):
        maps = torch.randn(2, 3, depth, 4, 5)
        torch.testing.assert_close(guarded(maps), plain(maps))


def test_every_backbone_is_guarded_and_keeps_its_keys():
    encoder = ResEnc([4, 8], [1, 1], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2).encoder(1)
    guarded = [name for name, module in encoder.named_modules() if isinstance(module, DeepenedConv3d)]
    assert "stem.convs.0.conv" in guarded
    assert "stages.1.blocks.0.conv2.conv" in guarded
    assert "stages.1.blocks.0.conv1.conv" not in guarded  # it strides along the depth
    assert encoder.stem.convs[0].conv is encoder.stem.convs[0].all_modules[0]
