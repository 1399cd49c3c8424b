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

    def __call__(self, logits: Tensor, deltas: Tensor, anchors: Tensor, shape: Sequence[int]) -> Detections:
        """Detections of one tile: ``logits [N, K]``, ``deltas [N, 6]`` relative to ``anchors [N, 6]``, ``shape`` of the tile."""
        classes = logits.shape[1]
        scores, flat = torch.sigmoid(logits.flatten()).topk(min(self.candidates, logits.numel()))
        place, label = flat // classes, flat % classes
        boxes = box_ops.clip(box_ops.decode(deltas[place], anchors[place]), shape)
        valid = ((boxes[:, 3:] - boxes[:, :3]) >= LEAST_SIDE).all(dim=1) & (scores > 0)
        boxes, scores, label = boxes[valid], scores[valid], label[valid]
        kept = box_ops.nms(boxes, scores, label, self.nms_iou, keep=self.detections)
        return Detections(boxes[kept], scores[kept], label[kept])
