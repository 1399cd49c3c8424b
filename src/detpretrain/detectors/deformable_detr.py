"""Deformable DETR (Zhu et al., ICLR 2021), two-stage with box refinement, on an encoder's maps: a set of boxes, no suppression.

Published values are those of the study's released recipe ``def_detr_v002`` (arXiv 2509.15947).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.detectors.contract import Detections, Targets
from detpretrain.detectors.denoising import Denoising, Noise, denoising_loss
from detpretrain.detectors.losses import sigmoid_focal
from detpretrain.detectors.selection import LEAST_SIDE
from detpretrain.detectors.set_matching import MatchingCosts, ObjectSets, centre_and_size, corners, match
from detpretrain.errors import InputError
from detpretrain.models import box_ops, ranks
from detpretrain.models.deformable_transformer import DeformableTransformer, ExtraQueries, SetPredictions

LEAST_CANDIDATES = 12  # per patch


class ChannelMapper(nn.Module):
    """A 1x1x1 convolution and a GroupNorm per map: every one gets ``channels`` channels."""

    def __init__(self, features: Sequence[int], channels: int, groups: int) -> None:
        super().__init__()
        if channels % groups:
            raise InputError(f"deformable DETR: hidden {channels} does not divide by norm_groups {groups}: change one")
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Conv3d(width, channels, 1), nn.GroupNorm(groups, channels)) for width in features
        )
        for convolution, _ in self.maps:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [mapper(level) for mapper, level in zip(self.maps, features, strict=True)]


class DeformableDETR(nn.Module):
    """The detector.

    Args:
        backbone: makes the encoder (``models.resenc.ResEnc`` or alike).
        plan: detection levels, numbers of classes and channels.
        levels: how many of the plan's detection levels are used, the coarsest ones; all where it has fewer.
        hidden, heads, points, encoder_layers, decoder_layers, feed_forward, dropout, queries, object_scale, temperature,
            refined_positions, ranked_content: of ``DeformableTransformer``. The number of queries is Zhu et al.'s, the study's
            is not public.
        norm_groups: of the GroupNorm after the channel mapper.
        prior: initial probability of every class and of an object.
        alpha, gamma: of the focal loss, and of its form in the matching.
        classification_weight, box_weight, giou_weight: factors of the losses.
        classification_cost, box_cost, giou_cost: factors of the matching costs.
        candidates: (box, class) pairs per tile, at least 12.
        denoising: at most this many denoising queries per image in training, 0 for none.
        box_noise, label_noise, contrastive: of ``denoising.Noise``.

    Raises:
        InputError: numbers that do not fit each other, or too few candidates.
    """

    def __init__(
        self,
        *,
        backbone: Any,
        plan: Mapping[str, Any],
        levels: int = 4,
        hidden: int = 128,
        heads: int = 8,
        points: int = 4,
        encoder_layers: int = 3,
        decoder_layers: int = 6,
        feed_forward: int = 1024,
        dropout: float = 0.0,
        queries: int = 300,
        object_scale: float = 0.05,
        temperature: float = 10_000.0,
        refined_positions: bool = False,
        ranked_content: bool = False,
        norm_groups: int = 16,
        prior: float = 0.05,
        alpha: float = 0.75,
        gamma: float = 1.0,
        classification_weight: float = 1.0,
        box_weight: float = 5.0,
        giou_weight: float = 2.0,
        classification_cost: float = 2.0,
        box_cost: float = 5.0,
        giou_cost: float = 2.0,
        candidates: int = 100,
        denoising: int = 0,
        box_noise: float = 0.4,
        label_noise: float = 0.25,
        contrastive: bool = True,
    ) -> None:
        super().__init__()
        if candidates < LEAST_CANDIDATES:
            raise InputError(f"deformable DETR: candidates {candidates}: use at least {LEAST_CANDIDATES}")
        self.levels: Sequence[int] = plan["detection_levels"][-levels:]
        self.classes: int = plan["classes"]
        self.encoder = backbone.encoder(plan["channels"])
        self.mapper = ChannelMapper([backbone.features[level] for level in self.levels], hidden, norm_groups)
        self.transformer = DeformableTransformer(
            classes=self.classes,
            levels=len(self.levels),
            channels=hidden,
            heads=heads,
            points=points,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            feed_forward=feed_forward,
            dropout=dropout,
            queries=queries,
            object_scale=object_scale,
            prior=prior,
            temperature=temperature,
            refined_positions=refined_positions,
            ranked_content=ranked_content,
        )
        self.alpha, self.gamma, self.candidates = alpha, gamma, candidates
        self.weights = {"cls": classification_weight, "box": box_weight, "giou": giou_weight}
        self.costs = MatchingCosts(classification_cost, box_cost, giou_cost, alpha, gamma)
        noise = (denoising, box_noise, label_noise, contrastive)
        self.denoising = Denoising(Noise(*noise), self.classes, hidden) if denoising else None

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """``cls``, ``box`` and ``giou`` of the last decoder layer; ``aux``: those of all other layers and of the proposals.

        With denoising, in training mode, also ``dn``: those of the denoising queries, all layers.
        """
        boxes = [centre_and_size(normalised(boxes.float(), images.shape[2:])) for boxes in targets.boxes]
        objects = ObjectSets.of(boxes, targets.labels)
        noised, extra = self.denoising(objects) if self.denoising and self.training else (None, None)
        found = self._predict_sets(images, extra)
        with torch.autocast(images.device.type, enabled=False):
            layers = self._losses(found.logits, found.boxes, objects)
            proposals = self._losses(found.proposal_logits[None], found.proposal_boxes[None], objects.without_classes())
            last = {name: loss[-1] for name, loss in layers.items()}
            aux = sum(loss[:-1].sum() for loss in layers.values()) + sum(loss.sum() for loss in proposals.values())
            losses = last | {"aux": aux}
            if noised is not None:
                added = found.extra_logits, found.extra_boxes
                losses["dn"] = denoising_loss(*added, noised, self.weights, self.alpha, self.gamma)
            return losses

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Detections]:
        """The most likely (box, class) pairs; boxes are limited to what a target's can be, -1 .. n per axis."""
        found = self._predict_sets(images)
        with torch.autocast(images.device.type, enabled=False):
            boxes = indexed(corners(found.boxes[-1]), images.shape[2:])
            return [self._select(*image, images.shape[2:]) for image in zip(found.logits[-1], boxes, strict=True)]

    def _predict_sets(self, images: Tensor, extra: ExtraQueries | None = None) -> SetPredictions:
        features = self.encoder(images)
        return self.transformer(self.mapper([features[level] for level in self.levels]), extra)

    def _losses(self, logits: Tensor, boxes: Tensor, objects: ObjectSets) -> dict[str, Tensor]:
        """Weighted losses of each layer, ``[layers]``, over the number of objects of all ranks (at least 1).

        ``logits [layers, B, Q, K]``, ``boxes [layers, B, Q, 6]``.
        """
        layer, image, prediction, target = match(logits, boxes, objects, self.costs)
        wanted = torch.zeros_like(logits)
        wanted[layer, image, prediction, objects.labels[image, target]] = 1
        focal = sigmoid_focal(logits, wanted, self.alpha, self.gamma).sum(dim=(1, 2, 3))
        matched, truth = boxes[layer, image, prediction], objects.boxes[image, target]
        distance = functional.l1_loss(matched, truth, reduction="none").sum(-1)
        overlap = box_ops.paired_giou(corners(matched), corners(truth))
        per_layer = functional.one_hot(layer, len(logits)).to(boxes.dtype).T  # [layers, M]: sums in a fixed order
        number = ranks.per_rank(logits.new_tensor(sum(objects.counts)))
        losses = {"cls": focal, "box": per_layer @ distance, "giou": per_layer @ (1 - overlap)}
        return {name: self.weights[name] * loss / number for name, loss in losses.items()}

    def _select(self, logits: Tensor, boxes: Tensor, shape: torch.Size) -> Detections:
        """The best pairs of one tile: ``logits [Q, K]``, ``boxes [Q, 6]`` in index coordinates."""
        scores, flat = torch.sigmoid(logits.flatten()).topk(min(self.candidates, logits.numel()))
        boxes, labels = boxes[flat // self.classes], flat % self.classes
        boxes = box_ops.clip(boxes + 1, [n + 1 for n in shape]) - 1  # -1 .. n
        valid = ((boxes[:, 3:] - boxes[:, :3]) >= LEAST_SIDE).all(dim=1)
        return Detections(boxes[valid], scores[valid], labels[valid])


def normalised(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Corners in index coordinates -> fractions of the patch, ``[..., 6]``.

    Voxel i is centred at i, so that the patch covers -0.5 .. n - 0.5; an object that touches its border has a corner outside
    of 0 .. 1.
    """
    return (boxes + 0.5) / boxes.new_tensor([*shape, *shape])


def indexed(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of ``normalised``."""
    return boxes * boxes.new_tensor([*shape, *shape]) - 0.5
