"""The two published losses of Retina U-Net over anchors, each one class with the same call.

``criterion(logits [B, N, K], deltas [P, 6], anchors [N, 6], matched [B, N], boxes, labels) -> {"cls", "box"}``, where
``matched`` is the object of each anchor (-1 background), ``deltas`` are those of the P anchors that have one, in the order of
``matched``, and ``boxes``, ``labels`` are the objects of each image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.detectors.losses import one_hot_labels, sigmoid_focal
from detpretrain.models import box_ops, ranks


def anchor_targets(matched: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Flat targets of a batch: class of each anchor ``[B * N]`` (-1 background), box of each positive ``[P, 6]``."""
    classes = torch.full_like(matched, -1)
    positive_boxes = []
    for image, (found, image_boxes, image_labels) in enumerate(zip(matched, boxes, labels, strict=True)):
        positive = found >= 0
        classes[image, positive] = image_labels[found[positive]]
        positive_boxes.append(image_boxes[found[positive]])
    return classes.flatten(), torch.cat(positive_boxes)


class FocalL1(nn.Module):
    """Focal loss over every anchor and L1 on the coded boxes, both over a running number of positives (recipe v002).

    Args:
        alpha, gamma: of the focal loss.
        classification_weight, box_weight: factors of the two terms.
        momentum: of the running number of positives; 0 uses the batch's own.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.75,
        gamma: float = 1.0,
        classification_weight: float = 0.3,
        box_weight: float = 1.0,
        momentum: float = 0.7,
    ) -> None:
        super().__init__()
        self.alpha, self.gamma, self.momentum = alpha, gamma, momentum
        self.classification_weight, self.box_weight = classification_weight, box_weight
        self.register_buffer("positives", torch.tensor(0.0))

    def forward(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        matched: Tensor,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        classes, target_boxes = anchor_targets(matched, boxes, labels)
        positive = (classes >= 0).nonzero()[:, 0]
        normaliser = self._normaliser(classes.new_tensor(len(positive), dtype=torch.float32))
        focal = sigmoid_focal(logits.flatten(0, 1), one_hot_labels(classes, logits.shape[-1]), self.alpha, self.gamma)
        coded = box_ops.encode(target_boxes, anchors[positive % len(anchors)])
        box = functional.l1_loss(deltas, coded, reduction="sum")
        return {
            "cls": self.classification_weight * focal.sum() / normaliser,
            "box": self.box_weight * box / normaliser,
        }

    def _normaliser(self, positives: Tensor) -> Tensor:
        """The running number is that of the whole batch, a rank divides by its share."""
        positives = ranks.total(positives).clamp(min=1)
        if not self.training:
            return positives / ranks.number()
        started = self.positives > 0
        running = torch.where(started, self.momentum * self.positives + (1 - self.momentum) * positives, positives)
        self.positives.copy_(running)
        return running / ranks.number()


class SampledBceGiou(nn.Module):
    """BCE and -GIoU over positives and hard negatives sampled over the whole batch (recipe v001, nnDetection v0.1).

    Per batch of B images at most ``int(per_image * B * positive_fraction)`` positives and about ``1 / positive_fraction - 1``
    times as many negatives, drawn from the ``pool`` times larger set of the most confident ones.
    """

    def __init__(self, *, per_image: int = 32, positive_fraction: float = 0.33, pool: int = 20) -> None:
        super().__init__()
        self.per_image, self.positive_fraction, self.pool = per_image, positive_fraction, pool

    def forward(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        matched: Tensor,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        classes, target_boxes = anchor_targets(matched, boxes, labels)
        logits = logits.flatten(0, 1)
        chosen, negative = self.sample(logits.detach(), classes.view_as(matched))
        picked = (classes >= 0).nonzero()[:, 0][chosen]
        used = torch.cat([picked, negative])
        wanted = one_hot_labels(classes[used], logits.shape[-1])
        entropy = functional.binary_cross_entropy_with_logits(logits[used], wanted, reduction="sum")
        decoded = box_ops.decode(deltas[chosen], anchors[picked % len(anchors)])
        overlap = box_ops.paired_giou(decoded, target_boxes[chosen])
        return {
            "cls": entropy / ranks.per_rank(logits.new_tensor(wanted.numel())),
            "box": -overlap.sum() / ranks.per_rank(logits.new_tensor(len(chosen))) + deltas.sum() * 0,
        }

    def sample(self, logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen positives (as indices among the positives) and negatives (as indices of anchors): ``[B * N, K], [B, N]``.

        They are drawn from the batch of all ranks, by the first rank's draws; returned are this rank's own. Draws come from
        torch's generator of the device, which the training loop seeds per step alike on all ranks.
        """
        place = places_of_all(classes >= 0)
        total = int(ranks.total((classes >= 0).sum()))
        wanted = min(total, int(self.per_image * len(classes) * ranks.number() * self.positive_fraction))
        drawn = ranks.from_first(torch.randperm(total, device=logits.device))[:wanted]
        chosen = torch.isin(place, drawn).nonzero()[:, 0]
        number = max(1, int(max(1, wanted) * abs(1 - 1 / self.positive_fraction)))
        return chosen, self._negatives(logits.amax(dim=1), classes, number)

    def _negatives(self, scores: Tensor, classes: Tensor, number: int) -> Tensor:
        """This rank's of ``number`` drawn from the pool: ``scores [B * N]``, ``classes [B, N]`` -> indices of anchors."""
        anchors, together, own = classes.shape[1], ranks.number(), ranks.own()
        background = (classes.flatten() < 0).nonzero()[:, 0]
        hard = background[hardest(scores[background], self.pool * number)]
        # by the place that an anchor has in the batch of all ranks, so that equal scores stand in the same order everywhere
        place = (hard // anchors * together + own) * anchors + hard % anchors
        place, order = torch.cat(ranks.gather(place)).sort()
        pool = place[hardest(torch.cat(ranks.gather(scores[hard]))[order], self.pool * number)]
        drawn = pool[ranks.from_first(torch.randperm(len(pool), device=scores.device))[:number]]
        image, anchor = drawn // anchors, drawn % anchors
        return (image // together * anchors + anchor)[image % together == own]


def hardest(scores: Tensor, number: int) -> Tensor:
    """Indices of the highest of ``scores [n]``, falling; of equal ones the first come first, which ``topk`` leaves open."""
    number = min(number, len(scores))
    if not number:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    scores = scores.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)  # it is the loss that tells of a NaN
    among = (scores >= scores.topk(number).values[-1]).nonzero()[:, 0]
    return among[scores[among].sort(descending=True, stable=True).indices[:number]]


def places_of_all(positive: Tensor) -> Tensor:
    """Of each positive ``[P]``, the place among those of the batch of all ranks: ``[B, N]`` bool of this rank's images.

    Rank r holds the images r, r + ranks, ... of that batch, which counts its positives image by image.
    """
    counts = torch.stack(ranks.gather(positive.sum(dim=1)), dim=1)  # [B, ranks]
    before = (counts.flatten().cumsum(0) - counts.flatten()).view_as(counts)[:, ranks.own()]
    own = counts[:, ranks.own()]
    within = torch.arange(int(own.sum()), device=positive.device) - (own.cumsum(0) - own).repeat_interleave(own)
    return before.repeat_interleave(own) + within
