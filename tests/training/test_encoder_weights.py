"""What test_adaptation.py does not reach: other networks of dynamic-network-architectures than the residual U-Net."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import nn

from detpretrain.training.encoder_weights import find, trained_aliases

NORM = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}}


def block(**options):
    return ConvDropoutNormReLU(nn.Conv3d, 2, 3, 3, 1, True, **options)


@pytest.mark.parametrize(
    "options",
    [
        NORM | {"nonlin": nn.LeakyReLU},
        NORM | {"nonlin": nn.LeakyReLU, "nonlin_first": True},
        NORM | {"dropout_op": nn.Dropout3d, "dropout_op_kwargs": {"p": 0.1}, "nonlin": nn.LeakyReLU},
        {"nonlin": nn.LeakyReLU},
        NORM,
    ],
    ids=["usual", "nonlinearity first", "dropout", "no norm", "no nonlinearity"],
)
def test_aliases_are_found_in_every_order_of_layers(options):
    """Against the module itself: two names are aliases when they are one parameter."""
    module = nn.Sequential(block(**options), block(**options))
    parameters = module.state_dict(keep_vars=True)
    weights = {
        name: parameter.detach() if ".all_modules." in name else torch.full_like(parameter.detach(), 9.0)
        for name, parameter in parameters.items()
    }
    changed = trained_aliases(weights)
    assert sorted(changed) == sorted(name for name in parameters if ".all_modules." not in name)
    for name, parameter in parameters.items():
        assert torch.equal(weights[name], parameter), name
    assert trained_aliases(weights) == []


def test_a_stem_inside_the_first_stage_has_no_id(tmp_path):
    network = PlainConvUNet(1, 2, [4, 6], nn.Conv3d, 3, [1, 2], [1, 2], 1, [1], True, **NORM, nonlin=nn.LeakyReLU)
    plan = {
        "key_to_encoder": network.key_to_encoder, "key_to_stem": network.key_to_stem,
        "keys_to_in_proj": network.keys_to_in_proj, "pretrain_num_input_channels": 1,
    }  # fmt: skip
    found = find(tmp_path, {"network_weights": network.state_dict(), "nnssl_adaptation_plan": plan})
    wanted = network.encoder.state_dict()
    assert set(found.weights) == set(wanted)
    assert all(torch.equal(value, wanted[name]) for name, value in found.weights.items())
    assert found.stem is None
    assert {f"stages.0.0.convs.0.{alias}.weight" for alias in ("conv", "all_modules.0")} == set(found.projections)
