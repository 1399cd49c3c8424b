"""Multi-scale deformable attention (Zhu et al., ICLR 2021) over volumes, in plain PyTorch.

Positions are ``(z, y, x)`` fractions of the volume: 0 and 1 are its outer faces, so that voxel j of n is centred at
``(j + 0.5) / n`` at every level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.errors import InputError

Size = Sequence[int]


def sample_levels(values: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of trilinear samples, zero outside of the volume.

    Its backward pass is deterministic on CPUs, and on GPUs adds up in any order (``grid_sample``).

    Args:
        values: ``[B, S, heads, C]``, the voxels of all levels one after the other, ``S = sum(D * H * W)``.
        sizes: ``(D, H, W)`` of each of the L levels.
        locations: ``[B, Q, heads, L, P, 3]``, fractions of the volume.
        weights: ``[B, Q, heads, L, P]``.

    Returns:
        ``[B, Q, heads, C]``.
    """
    batch, queries, heads = locations.shape[:3]
    # grid_sample wants (x, y, z) from -1 to 1, and takes heads as images: [B * heads, L, Q, P, 3]
    grids = (2 * locations - 1).flip(-1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)
    shares = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)
    per_head = values.permute(0, 2, 3, 1).flatten(0, 1)
    result = values.new_zeros(batch * heads, values.shape[-1], queries)
    for level, part in enumerate(per_head.split([math.prod(size) for size in sizes], dim=-1)):
        volume = part.unflatten(-1, tuple(sizes[level]))
        grid = grids[:, level].unsqueeze(-2)
        sampled = functional.grid_sample(volume, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        result = result + torch.einsum("ncqp,nqp->ncq", sampled.squeeze(-1), shares[:, level])
    return result.unflatten(0, (batch, heads)).permute(0, 3, 1, 2)


def sphere_directions(number: int) -> Tensor:
    """``[number, 3]`` directions spread evenly over the sphere (Fibonacci lattice), the largest component of each +-1.

    The 3D form of the original's equally spaced angles: a step along one reaches the next shell of voxels around the centre.
    """
    index = torch.arange(number, dtype=torch.float64)
    height = 1 - (2 * index + 1) / number
    angle = index * math.pi * (3 - math.sqrt(5))
    radius = torch.sqrt(1 - height**2)
    directions = torch.stack([height, radius * torch.sin(angle), radius * torch.cos(angle)], dim=1)
    return (directions / directions.abs().amax(dim=1, keepdim=True)).float()


class DeformableAttention(nn.Module):
    """Every query looks at ``points`` learnt places per head and level, around its reference.

    At the start, head h looks along direction h of ``sphere_directions``, at 1, 2, ... ``points`` voxels of each level, with
    equal weights.

    Args:
        channels: of queries and values.
        heads, levels, points: as published 8, 4, 4.

    Raises:
        InputError: the channels do not divide by the heads.
    """

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        if channels % heads:
            raise InputError(f"deformable attention: {channels} channels do not divide by {heads} heads: change one")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 3)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.values = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        self._initialise()

    def _initialise(self) -> None:
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.values, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        steps = torch.arange(1, self.points + 1)[:, None]
        bias = sphere_directions(self.heads)[:, None, None] * steps  # [heads, 1, points, 3]
        with torch.no_grad():
            self.offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())

    def forward(self, queries: Tensor, references: Tensor, values: Tensor, sizes: Sequence[Size]) -> Tensor:
        """``queries [B, Q, C]``, ``values [B, S, C]`` -> ``[B, Q, C]``.

        ``references``: ``[B, Q, L, 3]`` points, around which offsets count voxels of the level, or ``[B, Q, L, 6]`` boxes
        (centre, size), around whose centre an offset of ``points`` is half the box.
        """
        heads = (self.heads, -1)
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(queries).unflatten(-1, (*shape, 3))
        weights = self.weights(queries).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        mapped = self.values(values).unflatten(-1, heads)
        with torch.autocast(queries.device.type, enabled=False):
            precision = references.dtype
            locations = sampling_locations(references, offsets.to(precision), sizes)
            sampled = sample_levels(mapped.to(precision), sizes, locations, weights.to(precision))
        return self.out(sampled.flatten(2).to(queries.dtype))


def sampling_locations(references: Tensor, offsets: Tensor, sizes: Sequence[Size]) -> Tensor:
    """``[B, Q, L, 3 or 6], [B, Q, heads, L, P, 3] -> [B, Q, heads, L, P, 3]``, see ``DeformableAttention.forward``."""
    centres = references[:, :, None, :, None, :3]
    if references.shape[-1] == 3:
        units = 1 / references.new_tensor(sizes)[:, None]
    else:
        units = references[:, :, None, :, None, 3:] / (2 * offsets.shape[-2])
    return centres + offsets * units
