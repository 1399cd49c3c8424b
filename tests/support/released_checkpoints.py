"""Checkpoints in nnssl's layout, built by dynamic-network-architectures itself, without this package's writer."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.resenc import ResEnc

METHOD = {"type": "Pretraining Method", "name": "x", "apa_citations": ["X (2020)."]}
FEATURES, BLOCKS = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)
SMALL = (4, 6, 8, 9, 10, 10)
STRIDES = [[1] * 3] + [[2] * 3] * 5
FIRST = ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0")


def kwargs_of(features, blocks=BLOCKS, strides=STRIDES):
    return {
        "n_stages": len(features), "features_per_stage": list(features), "conv_op": nn.Conv3d,
        "kernel_sizes": [[3] * 3] * len(features), "strides": strides, "n_blocks_per_stage": list(blocks),
        "conv_bias": True, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip


def backbone(features=SMALL, blocks=BLOCKS, strides=STRIDES, kernels=None):
    return ResEnc(list(features), list(blocks), strides[: len(features)], kernels or [[3] * 3] * len(features))


def numbered(module):
    """Every parameter gets values of its own, without a random number."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            values = torch.arange(parameter.numel(), dtype=torch.float32).add_(17 * number).remainder_(509)
            parameter.copy_(values.div_(509).sub_(0.5).view_as(parameter))
    return module


def nnssl_content(network, patch=(160, 160, 160)):
    """A released checkpoint: three keys, the architecture by its name, tuples where nnssl has tuples."""
    configuration = {"data_identifier": "nnsslPlans_onemmiso", "spacing": [1, 1, 1], "patch_size": patch}
    return {
        "network_weights": network.state_dict(),
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": "ResEncL",
                "arch_kwargs": None,
                "arch_kwargs_requiring_import": None,
            },
            "pretrain_plan": {"dataset_name": "Dataset745_OpenMind", "configurations": {"onemmiso": configuration}},
            "pretrain_num_input_channels": 1,
            "recommended_downstream_patchsize": patch,
            "key_to_encoder": "encoder.stages",
            "key_to_stem": "encoder.stem",
            "keys_to_in_proj": FIRST,
            "key_to_lpe": None,
        },
        "citations": [METHOD],
    }


def architecture_of(features, **other):
    figures = {key: value for key, value in kwargs_of(features).items() if isinstance(value, list | int)} | other
    return {"arch_class_name": "ResidualEncoderUNet", "arch_kwargs": figures, "arch_kwargs_requiring_import": []}


def small_unet():
    """ResEnc-L's U-Net with few features: the same 956 entries."""
    return numbered(ResidualEncoderUNet(1, num_classes=1, n_conv_per_stage_decoder=1, **kwargs_of(SMALL))).eval()


def assert_holds(encoder, network):
    theirs = network.encoder.state_dict()
    assert list(theirs) == list(encoder.state_dict())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def image_of(dtype=torch.float32):
    return torch.randn(1, 1, 64, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(0))


def assert_same_features(encoder, network):
    """What matters in the end."""
    with torch.no_grad():
        for ours, theirs in zip(encoder(image_of()), network.encoder(image_of()), strict=True):
            assert torch.equal(ours, theirs)


def first_weight(encoder):
    return encoder.stem.convs[0].conv.weight.detach()


def refusal(function, *arguments, **options):
    """What ``function`` says when it refuses: one line."""
    with pytest.raises(InputError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
