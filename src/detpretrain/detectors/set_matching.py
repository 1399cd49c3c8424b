"""One prediction per object: the Hungarian matching of DETR (Carion et al., ECCV 2020) with Deformable DETR's costs.

Boxes are ``(cz, cy, cx, d, h, w)``: centre and size as fractions of the patch. Everything in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from detpretrain.models import box_ops

UNMATCHABLE = 1e6  # instead of a cost that is not finite, so that it is the loss that tells of a diverged network


@dataclass(frozen=True)
class ObjectSets:
    """Objects of B images, filled up to T each.

    Attributes:
        boxes: ``[B, T, 6]``, centre and size.
        labels: ``[B, T]``.
        counts: how many of the T are objects, per image.
    """

    boxes: Tensor
    labels: Tensor
    counts: Sequence[int]

    @classmethod
    def of(cls, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> ObjectSets:
        """``[n_i, 6]`` and ``[n_i]`` of each image."""
        counts = [len(image) for image in labels]
        return cls(pad_sequence(list(boxes), batch_first=True), pad_sequence(list(labels), batch_first=True), counts)

    def filled_up(self, number: int) -> ObjectSets:
        """The same objects, filled up to ``number``, at least T, each."""
        more = number - self.labels.shape[1]
        boxes, labels = functional.pad(self.boxes, (0, 0, 0, more)), functional.pad(self.labels, (0, more))
        return ObjectSets(boxes, labels, self.counts)

    def without_classes(self) -> ObjectSets:
        """The same objects, all of class 0."""
        return ObjectSets(self.boxes, torch.zeros_like(self.labels), self.counts)


@dataclass(frozen=True)
class MatchingCosts:
    """Weights of the cost terms; ``alpha`` and ``gamma`` of the focal one."""

    classification: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    alpha: float = 0.75
    gamma: float = 1.0


def corners(boxes: Tensor) -> Tensor:
    """``[..., 6]``: centre and size -> lower and upper corner."""
    centre, half = boxes[..., :3], boxes[..., 3:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def centre_and_size(boxes: Tensor) -> Tensor:
    """The inverse of ``corners``."""
    low, high = boxes[..., :3], boxes[..., 3:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def focal_cost(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """What the focal loss changes by when a class becomes an object's, elementwise: loss of a hit minus loss of a miss."""
    probability = torch.sigmoid(logits)
    hit = -alpha * (1 - probability) ** gamma * functional.logsigmoid(logits)
    miss = -(1 - alpha) * probability**gamma * functional.logsigmoid(-logits)
    return hit - miss


def pair_costs(logits: Tensor, boxes: Tensor, objects: ObjectSets, costs: MatchingCosts) -> Tensor:
    """Cost of every prediction for every object: ``[..., B, Q, K], [..., B, Q, 6] -> [..., B, Q, T]``."""
    focal = focal_cost(logits, costs.alpha, costs.gamma)
    labels = objects.labels[:, None, :].expand(*focal.shape[:-1], -1)
    predicted, wanted = boxes[..., :, None, :], objects.boxes[:, None]
    distance = (predicted - wanted).abs().sum(-1)
    overlap = box_ops.paired_giou(corners(predicted), corners(wanted))
    return costs.classification * focal.gather(-1, labels) + costs.l1 * distance - costs.giou * overlap


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, objects: ObjectSets, costs: MatchingCosts) -> Tensor:
    """The cheapest one-to-one matching of each layer and image.

    All costs leave the device in one transfer. With more objects than predictions, the dearest objects go without.

    Args:
        logits: ``[layers, B, Q, K]``, boxes: ``[layers, B, Q, 6]``.

    Returns:
        ``[4, M]`` int64 on the same device: layer, image, prediction, object of each pair.
    """
    if not any(objects.counts):
        return torch.zeros(4, 0, dtype=torch.int64, device=logits.device)
    matrix = pair_costs(logits, boxes, objects, costs).cpu().numpy()
    matrix = np.nan_to_num(matrix, nan=UNMATCHABLE, posinf=UNMATCHABLE, neginf=UNMATCHABLE)
    pairs = []
    for layer in range(len(logits)):
        for image, count in enumerate(objects.counts):
            predictions, found = linear_sum_assignment(matrix[layer, image, :, :count])
            place = np.full((2, len(found)), [[layer], [image]])
            pairs.append(np.concatenate([place, predictions[None], found[None]]))
    return torch.from_numpy(np.concatenate(pairs, axis=1)).to(logits.device)
