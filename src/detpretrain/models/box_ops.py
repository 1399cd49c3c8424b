"""Box maths in torch, the twin of ``detpretrain.boxes`` for what needs gradients or a device.

Boxes are ``[..., 6] = (z1, y1, x1, z2, y2, x2)`` in index coordinates, continuous (no +1), float32. Callers keep them out of
autocast: at 256 voxels bf16 coordinates cost up to 0.05 IoU.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)  # a decoded side is at most 62.5 anchor sides (torchvision's bound)


def volume(boxes: Tensor) -> Tensor:
    """``[..., 6] -> [...]``; an inverted box has volume 0."""
    return (boxes[..., 3:] - boxes[..., :3]).clamp(min=0).prod(-1)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    low = torch.maximum(a[..., :3], b[..., :3])
    high = torch.minimum(a[..., 3:], b[..., 3:])
    return (high - low).clamp(min=0).prod(-1)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes that broadcast against each other, ``[..., 6], [..., 6] -> [...]``; zero volume gives 0."""
    inter = _intersection(a, b)
    union = volume(a) + volume(b) - inter
    return inter / union.clamp(min=torch.finfo(inter.dtype).tiny)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every pair, ``[N, 6], [M, 6] -> [N, M]``."""
    return paired_iou(a[:, None], b[None])


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of paired boxes, ``[..., 6], [..., 6] -> [...]`` in [-1, 1]."""
    inter = _intersection(a, b)
    union = volume(a) + volume(b) - inter
    low = torch.minimum(a[..., :3], b[..., :3])
    high = torch.maximum(a[..., 3:], b[..., 3:])
    enclosing = (high - low).clamp(min=0).prod(-1)
    tiny = torch.finfo(inter.dtype).tiny
    return inter / union.clamp(min=tiny) - (enclosing - union) / enclosing.clamp(min=tiny)


def paired_diou(a: Tensor, b: Tensor) -> Tensor:
    """Distance IoU (Zheng et al., AAAI 2020) of paired boxes, ``[..., 6], [..., 6] -> [...]`` in [-1, 1].

    IoU minus the squared distance of the centres over the squared diagonal of the box around both.
    """
    centres = ((a[..., :3] + a[..., 3:] - b[..., :3] - b[..., 3:]) / 2).square().sum(-1)
    around = torch.maximum(a[..., 3:], b[..., 3:]) - torch.minimum(a[..., :3], b[..., :3])
    diagonal = around.square().sum(-1)
    return paired_iou(a, b) - centres / diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes relative to anchors, ``[N, 6], [N, 6] -> [N, 6] = (dz, dy, dx, log dd, log dh, log dw)``, all weights 1."""
    anchor_size = anchors[..., 3:] - anchors[..., :3]
    size = boxes[..., 3:] - boxes[..., :3]
    shift = ((boxes[..., 3:] + boxes[..., :3]) - (anchors[..., 3:] + anchors[..., :3])) / 2
    return torch.cat([shift / anchor_size, torch.log(size / anchor_size)], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of ``encode``; size deltas above ``log(1000 / 16)`` are clamped."""
    anchor_size = anchors[..., 3:] - anchors[..., :3]
    centre = (anchors[..., 3:] + anchors[..., :3]) / 2 + deltas[..., :3] * anchor_size
    half = torch.exp(deltas[..., 3:].clamp(max=MAX_LOG_SCALE)) * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Boxes limited to ``[0, shape]`` per axis."""
    limit = boxes.new_tensor(tuple(shape) * 2)
    return torch.minimum(boxes.clamp(min=0), limit)


def nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, keep: int | None = None) -> Tensor:
    """Greedy class-wise non-maximum suppression: indices by falling score (stable), at most ``keep``.

    ``[N, 6], [N], [N] -> [K]``; a box is dropped when its IoU with a better one of its class exceeds ``threshold``. The loop
    runs once per kept box over what is left, so its cost follows ``keep``, not N squared. It runs in numpy on the host: the
    arrays are small, and torch's cost per call was three times the arithmetic.
    """
    device = boxes.device
    order = torch.sort(scores, descending=True, stable=True).indices.cpu().numpy()
    edges = np.ascontiguousarray(boxes.cpu().numpy()[order].T)
    classes = labels.cpu().numpy()[order]
    volumes = np.maximum(edges[3:] - edges[:3], 0).prod(axis=0)
    tiny, kept = np.finfo(edges.dtype).tiny, []
    while order.size and (keep is None or len(kept) < keep):
        kept.append(order[0])
        sides = np.maximum(np.minimum(edges[3:], edges[3:, :1]) - np.maximum(edges[:3], edges[:3, :1]), 0)
        inter = sides[0] * sides[1] * sides[2]
        stays = (inter <= threshold * np.maximum(volumes + volumes[0] - inter, tiny)) | (classes != classes[0])
        stays[0] = False  # an empty box does not suppress itself
        left = np.flatnonzero(stays)
        order, edges, classes, volumes = order[left], edges[:, left], classes[left], volumes[left]
    return torch.from_numpy(np.array(kept, dtype=np.int64)).to(device)


def from_instances(instances: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of an instance map, ``[D, H, W] -> ids [N], boxes [N, 6]``: min index - 1 .. max index + 1 (nnDetection).

    Ids ascend; values <= 0 are background. Same values as ``detpretrain.boxes.from_instances``.
    """
    positions = (instances > 0).nonzero()
    values = instances[tuple(positions.unbind(1))]
    ids, member = values.unique(return_inverse=True)
    index = member[:, None].expand(-1, 3)
    largest = max(instances.shape)
    low = positions.new_full((len(ids), 3), largest).scatter_reduce(0, index, positions, "amin")
    high = positions.new_full((len(ids), 3), -1).scatter_reduce(0, index, positions, "amax")
    return ids, torch.cat([low - 1, high + 1], dim=1).float()
