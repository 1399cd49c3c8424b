"""The residual encoder (ResEnc) of nnU-Net and nnssl, built by dynamic-network-architectures.

ResEnc-L, the study's backbone, is ``features 32 64 128 256 320 320, blocks 1 3 4 6 6 6``, kernels 3, strides 1 2 2 2 2 2:
90.3 M encoder parameters (nnssl's ``get_res_enc_l``; MICCAI 2025, arXiv 2509.15947).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0
from torch import nn

from detpretrain.errors import InputError
from detpretrain.models.shallow_maps import guard

NEGATIVE_SLOPE = 0.01  # of LeakyReLU, and so of the He initialisation


@dataclass(frozen=True)
class ResEnc:
    """A recipe for encoders and U-Nets of one size.

    Args:
        features: channels of each stage.
        blocks: residual blocks of each stage (ResNet-D: the skip is average-pooled, then a 1x1x1 convolution).
        strides: per stage and axis (z, y, x), from the plan.
        kernels: per stage and axis, from the plan.
        faithful_initialisation: PyTorch's default initialisation, as nnssl's networks have by omission, instead of He with
            the last norm of a residual branch at zero (nnU-Net).

    Raises:
        InputError: the lists differ in length.
    """

    features: Sequence[int]
    blocks: Sequence[int]
    strides: Sequence[Sequence[int]]
    kernels: Sequence[Sequence[int]]
    faithful_initialisation: bool = False

    # where nnssl's adaptation plan finds the parts in a network's state dict
    key_to_encoder = "encoder.stages"
    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0")

    def __post_init__(self) -> None:
        lengths = {len(self.features), len(self.blocks), len(self.strides), len(self.kernels)}
        if len(lengths) != 1:
            raise InputError(
                f"ResEnc: {len(self.features)} features, {len(self.blocks)} blocks, {len(self.strides)} strides, "
                f"{len(self.kernels)} kernels: the plan and the backbone must have the same number of stages"
            )

    def encoder(self, channels: int) -> nn.Module:
        """``[B, channels, D, H, W]`` -> list of one ``[B, features[i], ...]`` per stage; keys ``stem.*``, ``stages.*``."""
        return self._initialised(ResidualEncoder(channels, **self._arguments(), return_skips=True))

    def stem(self, channels: int) -> nn.Module:
        """A stem for other channels than the encoder's: ``[B, channels, D, H, W]`` -> ``[B, features[0], D, H, W]``."""
        first = {name: values[:1] for name, values in self._arguments().items() if isinstance(values, list)}
        return self._initialised(ResidualEncoder(channels, **self._arguments() | first | {"n_stages": 1}).stem)

    def unet(self, channels: int, outputs: int) -> nn.Module:
        """``[B, channels, D, H, W]`` -> ``[B, outputs, D, H, W]``, linear head; keys ``encoder.*``, ``decoder.*``.

        One convolution per decoder stage, transposed convolutions, skips at every stage, no deep supervision.
        """
        return self._initialised(
            ResidualEncoderUNet(channels, num_classes=outputs, n_conv_per_stage_decoder=1, **self._arguments())
        )

    def architecture_plan(self) -> dict[str, Any]:
        """``architecture_plans`` of the adaptation plan, with classes as importable names so that it is plain data."""
        return {
            "arch_class_name": "ResidualEncoderUNet",
            "arch_kwargs": {
                "n_stages": len(self.features),
                "features_per_stage": list(self.features),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [list(kernel) for kernel in self.kernels],
                "strides": [list(stride) for stride in self.strides],
                "n_blocks_per_stage": list(self.blocks),
                "n_conv_per_stage_decoder": [1] * (len(self.features) - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "arch_kwargs_requiring_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    def _arguments(self) -> dict[str, Any]:
        return {
            "n_stages": len(self.features),
            "features_per_stage": list(self.features),
            "conv_op": nn.Conv3d,
            "kernel_sizes": [list(kernel) for kernel in self.kernels],
            "strides": [list(stride) for stride in self.strides],
            "n_blocks_per_stage": list(self.blocks),
            "conv_bias": True,
            "norm_op": nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"negative_slope": NEGATIVE_SLOPE, "inplace": True},
        }

    def _initialised(self, network: nn.Module) -> nn.Module:
        if not self.faithful_initialisation:
            network.apply(InitWeights_He(NEGATIVE_SLOPE))
            network.apply(init_last_bn_before_add_to_0)
        return guard(network)
