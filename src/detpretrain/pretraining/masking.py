"""Masked image modelling: which blocks of a volume are hidden, and the error over what is hidden."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detpretrain.errors import InputError


def check_ratio(ratio: float) -> None:
    """Raises:
    InputError: the part of the blocks to hide does not lie between 0 and 1.
    """
    if not 0 < ratio < 1:
        raise InputError(f"pre-training mask: ratio {ratio}: must lie between 0 and 1")


def visible_blocks(shape: Sequence[int], block: int, ratio: float, seed: int) -> Tensor:
    """Random grid ``[D/block, H/block, W/block]`` float, 1 = visible, 0 = hidden: exactly ``int(ratio * blocks)`` of them.

    Drawn on the CPU so that devices agree.

    Raises:
        InputError: the blocks do not tile the patch ``shape``, or are too few for one of them to be hidden.
    """
    if any(size % block for size in shape):
        raise InputError(
            f"pre-training mask: patch {tuple(shape)} is not divisible by the block of {block}: change patch or block"
        )
    grid = [size // block for size in shape]
    blocks = grid[0] * grid[1] * grid[2]
    hidden = int(ratio * blocks)
    if hidden == 0:
        raise InputError(
            f"pre-training mask: ratio {ratio} of {blocks} block(s) masks nothing: use smaller blocks than {block}"
        )
    order = torch.randperm(blocks, generator=torch.Generator().manual_seed(seed))
    visible = torch.ones(blocks)
    visible[order[:hidden]] = 0
    return visible.view(grid)


def block_masks(images: Tensor, block: int, ratio: float, sample_seeds: Sequence[int]) -> Tensor:
    """``[B, 1, D, H, W]``, 1 = visible, in the images' type and on their device; one seed per sample."""
    grids = torch.stack([visible_blocks(images.shape[2:], block, ratio, seed) for seed in sample_seeds])[:, None]
    masks = grids.to(images.device, images.dtype)  # before it is spread: one value per block travels, not one per voxel
    for axis in (2, 3, 4):
        masks = masks.repeat_interleave(block, dim=axis)
    return masks


def masked_error(restored: Tensor, images: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error summed over the hidden voxels of the whole batch, and their number; scalars, float32."""
    hidden = 1 - visible
    return ((restored.float() - images) ** 2 * hidden).sum(), hidden.sum()


def masked_mse(restored: Tensor, images: Tensor, visible: Tensor) -> Tensor:
    """Mean squared error over the hidden voxels of the whole batch: no weight on what was visible."""
    error, hidden = masked_error(restored, images, visible)
    return error / hidden
