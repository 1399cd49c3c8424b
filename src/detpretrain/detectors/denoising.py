"""Denoising queries: true boxes, noised, that a decoder puts right, beside the queries that are matched to objects.

DN-DETR (Li et al., CVPR 2022); with ``contrastive``, DINO (Zhang et al., ICLR 2023): every noised copy of an object has a twin
further away, which is background. Whom a query stands for is known, so nothing is matched. In training only.

Boxes are ``(cz, cy, cx, d, h, w)``: centre and size as fractions of the patch. Everything in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.detectors.losses import sigmoid_focal
from detpretrain.detectors.set_matching import ObjectSets, corners
from detpretrain.errors import InputError
from detpretrain.models import box_ops, draws, ranks
from detpretrain.models.deformable_transformer import ExtraQueries


@dataclass(frozen=True)
class Noise:
    """How denoising queries differ from their objects.

    Attributes:
        limit: at most this many queries per image.
        box: a centre moves by up to this times half the box per axis (a negative by once to twice that), a side becomes
            1 - ``box`` to 1 + ``box`` times as long. As published 0.4 (DN-DETR) and 1.0 (DINO).
        label: probability of a class drawn anew from all. As published 0.2 (DN-DETR) and 0.25 (DINO, whose setting of 0.5 its
            code halves).
        contrastive: with negatives.

    Raises:
        InputError: a value out of its range.
    """

    limit: int = 100
    box: float = 0.4
    label: float = 0.25
    contrastive: bool = True

    def __post_init__(self) -> None:
        if self.limit < self.copies:
            raise InputError(f"denoising {self.limit}: use {self.copies} or more, or 0 for none")
        if not 0 < self.box <= 1:
            raise InputError(f"box_noise {self.box}: use a number above 0, and 1 at most, or a box would have no size")
        if not 0 <= self.label <= 1:
            raise InputError(f"label_noise {self.label}: is a probability, use 0 to 1")

    @property
    def copies(self) -> int:
        """Queries of an object in a group."""
        return 2 if self.contrastive else 1


@dataclass(frozen=True)
class NoisedObjects:
    """E denoising queries of each of B images: groups one after the other, in each all positives, then all negatives.

    Attributes:
        boxes, labels: noised, ``[B, E, 6]`` and ``[B, E]``.
        true_boxes, true_labels: of the objects that they come from.
        valid: ``[B, E]``, False where the image has no object for the query.
        positive: ``[B, E]``, False for negatives and where there is no object.
        group: ``[E]``.
        number: of the positives of all images.
    """

    boxes: Tensor
    labels: Tensor
    true_boxes: Tensor
    true_labels: Tensor
    valid: Tensor
    positive: Tensor
    group: Tensor
    number: int


class Denoising(nn.Module):
    """Makes the queries. The content of one is, as any query's, that of its box, to which a learnt code of its class is added."""

    def __init__(self, noise: Noise, classes: int, channels: int) -> None:
        super().__init__()
        self.noise, self.classes = noise, classes
        self.label_code = nn.Embedding(classes, channels)

    def forward(self, objects: ObjectSets) -> tuple[NoisedObjects, ExtraQueries]:
        noised = noised_objects(objects, self.classes, self.noise)
        hidden = hidden_pairs(noised.group, noised.valid)
        return noised, ExtraQueries(noised.boxes, self.label_code(noised.labels), hidden)


def group_shape(counts: Sequence[int], limit: int, copies: int) -> tuple[int, int]:
    """Number of groups and of objects in each, for images of so many objects.

    A group has room for all objects of every image, and there are as many groups as fit. Where not even one does, there is one
    for as many objects as fit.
    """
    objects = min(max(counts), limit // copies)
    return (limit // (copies * objects), objects) if objects else (0, 0)


def noised_boxes(boxes: Tensor, negative: Tensor, scale: float) -> Tensor:
    """``[B, ..., 6]`` and bool ``[B, ...]`` -> ``[B, ..., 6]``, within the patch; noise as ``Noise`` has it, uniform.

    DINO moves the corners instead: a negative's by more than half the box would turn it inside out.
    """
    centre, size = boxes[..., :3], boxes[..., 3:]
    shift, growth = 2 * draws.per_sample(partial(torch.rand, device=boxes.device), (2, *centre.shape), dim=1) - 1
    shift = shift + shift.sign() * negative[..., None]
    return torch.cat([centre + scale * shift * size / 2, (1 + scale * growth) * size], dim=-1).clamp(0, 1)


def noised_labels(labels: Tensor, classes: int, probability: float) -> Tensor:
    """``[B, ...]``, each drawn anew from all classes with a probability."""
    redrawn = draws.per_sample(partial(torch.rand, device=labels.device), labels.shape) < probability
    anew = draws.per_sample(partial(torch.randint, classes, device=labels.device), labels.shape)
    return torch.where(redrawn, anew, labels)


def noised_objects(objects: ObjectSets, classes: int, noise: Noise) -> NoisedObjects:
    """The denoising queries of a batch; noise from torch's default generator. Without objects there are none.

    Groups have room for the objects of every image of all ranks, so that an image's queries do not depend on its rank.
    """
    device = objects.boxes.device
    most = ranks.largest(max(objects.counts))
    groups, slots = group_shape([most], noise.limit, noise.copies)
    objects = objects.filled_up(most)
    exists = torch.arange(objects.labels.shape[1], device=device) < torch.tensor(objects.counts, device=device)[:, None]
    # in an order by chance, so that no object is always among those for which there is no room
    order = draws.per_sample(partial(torch.rand, device=device), exists.shape)
    chosen = (order + ~exists).argsort(dim=1)[:, :slots]
    chosen = chosen.repeat(1, groups * noise.copies)
    boxes = objects.boxes.gather(1, chosen[..., None].expand(-1, -1, 6))
    labels, valid = objects.labels.gather(1, chosen), exists.gather(1, chosen)
    negative = torch.arange(noise.copies, device=device).repeat_interleave(slots).repeat(groups) > 0
    return NoisedObjects(
        boxes=noised_boxes(boxes, negative.expand_as(valid), noise.box),
        labels=noised_labels(labels, classes, noise.label),
        true_boxes=boxes,
        true_labels=labels,
        valid=valid,
        positive=valid & ~negative,
        group=torch.arange(groups, device=device).repeat_interleave(noise.copies * slots),
        number=groups * sum(min(count, slots) for count in objects.counts),
    )


def hidden_pairs(group: Tensor, valid: Tensor) -> Tensor:
    """``[E], [B, E] -> [B, E, E]``, True where the first may not look at the second: of another group, or of no object."""
    return (group[:, None] != group) | ~valid[:, None, :]


def denoising_loss(
    logits: Tensor, boxes: Tensor, noised: NoisedObjects, weights: Mapping[str, float], alpha: float, gamma: float
) -> Tensor:
    """Losses of all layers added up, over the number of positives (at least 1), which is objects times groups.

    A positive is to say its object's true class and box, a negative that there is nothing.

    Args:
        logits: ``[layers, B, E, K]``, boxes: ``[layers, B, E, 6]``, the decoder's.
        weights: of ``cls`` (focal), ``box`` (L1) and ``giou``.
        alpha, gamma: of the focal loss.
    """
    is_class = noised.true_labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    wanted = (is_class & noised.positive[..., None]).to(logits.dtype).expand_as(logits)
    focal = sigmoid_focal(logits, wanted, alpha, gamma).sum(-1) * noised.valid
    truth = noised.true_boxes.expand_as(boxes)
    distance = functional.l1_loss(boxes, truth, reduction="none").sum(-1)
    overlap = box_ops.paired_giou(corners(boxes), corners(truth))
    wrong_box = (weights["box"] * distance + weights["giou"] * (1 - overlap)) * noised.positive
    return (weights["cls"] * focal + wrong_box).sum() / ranks.per_rank(logits.new_tensor(noised.number))
