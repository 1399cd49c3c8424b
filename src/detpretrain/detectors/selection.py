"""From what a dense head says about every place of a tile to the tile's detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detpretrain.detectors.contract import Detections
from detpretrain.models import box_ops

LEAST_SIDE = 0.01  # voxels; a box below it is dropped (nnDetection)


@dataclass(frozen=True)
class Selection:
    """The best boxes: top pairs of box and class, decoded and clipped, tiny ones dropped, class-wise suppression.

    Args:
        candidates: pairs before suppression.
        nms_iou: its threshold.
        detections: how many stay.
    """

    candidates: int
    nms_iou: float
    detections: int

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The most probable pairs of box and class: ``[B, N, K]`` -> scores (falling), places, classes, all ``[B, C]``."""
        classes = logits.shape[2]
        scores, flat = torch.sigmoid(logits.flatten(1)).topk(min(self.candidates, logits[0].numel()))
        return scores, flat // classes, flat % classes

    def __call__(
        self, scores: Tensor, labels: Tensor, deltas: Tensor, anchors: Tensor, shape: Sequence[int]
    ) -> Detections:
        """Detections of one tile of ``shape`` from its best pairs: ``[C], [C], [C, 6]`` relative to ``[C, 6]``."""
        boxes = box_ops.clip(box_ops.decode(deltas, anchors), shape)
        valid = ((boxes[:, 3:] - boxes[:, :3]) >= LEAST_SIDE).all(dim=1) & (scores > 0)
        boxes, scores, labels = boxes[valid], scores[valid], labels[valid]
        kept = box_ops.nms(boxes, scores, labels, self.nms_iou, keep=self.detections)
        return Detections(boxes[kept], scores[kept], labels[kept])
