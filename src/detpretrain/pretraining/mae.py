"""Masked autoencoding for convolutional networks: blocks of the volume are blanked, the U-Net fills them in.

Recipe and details as nnssl's ``BaseMAETrainer`` (the idea: He et al., CVPR 2022; the study: MICCAI 2025, arXiv 2509.15947).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detpretrain.pretraining.contract import Citation, Panel, Score
from detpretrain.pretraining.masking import block_masks, check_ratio, masked_mse
from detpretrain.pretraining.restoration import restoration_panels, restoration_scores


class MAE(nn.Module):
    """Reconstruction of masked blocks by the whole U-Net, skips included.

    Args:
        backbone: makes the U-Net (``models.resenc.ResEnc`` or alike).
        block: side of a masked block in voxels; the patch must be divisible by it.
        ratio: part of the blocks that is masked, exactly ``int(ratio * blocks)`` per sample.

    Raises:
        InputError: the ratio does not lie between 0 and 1.
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
        check_ratio(ratio)
        self.block, self.ratio = block, ratio
        self.network = self.network_of(backbone)

    def network_of(self, backbone: Any) -> nn.Module:
        return backbone.unet(1, 1)

    def views(self, images: Tensor, sample_seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``[B, 1, D, H, W]`` and, in the same shape, 1 where the network may look."""
        return images, block_masks(images, self.block, self.ratio, sample_seeds)

    def restore(self, images: Tensor, visible: Tensor) -> Tensor:
        """The network's image ``[B, 1, D, H, W]``. It sees 0 where masked, the mean after z-scoring."""
        return self.network(images * visible)

    def forward(self, images: Tensor, visible: Tensor) -> dict[str, Tensor]:
        return {"mse": masked_mse(self.restore(images, visible), images, visible)}

    def assess(self, images: Tensor, visible: Tensor) -> dict[str, Score]:
        return restoration_scores(self.restore(images, visible), images, visible)

    def preview(self, images: Tensor, visible: Tensor) -> list[list[Panel]]:
        return restoration_panels(self.restore(images, visible), images, visible)
