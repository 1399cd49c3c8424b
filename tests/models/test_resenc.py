import math
from importlib import import_module

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc

RESENC_L = {
    "features": [32, 64, 128, 256, 320, 320],
    "blocks": [1, 3, 4, 6, 6, 6],
    "strides": [[1] * 3] + [[2] * 3] * 5,
    "kernels": [[3] * 3] * 6,
}
TINY = {
    "features": [4, 8, 16],
    "blocks": [1, 2, 1],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_resenc_l_has_the_published_size():
    with torch.device("meta"):
        backbone = ResEnc(**RESENC_L, faithful_initialisation=True)
        encoder, unet = backbone.encoder(1), backbone.unet(1, 1)
    assert parameters(encoder) == 90_296_576
    assert parameters(unet) == 102_348_965
    entries = list(unet.state_dict())
    assert len(entries) == 956
    assert sum(name.startswith("encoder.stem.") for name in entries) == 8
    assert sum(name.startswith("encoder.stages.") for name in entries) == 440
    assert sum(name.startswith("decoder.encoder.") for name in entries) == 448


def test_the_encoder_names_its_tensors_as_the_unet_does():
    backbone = ResEnc(**TINY)
    alone, whole = backbone.encoder(2).state_dict(), backbone.unet(2, 3).state_dict()
    in_unet = {
        name.removeprefix("encoder."): tensor.shape
        for name, tensor in whole.items()
        if name.startswith((f"{backbone.key_to_encoder}.", f"{backbone.key_to_stem}."))
    }
    assert in_unet == {name: tensor.shape for name, tensor in alone.items()}
    for key in backbone.keys_to_in_proj:
        assert whole[f"{key}.weight"].shape[1] == 2  # the layer that sees the input channels


def test_outputs_follow_the_strides():
    torch.manual_seed(0)
    backbone, images = ResEnc(**TINY), torch.randn(2, 3, 6, 8, 12)
    shapes = [tuple(level.shape[1:]) for level in backbone.encoder(3)(images)]
    assert shapes == [(4, 6, 8, 12), (8, 6, 4, 6), (16, 3, 2, 3)]
    assert backbone.unet(3, 5)(images).shape == (2, 5, 6, 8, 12)


def last_norms(network):
    return [block.conv2.norm for block in network.modules() if hasattr(block, "conv2")]


def test_initialisation_is_he_with_the_last_norm_of_a_branch_at_zero():
    torch.manual_seed(0)
    encoder = ResEnc(**{**TINY, "features": [16, 32, 64]}).encoder(1)
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv3d)]
    for convolution in convolutions:
        fan_in = convolution.weight[0].numel()
        expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.15)
        assert convolution.bias is None or not convolution.bias.any()
    assert len(last_norms(encoder)) == sum(TINY["blocks"])
    assert all(not norm.weight.any() for norm in last_norms(encoder))
    first = [block.conv1.norm for block in encoder.modules() if hasattr(block, "conv2")]
    assert all((norm.weight == 1).all() for norm in first)


def test_the_faithful_switch_keeps_pytorchs_initialisation():
    torch.manual_seed(0)
    encoder = ResEnc(**{**TINY, "features": [16, 32, 64]}, faithful_initialisation=True).encoder(1)
    convolution = encoder.stages[2].blocks[0].conv2.conv
    bound = 1 / math.sqrt(convolution.weight[0].numel())  # kaiming_uniform with a = sqrt(5)
    assert convolution.weight.abs().max() <= bound
    assert convolution.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert all((norm.weight == 1).all() for norm in last_norms(encoder))


def test_plan_and_backbone_must_have_the_same_number_of_stages():
    with pytest.raises(InputError, match="2 features, 3 blocks, 3 strides, 3 kernels"):
        ResEnc(**{**TINY, "features": [4, 8]})


def test_the_architecture_plan_is_plain_data_that_rebuilds_the_network():
    backbone = ResEnc(**TINY)
    plan = backbone.architecture_plan()
    arguments = dict(plan["arch_kwargs"])
    for key in plan["arch_kwargs_requiring_import"]:
        if arguments[key] is not None:
            module, _, name = arguments[key].rpartition(".")
            arguments[key] = getattr(import_module(module), name)
    assert plan["arch_class_name"] == ResidualEncoderUNet.__name__
    rebuilt = ResidualEncoderUNet(input_channels=1, num_classes=1, **arguments)
    rebuilt.load_state_dict(backbone.unet(1, 1).state_dict(), strict=True)
