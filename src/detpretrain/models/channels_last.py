"""Layers that leave channels_last maps as they are, on CPUs: ways around PyTorch 2.13.

There instance norm, average pooling and (with one thread) convolutions of one voxel copy such a map to the usual order and hand
that on, and every convolution behind them copies back: an eighth of a training step at the demo's size. And of a single sample
whose gradient arrives in channels_last, PyTorch's instance norm computes another gradient than that of its output.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LAST = torch.channels_last_3d
MOST_VOXELS = 2**17  # of a sample: batch norm sums in float32, which is off by 3e-5 there and by 1e-3 at 128^3


class ChannelsLastInstanceNorm3d(nn.InstanceNorm3d):
    """The same values and parameters as ``nn.InstanceNorm3d`` without running statistics."""

    def forward(self, maps: Tensor) -> Tensor:
        if maps.device.type != "cpu":
            return super().forward(maps)
        if _ours(maps) and math.prod(maps.shape[2:]) <= MOST_VOXELS:
            # batch norm has kernels for channels_last, and a batch of one is an instance
            normed = [
                functional.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.eps)
                for sample in maps.split(1)
            ]
            return normed[0] if len(normed) == 1 else torch.cat(normed)
        normed = super().forward(maps)
        if len(maps) == 1 and normed.requires_grad:
            # a hook, since what a function of our own returns could not be changed in place, as an activation does
            normed.register_hook(Tensor.contiguous)
        return normed


class ChannelsLastPointConv3d(nn.Conv3d):
    """A convolution of one voxel, as the matrix product that it is."""

    def forward(self, maps: Tensor) -> Tensor:
        if not _ours(maps):
            return super().forward(maps)
        return functional.linear(maps.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)


class ChannelsLastAvgPool3d(nn.AvgPool3d):
    """Means of boxes that lie beside each other; ``kernel_size`` and ``stride`` are the same."""

    def forward(self, maps: Tensor) -> Tensor:
        depth, height, width = _per_axis(self.kernel_size)
        if not _ours(maps) or any(
            size % step for size, step in zip(maps.shape[2:], (depth, height, width), strict=True)
        ):
            return super().forward(maps)
        batch, channels, *(z, y, x) = maps.shape
        rows = maps.permute(0, 2, 3, 4, 1).reshape(batch, z // depth, depth, y // height, height, -1)
        sums = rows.sum(2).sum(3)  # long contiguous lines, which one sum over all three axes would not have
        sums = sums.view(batch, z // depth, y // height, x // width, width, channels).sum(4)
        return (sums / (depth * height * width)).permute(0, 4, 1, 2, 3)


def _ours(maps: Tensor) -> bool:
    """Float32 on a CPU in channels_last, and not in the usual order as well, as maps of a single channel are."""
    plain = maps.device.type == "cpu" and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and maps.is_contiguous(memory_format=LAST) and not maps.is_contiguous()


def _per_axis(size: Any) -> tuple[int, int, int]:
    return (size,) * 3 if isinstance(size, int) else tuple(size)


def channels_last(network: nn.Module) -> nn.Module:
    """Brings ``network`` to channels_last, in place, with layers that keep it; returns ``network``."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__ = ChannelsLastInstanceNorm3d
        elif type(module) is nn.Conv3d and _of_one_voxel(module):
            module.__class__ = ChannelsLastPointConv3d
        elif type(module) is nn.AvgPool3d and _side_by_side(module):
            module.__class__ = ChannelsLastAvgPool3d
    network.to(memory_format=LAST)
    for module in network.modules():
        if isinstance(module, ChannelsLastPointConv3d):
            # both orders are one in memory, but DDP compares the strides with those of its gradient, which are the usual ones
            module.weight.data = module.weight.data.flatten().view(module.weight.shape)
    return network


def _of_one_voxel(conv: nn.Conv3d) -> bool:
    return conv.kernel_size == (1, 1, 1) and conv.stride == (1, 1, 1) and conv.padding == (0, 0, 0) and conv.groups == 1


def _side_by_side(pool: nn.AvgPool3d) -> bool:
    same = _per_axis(pool.kernel_size) == _per_axis(pool.stride)
    return same and _per_axis(pool.padding) == (0, 0, 0) and not pool.ceil_mode and pool.divisor_override is None
