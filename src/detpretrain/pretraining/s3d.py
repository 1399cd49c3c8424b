"""S3D: masked image modelling where the encoder computes on visible voxels only and a dense decoder restores the rest.

SparK (Tian et al., ICLR 2023) in three dimensions (Wald et al., CVPR 2025). Unlike nnssl's implementation, the input is
masked before the first convolution: there, its kernels look one voxel far into what is to be restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detpretrain.models.sparse import last_stage_is_dense, sparse_encode, sparse_instance_norm
from detpretrain.pretraining.contract import Citation, Panel, Score
from detpretrain.pretraining.masking import block_masks, check_ratio, masked_mse
from detpretrain.pretraining.restoration import restoration_panels, restoration_scores


class S3D(nn.Module):
    """Reconstruction of masked blocks from sparse features, densified at every level of the U-Net.

    Args:
        backbone: makes the U-Net (``models.resenc.ResEnc`` or alike: ``unet``, ``strides``).
        block: side of a masked block in voxels; the patch must be divisible by it.
        ratio: part of the blocks that is masked, exactly ``int(ratio * blocks)`` per sample.
        faithful_unmasked_input: as nnssl, the first convolution gets the whole image: at the rim of visible blocks it sees
            one voxel of hidden ones.

    Raises:
        InputError: the ratio does not lie between 0 and 1; at the first batch, an encoder that has no sparse form.
    """

    supervised = False
    citations = (
        Citation(
            "Pretraining Method",
            "S3D (SparK 3D)",
            (
                "Wald, T., Ulrich, C., Lukyanenko, S., Goncharov, A., Paderno, A., Miller, M., Maerkisch, L., Jaeger, P., & "
                "Maier-Hein, K. (2025). Revisiting MAE pre-training for 3D medical image segmentation. In Proceedings of "
                "the IEEE/CVF Conference on Computer Vision and Pattern Recognition (pp. 5186-5196).",
                "Tian, K., Jiang, Y., Diao, Q., Lin, C., Wang, L., & Yuan, Z. (2023). Designing BERT for convolutional "
                "networks: Sparse and hierarchical masked modeling. In International Conference on Learning "
                "Representations.",
            ),
        ),
    )

    def __init__(
        self, *, backbone: Any, block: int = 16, ratio: float = 0.75, faithful_unmasked_input: bool = False
    ) -> None:
        super().__init__()
        check_ratio(ratio)
        self.block, self.ratio, self.faithful_unmasked_input = block, ratio, faithful_unmasked_input
        self.network = backbone.unet(1, 1)
        widths = self.network.encoder.output_channels
        hides = [True] * len(widths)
        hides[-1] = not last_stage_is_dense(backbone.strides, block)
        self.densify = nn.ModuleList(
            Densify(width, token=hidden, project=level > 0)
            for level, (width, hidden) in enumerate(zip(widths, hides, strict=True))
        )

    def views(self, images: Tensor, sample_seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``[B, 1, D, H, W]`` and, in the same shape, 1 where the network may look."""
        return images, block_masks(images, self.block, self.ratio, sample_seeds)

    def restore(self, images: Tensor, visible: Tensor) -> Tensor:
        """The network's image ``[B, 1, D, H, W]``."""
        seen = images if self.faithful_unmasked_input else images * visible
        skips, masks = sparse_encode(self.network.encoder, seen, visible, self.block)
        dense = [densify(skip, mask) for densify, skip, mask in zip(self.densify, skips, masks, strict=True)]
        return self.network.decoder(dense)

    def forward(self, images: Tensor, visible: Tensor) -> dict[str, Tensor]:
        return {"mse": masked_mse(self.restore(images, visible), images, visible)}

    def assess(self, images: Tensor, visible: Tensor) -> dict[str, Score]:
        return restoration_scores(self.restore(images, visible), images, visible)

    def preview(self, images: Tensor, visible: Tensor) -> list[list[Panel]]:
        return restoration_panels(self.restore(images, visible), images, visible)


class Densify(nn.Module):
    """Sparse features -> dense ones: normalised, a learnt vector where hidden, projected (SparK, section 3.2).

    Args:
        width: channels in and out.
        token: whether there is anything to fill; False where nothing is ever hidden.
        project: by a 3x3x3 convolution; False at full resolution, where it would cost most.
    """

    def __init__(self, width: int, token: bool, project: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, width, 1, 1, 1)) if token else None
        self.project = nn.Conv3d(width, width, 3, padding=1) if project else nn.Identity()
        if token:
            nn.init.trunc_normal_(self.token, std=0.02, a=-0.02, b=0.02)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """``[B, width, d, h, w]``, 0 where hidden, and ``[B, 1, d, h, w]`` -> ``[B, width, d, h, w]``."""
        features = sparse_instance_norm(features, mask)
        if self.token is not None:
            hidden = (1 - mask).to(features.dtype)
            features = torch.addcmul(features, self.token.to(features.dtype), hidden)
        return self.project(features)
