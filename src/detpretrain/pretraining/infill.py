"""Filling unknown voxels from their neighbours: what a restoring network has to beat."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def neighbour_mean(images: Tensor, known: Tensor) -> Tensor:
    """Unknown voxels become the mean of their known neighbours, one layer after the other.

    Args:
        images: ``[B, 1, D, H, W]``; of no consequence where unknown.
        known: same shape, bool or 0/1.

    Returns:
        ``[B, 1, D, H, W]`` float32. Known voxels keep their value. In each round the unknown voxels with a known one among
        their 26 neighbours get the mean of those and count as known from then on. A sample of which nothing is known is 0.
    """
    known = known.bool()
    filled = torch.where(known, images.float(), 0.0)
    while True:
        share = _window_mean(known.float())
        reached = (share > 0) & ~known
        if not reached.any():
            return filled
        # unknown voxels hold 0, so that the quotient is the mean over the known ones
        filled = torch.where(reached, _window_mean(filled) / share, filled)
        known = known | reached


def _window_mean(values: Tensor) -> Tensor:
    """Mean over the 27 places around each voxel, with zeros outside the volume."""
    return functional.avg_pool3d(functional.pad(values, (1,) * 6), 3, stride=1)
