"""Which anchor answers for which object: ATSS (Zhang et al., CVPR 2020) in 3D."""

from __future__ import annotations

import torch
from torch import Tensor

from detpretrain.detectors.anchors import AnchorGrid
from detpretrain.models import box_ops


def atss(grid: AnchorGrid, boxes: Tensor, candidates: int = 4) -> Tensor:
    """Adaptive training sample selection for one image.

    Per object and level the anchors of the ``candidates`` nearest positions are candidates; an anchor is positive when its IoU
    reaches mean + standard deviation (unbiased) over the object's candidates of all levels. An anchor wanted by several
    objects goes to the one of highest IoU (equal: the first object). The centre need not lie in the object (nnDetection).
    Unlike nnDetection's, an anchor without any overlap is never positive.

    All shapes at a position share its centre, so distances are computed per position: 1 / 27 of the work.

    Args:
        grid: N anchors.
        boxes: ``[G, 6]``, G may be 0.

    Returns:
        ``[N]`` int64: index of the object, -1 for background.
    """
    total = len(grid.boxes)
    matched = torch.full((total,), -1, dtype=torch.int64, device=boxes.device)
    if len(boxes) == 0:
        return matched
    nearest = _nearest_anchors(grid, boxes, candidates)  # [G, K]
    overlap = box_ops.paired_iou(boxes[:, None], grid.boxes[nearest])  # [G, K]
    threshold = overlap.mean(dim=1) + overlap.std(dim=1)
    positive = (overlap >= threshold[:, None]) & (overlap > 0)

    # order-free reductions keep this deterministic on every device
    anchor, value = nearest[positive], overlap[positive]
    object_index = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(nearest)[positive]
    best = torch.zeros(total, device=boxes.device).scatter_reduce(0, anchor, value, "amax")
    wins = value == best[anchor]
    first = torch.full_like(matched, len(boxes)).scatter_reduce(0, anchor[wins], object_index[wins], "amin")
    return torch.where(first < len(boxes), first, matched)


def _nearest_anchors(grid: AnchorGrid, boxes: Tensor, candidates: int) -> Tensor:
    """``[G, levels * min(candidates, P_l) * shapes]`` anchor indices."""
    centres = (boxes[:, :3] + boxes[:, 3:]) / 2
    shape_index = torch.arange(grid.shapes, device=boxes.device)
    chosen, offset = [], 0
    for positions in grid.positions:
        distance = torch.cdist(centres, positions, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.topk(min(candidates, len(positions)), dim=1, largest=False).indices  # [G, k]
        anchors = (offset + nearest[..., None]) * grid.shapes + shape_index
        chosen.append(anchors.flatten(1))
        offset += len(positions)
    return torch.cat(chosen, dim=1)
