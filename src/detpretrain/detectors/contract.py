"""What a detector is to the training loop and to inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Targets:
    """Objects of a batch of B images.

    Attributes:
        boxes: per image ``[n_i, 6]`` float32 in index coordinates of the image; n_i may be 0.
        labels: per image ``[n_i]`` int64, classes from 0.
        foreground: ``[B, D, H, W]`` bool, voxels of any object (for auxiliary segmentation).
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    foreground: Tensor


@dataclass(frozen=True)
class Detections:
    """Detections of one image: ``boxes [n, 6]`` float32, ``scores [n]`` in [0, 1] falling, ``labels [n]`` int64."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(Protocol):
    """An ``nn.Module`` built from a backbone and a plan by keyword (``backbone=``, ``plan=``) and its entry's arguments.

    ``encoder`` is the module that a pre-trained checkpoint fills: its keys are the backbone's. Randomness comes from torch's
    default generators, which the loop seeds per step alike on all ranks; what is drawn for samples is drawn by ``models.draws``.
    """

    encoder: nn.Module

    def __call__(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Training losses by name, scalars that are summed: ``images [B, C, D, H, W]``."""
        ...

    def predict(self, images: Tensor) -> list[Detections]:
        """Detections per image, without test-time augmentation, at most some hundred each."""
        ...
