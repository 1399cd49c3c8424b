"""Models Genesis: flipped, shuffled, bent and painted volumes are restored by the U-Net.

Zhou et al., Medical Image Analysis 67, 2021; recipe and network as nnssl's ``ModelGenesisTrainer`` (arXiv 2509.15947).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detpretrain.pretraining.contract import Citation, Panel, Score
from detpretrain.pretraining.corruptions import Corruption
from detpretrain.pretraining.infill import neighbour_mean


class ModelsGenesis(nn.Module):
    """Restoration of corrupted volumes by the whole U-Net; the error counts at every voxel.

    Args:
        backbone: makes the U-Net (``models.resenc.ResEnc`` or alike).
        others: of ``corruptions.Corruption``.
    """

    supervised = False
    citations = (
        Citation(
            "Pretraining Method",
            "Models Genesis",
            (
                "Zhou, Z., Sodha, V., Pang, J., Gotway, M. B., & Liang, J. (2021). Models Genesis. Medical Image Analysis, "
                "67, 101840.",
            ),
        ),
    )

    def __init__(
        self,
        *,
        backbone: Any,
        windows: int = 10000,
        flip_probability: float = 0.4,
        shuffle_probability: float = 0.5,
        curve_probability: float = 0.9,
        paint_probability: float = 0.9,
        inpaint_probability: float = 0.2,
        block_probability: float = 0.95,
        faithful_intensity_range: bool = False,
        faithful_flip_axes: bool = False,
    ) -> None:
        super().__init__()
        self.corruption = Corruption(
            windows=windows,
            flip_probability=flip_probability,
            shuffle_probability=shuffle_probability,
            curve_probability=curve_probability,
            paint_probability=paint_probability,
            inpaint_probability=inpaint_probability,
            block_probability=block_probability,
            faithful_intensity_range=faithful_intensity_range,
            faithful_flip_axes=faithful_flip_axes,
        )
        self.network = backbone.unet(1, 1)

    def views(self, images: Tensor, sample_seeds: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Corrupted images, flipped images, and bool ``touched``: what was shuffled or painted; each ``[B, 1, D, H, W]``.

        Raises:
            InputError: the patch is too small.
        """
        volumes = zip(images[:, 0], sample_seeds, strict=True)
        made = [self.corruption.corrupt(volume, self.corruption.draw(volume.shape, seed)) for volume, seed in volumes]
        corrupted, target, touched = (torch.stack(parts)[:, None] for parts in zip(*made, strict=True))
        return corrupted, target, touched

    def forward(self, corrupted: Tensor, target: Tensor, touched: Tensor) -> dict[str, Tensor]:
        restored = self.network(corrupted)
        return {"mse": nn.functional.mse_loss(restored.float(), target)}

    def assess(self, corrupted: Tensor, target: Tensor, touched: Tensor) -> dict[str, Score]:
        """Errors where the content was destroyed, beside in-fill from what was not.

        The in-fill of the corrupted image starts from what the network sees. That of the clean image is harder to beat: it
        looks at the neighbours' true intensities, while the network sees them through an unknown curve.
        """
        name = "MSE of shuffled and painted voxels"
        method = _squared_error(self.network(corrupted).float(), target, touched)
        infilled, clean = (
            _squared_error(neighbour_mean(source, ~touched), target, touched) for source in (corrupted, target)
        )
        return {
            name: Score(method, infilled, "neighbour-mean in-fill"),
            f"{name}, in-fill of the clean image": Score(method, clean, "neighbour-mean in-fill of the clean image"),
        }

    def preview(self, corrupted: Tensor, target: Tensor, touched: Tensor) -> list[list[Panel]]:
        """The middle slice along z of each sample."""
        restored = self.network(corrupted).detach().float()
        middle = target.shape[2] // 2
        slices = (part[:, 0, middle] for part in (target, corrupted, restored, touched.long()))
        titles = (("target", "grey"), ("input", "grey"), ("reconstruction", "grey"), ("touched", "labels"))
        return [
            [Panel(title, values, kind) for (title, kind), values in zip(titles, row, strict=True)]
            for row in zip(*slices, strict=True)
        ]


def _squared_error(restored: Tensor, target: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the voxels ``where`` is true, and their number."""
    return ((restored - target) ** 2 * where).sum(), where.sum()
