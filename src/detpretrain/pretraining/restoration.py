"""Figure and pictures of the methods that restore hidden voxels: beside the mean of the nearest visible ones."""

from __future__ import annotations

import torch
from torch import Tensor

from detpretrain.pretraining.contract import Panel, Score
from detpretrain.pretraining.infill import neighbour_mean
from detpretrain.pretraining.masking import masked_error


def restoration_scores(restored: Tensor, images: Tensor, visible: Tensor) -> dict[str, Score]:
    """Mean squared error over hidden voxels of ``restored`` and of the in-fill; all arguments ``[B, 1, D, H, W]``."""
    baseline = masked_error(neighbour_mean(images, visible), images, visible)
    score = Score(masked_error(restored, images, visible), baseline, "neighbour-mean in-fill")
    return {"MSE of masked voxels": score}


def restoration_panels(restored: Tensor, images: Tensor, visible: Tensor) -> list[list[Panel]]:
    """Per sample the middle z-slice of target, input, restored image (visible voxels as they are) and in-fill."""
    pictures = {
        "target": images,
        "input": images * visible,
        "reconstruction": torch.where(visible.bool(), images, restored.float()),
        "in-fill": neighbour_mean(images, visible),
    }
    middle = images.shape[2] // 2
    return [
        [Panel(title, volume[sample, 0, middle].detach()) for title, volume in pictures.items()]
        for sample in range(len(images))
    ]
