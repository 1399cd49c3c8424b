"""Loss terms of the detectors: pure functions, all in float32 by their callers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from detpretrain.models import ranks


def sigmoid_focal(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017), elementwise: ``logits, targets in {0, 1}`` of one shape -> that shape."""
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = torch.sigmoid(logits)
    miss = probability + targets - 2 * probability * targets  # 1 - p of the true class
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * miss**gamma * cross_entropy


def soft_dice(foreground: Tensor, target: Tensor, smooth_numerator: float, smooth_denominator: float = 1e-5) -> Tensor:
    """1 - soft Dice over the batch of all ranks (one sum for numerator and denominator): ``[B, D, H, W]`` twice -> scalar."""
    target = target.to(foreground.dtype)
    sums = torch.stack([(foreground * target).sum(), foreground.sum() + target.sum()])
    intersection, total = ranks.total(sums)
    return 1 - (2 * intersection + smooth_numerator) / (total + smooth_denominator)


def one_hot_labels(labels: Tensor, classes: int) -> Tensor:
    """``[N]`` class or -1 for background -> ``[N, classes]`` float, background all zero."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()
