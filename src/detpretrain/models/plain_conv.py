"""The plain-convolution encoder of nnDetection, built of the blocks of dynamic-network-architectures.

Two convolutions per stage (convolution without bias, InstanceNorm, activation), the first one of every later stage strided.
nnDetection v0.1 (Baumgartner et al., MICCAI 2021) activates with ReLU; its second version, and with it the encoder of the study's
MultiTalent checkpoint (arXiv 2509.15947), with LeakyReLU: ``features 32 64 128 256 320 320``, kernels 3, strides 1 2 2 2 2 2,
14.0 M parameters.

The first convolution of the first stage is the stem, as in that checkpoint, whose stems differ between data sets. It is no layer
more: the first stage keeps one convolution of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from detpretrain.errors import InputError
from detpretrain.models.shallow_maps import guard

CONVOLUTIONS = 2  # of a stage


class StemEncoder(PlainConvEncoder):
    """dynamic-network-architectures' encoder with the first convolution taken out of its first stage.

    Args:
        input_channels: of the image.
        n_conv_per_stage: the stem counts as one of the first stage's.
        others: of ``PlainConvEncoder``; the first stride must be 1.
    """

    def __init__(self, input_channels: int, *, n_conv_per_stage: Sequence[int], **others: Any) -> None:
        first, *later = n_conv_per_stage
        width = others["features_per_stage"][0]
        super().__init__(width, n_conv_per_stage=[first - 1, *later], return_skips=True, **others)
        self.stem = stem_block(input_channels, **others)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, C, D, H, W]`` -> one map per stage, finest first."""
        return super().forward(self.stem(images))


class PlainConvUNet(nn.Module):
    """The encoder with dynamic-network-architectures' U-Net decoder, arguments as its class of this name has them."""

    def __init__(
        self, input_channels: int, *, num_classes: int, n_conv_per_stage_decoder: Sequence[int], **encoder: Any
    ) -> None:
        super().__init__()
        self.encoder = StemEncoder(input_channels, **encoder)
        self.decoder = UNetDecoder(self.encoder, num_classes, list(n_conv_per_stage_decoder), deep_supervision=False)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` -> ``[B, num_classes, D, H, W]``."""
        return self.decoder(self.encoder(images))


def stem_block(
    input_channels: int, *, features_per_stage: Sequence[int], kernel_sizes: Sequence[Sequence[int]], **others: Any
) -> StackedConvBlocks:
    """The first convolution with its norm and activation, from the encoder's arguments."""
    layer = {name: value for name, value in others.items() if name not in ("n_stages", "n_conv_per_stage", "strides")}
    return StackedConvBlocks(
        num_convs=1,
        input_channels=input_channels,
        output_channels=features_per_stage[0],
        kernel_size=kernel_sizes[0],
        initial_stride=1,
        **layer,
    )


@dataclass(frozen=True)
class PlainConv:
    """A recipe for encoders and U-Nets of one size; the interface of ``models.resenc.ResEnc``.

    Args:
        features: channels of each stage.
        strides: per stage and axis (z, y, x), from the plan.
        kernels: per stage and axis, from the plan.
        negative_slope: of LeakyReLU; 0 makes it ReLU, as nnDetection v0.1 has it.
        faithful_initialisation: PyTorch's default initialisation, as in nnDetection v0.1, instead of He.

    Raises:
        InputError: the lists differ in length, or the first stage is strided.
    """

    features: Sequence[int]
    strides: Sequence[Sequence[int]]
    kernels: Sequence[Sequence[int]]
    negative_slope: float = 0.01
    faithful_initialisation: bool = False

    # where an adaptation plan finds the parts in a network's state dict
    key_to_encoder = "encoder.stages"
    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0")

    def __post_init__(self) -> None:
        if len({len(self.features), len(self.strides), len(self.kernels)}) != 1:
            raise InputError(
                f"PlainConv: {len(self.features)} features, {len(self.strides)} strides, {len(self.kernels)} kernels: the "
                "plan and the backbone must have the same number of stages"
            )
        if max(self.strides[0]) > 1:
            raise InputError(
                f"PlainConv: stride {list(self.strides[0])} into the first stage: start the plan's strides with 1"
            )

    def encoder(self, channels: int) -> nn.Module:
        """``[B, channels, D, H, W]`` -> list of one ``[B, features[i], ...]`` per stage; keys ``stem.*``, ``stages.*``."""
        return self._initialised(StemEncoder(channels, **self._arguments()))

    def stem(self, channels: int) -> nn.Module:
        """A stem for other channels than the encoder's: ``[B, channels, D, H, W]`` -> ``[B, features[0], D, H, W]``."""
        return self._initialised(stem_block(channels, **self._arguments()))

    def unet(self, channels: int, outputs: int) -> nn.Module:
        """``[B, channels, D, H, W]`` -> ``[B, outputs, D, H, W]``, linear head; keys ``encoder.*``, ``decoder.*``.

        One convolution per decoder stage, transposed convolutions, skips at every stage, no deep supervision.
        """
        decoder = [1] * (len(self.features) - 1)
        return self._initialised(
            PlainConvUNet(channels, num_classes=outputs, n_conv_per_stage_decoder=decoder, **self._arguments())
        )

    def architecture_plan(self) -> dict[str, Any]:
        """``architecture_plans`` of the adaptation plan, with classes as importable names so that it is plain data.

        The class is named with its module: tensors of the class of this name elsewhere are called differently in stage 0.
        """
        arguments = self._arguments()
        imported = ("conv_op", "norm_op", "nonlin")
        named = {key: f"{arguments[key].__module__}.{arguments[key].__name__}" for key in imported}
        return {
            "arch_class_name": f"{PlainConvUNet.__module__}.{PlainConvUNet.__name__}",
            "arch_kwargs": {**arguments, **named, "n_conv_per_stage_decoder": [1] * (len(self.features) - 1)},
            "arch_kwargs_requiring_import": list(imported),
        }

    def _arguments(self) -> dict[str, Any]:
        return {
            "n_stages": len(self.features),
            "features_per_stage": list(self.features),
            "conv_op": nn.Conv3d,
            "kernel_sizes": [list(kernel) for kernel in self.kernels],
            "strides": [list(stride) for stride in self.strides],
            "n_conv_per_stage": [CONVOLUTIONS] * len(self.features),
            "conv_bias": False,
            "norm_op": nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"negative_slope": self.negative_slope, "inplace": True},
        }

    def _initialised(self, network: nn.Module) -> nn.Module:
        if not self.faithful_initialisation:
            network.apply(InitWeights_He(self.negative_slope))
        return guard(network)


def planned(
    strides: Sequence[Sequence[int]],
    kernels: Sequence[Sequence[int]],
    start: int = 32,
    largest: int = 320,
    negative_slope: float = 0.01,
    faithful_initialisation: bool = False,
) -> PlainConv:
    """A backbone of as many stages as the plan has: channels start at ``start`` and double, up to ``largest`` (nnDetection)."""
    features = [min(start << stage, largest) for stage in range(len(strides))]
    return PlainConv(features, strides, kernels, negative_slope, faithful_initialisation)
