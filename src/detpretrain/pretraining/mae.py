"""Masked autoencoding for convolutional networks: blocks of the volume are blanked, the U-Net fills them in.

Recipe and details as nnssl's ``BaseMAETrainer`` (the idea: He et al., CVPR 2022; the study: MICCAI 2025, arXiv 2509.15947).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detpretrain.errors import InputError
from detpretrain.pretraining.contract import Citation


class MAE(nn.Module):
    """Reconstruction of masked blocks by the whole U-Net, skips included.

    Args:
        backbone: makes the U-Net (``models.resenc.ResEnc`` or alike).
        block: side of a masked block in voxels; the patch must be divisible by it.
        ratio: part of the blocks that is masked, exactly ``int(ratio * blocks)`` per sample.
    """

    supervised = False
    citations = (
        Citation(
            "Pretraining Method",
            "Masked autoencoder",
            (
                "He, K., Chen, X., Xie, S., Li, Y., Dollár, P., & Girshick, R. (2022). Masked autoencoders are scalable "
                "vision learners. In Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition "
                "(pp. 16000-16009).",
            ),
        ),
    )

    def __init__(self, *, backbone: Any, block: int = 16, ratio: float = 0.75) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise InputError(f"MAE: ratio {ratio}: must lie between 0 and 1")
        self.block, self.ratio = block, ratio
        self.network = backbone.unet(1, 1)

    def views(self, images: Tensor, sample_seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images and what of them is visible."""
        return images, self.visible(images, sample_seeds)

    def forward(self, images: Tensor, visible: Tensor) -> dict[str, Tensor]:
        restored = self.network(images * visible)
        return {"mse": masked_mse(restored.float(), images, visible)}

    def visible(self, images: Tensor, sample_seeds: Sequence[int]) -> Tensor:
        """``[B, 1, D, H, W]``, 1 where the network may look. Masked voxels become 0, the mean after z-scoring."""
        masks = [block_mask(images.shape[2:], self.block, self.ratio, seed) for seed in sample_seeds]
        return torch.stack(masks)[:, None].to(images.device, images.dtype)


def block_mask(shape: Sequence[int], block: int, ratio: float, seed: int) -> Tensor:
    """Random block mask ``[D, H, W]`` float, 1 = visible; drawn on the CPU so that devices agree.

    Raises:
        InputError: the blocks do not tile the patch, or are too few for one of them to be masked.
    """
    if any(size % block for size in shape):
        raise InputError(f"MAE: patch {tuple(shape)} is not divisible by the block of {block}: change patch or block")
    grid = [size // block for size in shape]
    blocks = grid[0] * grid[1] * grid[2]
    masked = int(ratio * blocks)
    if masked == 0:
        raise InputError(f"MAE: ratio {ratio} of {blocks} block(s) masks nothing: use smaller blocks than {block}")
    order = torch.randperm(blocks, generator=torch.Generator().manual_seed(seed))
    visible = torch.ones(blocks)
    visible[order[:masked]] = 0
    visible = visible.view(grid)
    for axis in range(3):
        visible = visible.repeat_interleave(block, dim=axis)
    return visible


def masked_mse(restored: Tensor, images: Tensor, visible: Tensor) -> Tensor:
    """Squared error summed over the masked voxels of the whole batch / their number: no weight on what was visible."""
    hidden = 1 - visible
    return ((restored - images) ** 2 * hidden).sum() / hidden.sum()
