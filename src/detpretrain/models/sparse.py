"""Sparse convolution emulated on dense tensors: an encoder runs as if hidden voxels did not exist.

After every convolution and pooling what is hidden is set to 0 again, and instance norms take their statistics over visible
voxels only (SparK; Tian et al., ICLR 2023, section 3.1). The encoder's modules are walked, not replaced: its weights, ties
and state dict stay what they are, and nothing is kept between calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD, StackedResidualBlocks
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU, StackedConvBlocks
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from detpretrain.errors import InputError
from detpretrain.models.channels_last import (
    ChannelsLastAvgPool3d,
    ChannelsLastInstanceNorm3d,
    ChannelsLastPointConv3d,
)
from detpretrain.models.shallow_maps import DeepenedConv3d

SPACE = (2, 3, 4)


def sparse_encode(encoder: nn.Module, images: Tensor, visible: Tensor, block: int) -> tuple[list[Tensor], list[Tensor]]:
    """Features of the visible voxels, one map per stage, and the mask of each.

    Args:
        encoder: of dynamic-network-architectures, residual or plain, with its ``stages``, ``strides`` and perhaps ``stem``.
        images: ``[B, C, D, H, W]``, as the first convolution shall see it: mask it first, else it looks one voxel far into
            what is hidden.
        visible: ``[B, 1, D, H, W]``, 1 or 0; any number of visible voxels per sample.
        block: side of a masked block in voxels, see ``level_masks``.

    Returns:
        Per stage ``[B, features, d, h, w]``, 0 where hidden, and ``[B, 1, d, h, w]``.

    Raises:
        InputError: the encoder has a part without a sparse form.
    """
    masks = level_masks(visible, encoder.strides, block)
    stem = getattr(encoder, "stem", None)
    features = images if stem is None else _run(stem, images, (visible,))
    skips, before = [], visible
    for stage, mask in zip(encoder.stages, masks, strict=True):
        features = _run(stage, features, (mask, before))
        skips.append(features)
        before = mask
    return skips, masks


def level_masks(visible: Tensor, strides: Sequence[Sequence[int]], block: int) -> list[Tensor]:
    """What is visible at each stage: ``[B, 1, D, H, W] -> [B, 1, d, h, w]`` per stage.

    A cell is visible when a voxel in it is: exact for strides within the block. A last stage beyond it sees everything.

    Args:
        strides: per stage and axis, the stride entering it.
        block: side of a masked block in voxels.
    """
    masks = []
    for stride in strides:
        if max(stride) > 1:
            visible = functional.max_pool3d(visible, tuple(stride))
        masks.append(visible)
    if last_stage_is_dense(strides, block):
        masks[-1] = torch.ones_like(masks[-1])
    return masks


def last_stage_is_dense(strides: Sequence[Sequence[int]], block: int) -> bool:
    """Whether a cell of the last stage is longer than a block along some axis, so that few cells are wholly hidden."""
    return any(math.prod(axis) > block for axis in zip(*strides, strict=True))


def sparse_instance_norm(
    features: Tensor, mask: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Instance norm over visible voxels, statistics at least in float32; the result has the features' type.

    Args:
        features: ``[B, C, D, H, W]``, 0 where hidden.
        mask: ``[B, 1, D, H, W]``; the numbers of visible voxels may differ, a sample without any stays 0.
        weight, bias: ``[C]``.
    """
    precision = torch.promote_types(features.dtype, torch.float32)
    channels = (1, features.shape[1], 1, 1, 1)
    weight = features.new_ones(channels, dtype=precision) if weight is None else weight.view(channels)
    bias = features.new_zeros(channels, dtype=precision) if bias is None else bias.view(channels)
    return _SparseInstanceNorm.apply(features, mask.to(precision), weight, bias, eps)


class _SparseInstanceNorm(torch.autograd.Function):
    """Written out because it keeps one tensor for the backward pass, in the features' type: composed of single operations it
    would keep float32 copies, at full resolution the largest tensors of a training step."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        share = 1 / mask.sum(SPACE, keepdim=True).clamp(min=1)
        values = features.to(mask.dtype)
        mean = values.sum(SPACE, keepdim=True) * share
        centred = torch.addcmul(values, mean, mask, value=-1)
        scale = torch.rsqrt(centred.square().sum(SPACE, keepdim=True) * share + eps)
        ctx.save_for_backward(features, mask, weight, share, mean, scale)
        return centred.mul_(scale * weight).addcmul_(bias, mask).to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, mask, weight, share, mean, scale = ctx.saved_tensors
        normed = torch.addcmul(features.to(mask.dtype), mean, mask, value=-1).mul_(scale)
        gradient = gradient * mask
        to_bias = gradient.sum(SPACE, keepdim=True)
        to_weight = (gradient * normed).sum(SPACE, keepdim=True)
        # the mean and the scale move with every visible value
        gradient.addcmul_(to_bias * share, mask, value=-1).addcmul_(to_weight * share, normed, value=-1)
        to_features = gradient.mul_(scale * weight).to(features.dtype)
        return to_features, None, to_weight.sum(0, keepdim=True), to_bias.sum(0, keepdim=True), None


# --- one rule per type of module: (module, features, masks) -> features -------------------------------------------------
# masks: that of the stage, then that of the stage before, for what comes ahead of the stage's stride


def _run(module: nn.Module, features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    rule = _RULES.get(type(module))
    if rule is None:
        known = ", ".join(kind.__name__ for kind in _RULES)
        raise InputError(f"sparse encoder: {type(module).__name__} has no sparse form: use a backbone made of {known}")
    return rule(module, features, masks)


def _mask_of(features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    for mask in masks:
        if mask.shape[2:] == features.shape[2:]:
            return mask
    raise InputError(
        f"sparse encoder: a feature map of {tuple(features.shape[2:])} has no mask: the patch must be divisible by the "
        "strides, kernels must be odd"
    )


def _sequence(module: nn.Sequential, features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    for child in module:
        features = _run(child, features, masks)
    return features


def _masked(module: nn.Module, features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    features = module(features)
    return features.mul_(_mask_of(features, masks).to(features.dtype))


def _norm(module: nn.InstanceNorm3d, features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    if module.track_running_stats:
        raise InputError("sparse encoder: InstanceNorm3d with running statistics has no sparse form: turn them off")
    return sparse_instance_norm(features, _mask_of(features, masks), module.weight, module.bias, module.eps)


def _pointwise(module: nn.Module, features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """What keeps zeros by itself."""
    return module(features)


def _residual(module: BasicBlockD | BottleneckD, features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    if module.apply_stochastic_depth or module.apply_se:
        raise InputError("sparse encoder: stochastic depth and squeeze-excitation have no sparse form: turn them off")
    *convolutions, activation = _PARTS[type(module)]
    # without stride and change of width the skip is a plain function that returns its argument
    skip = _run(module.skip, features, masks) if isinstance(module.skip, nn.Module) else features
    for name in convolutions:
        features = _run(getattr(module, name), features, masks)
    return getattr(module, activation)(features.add_(skip))


_PARTS = {BasicBlockD: ("conv1", "conv2", "nonlin2"), BottleneckD: ("conv1", "conv2", "conv3", "nonlin3")}

_RULES: dict[type, Callable[[Any, Tensor, Sequence[Tensor]], Tensor]] = {
    nn.Sequential: _sequence,
    StackedConvBlocks: lambda module, features, masks: _sequence(module.convs, features, masks),
    StackedResidualBlocks: lambda module, features, masks: _sequence(module.blocks, features, masks),
    ConvDropoutNormReLU: lambda module, features, masks: _sequence(module.all_modules, features, masks),
    BasicBlockD: _residual,
    BottleneckD: _residual,
    nn.Conv3d: _masked,
    DeepenedConv3d: _masked,
    ChannelsLastPointConv3d: _masked,
    nn.AvgPool3d: _masked,
    ChannelsLastAvgPool3d: _masked,
    nn.MaxPool3d: _masked,
    nn.InstanceNorm3d: _norm,
    ChannelsLastInstanceNorm3d: _norm,
    nn.LeakyReLU: _pointwise,
    nn.ReLU: _pointwise,
    nn.GELU: _pointwise,
    nn.SiLU: _pointwise,
    nn.Identity: _pointwise,
    nn.Dropout3d: _pointwise,
}
