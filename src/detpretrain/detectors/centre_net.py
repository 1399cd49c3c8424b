"""An anchor-free detector of centre points in the manner of CPM-Net (Song et al., MICCAI 2020; Luo et al., MedIA 2022).

Every position of one fine pyramid map says whether an object's centre lies nearby, and how far away and how large it is.
Matching and losses are those of CPM-Net v2, the authors' later release (github.com/zunzhumu/CPMNetv2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.detectors.centre_matching import IGNORED, cells, match_centres
from detpretrain.detectors.contract import Detections, Targets
from detpretrain.detectors.criteria import anchor_targets
from detpretrain.detectors.dense_head import DenseHead
from detpretrain.detectors.losses import one_hot_labels, sigmoid_focal
from detpretrain.detectors.retina_unet import total_stride
from detpretrain.detectors.selection import Selection
from detpretrain.errors import InputError
from detpretrain.models import box_ops, ranks
from detpretrain.models.fpn import UFPN


class CentreNet(nn.Module):
    """The detector, on the finest detection level of the plan.

    A position predicts class logits and, relative to its cell (``centre_matching.cells``), the centre in cells and the
    logarithm of the size. CPM-Net v2 has half the size in voxels; the logarithm weighs small and large objects alike.

    Other defaults that are not CPM-Net v2's:

    - ``surround``: there 26, so that one object leaves no background within 3.5 positions and a few leave none in a small
      patch, where boxes beside an object then cost nothing.
    - ``classification_weight``: there 4, with AdamW. Under SGD at 0.01 (small network, warm-up of 40 steps) neither 4 nor 1
      recovered from the first steps.
    - ``nms_iou``: there 0.05; objects that touch shall both be found.

    The pyramid is Retina U-Net's, key for key, so that a checkpoint's fits; its levels below the used one and its output
    convolutions above are idle.

    Args:
        backbone: makes the encoder (``models.resenc.ResEnc`` or alike).
        plan: strides, kernels, detection levels, numbers of classes and channels; anchors are not used.
        pyramid_channels: width of the pyramid from the used level on.
        head_channels, head_convs: of both heads.
        prior: initial probability of every class.
        start_size: initial side of every box, in cells.
        positives: positions per object that are to find it.
        surround: ignored positions around those, per positive one.
        alpha, gamma, missed_weight, negatives: of ``mined_focal``.
        classification_weight, offset_weight, size_weight, iou_weight: factors of the losses.
        candidates, nms_iou, detections: per tile, (box, class) pairs before suppression, its threshold, and how many stay.

    Raises:
        InputError: a plan without classes, or ``positives`` below 1.
    """

    def __init__(
        self,
        *,
        backbone: Any,
        plan: Mapping[str, Any],
        pyramid_channels: int = 128,
        head_channels: int = 128,
        head_convs: int = 3,
        prior: float = 0.01,
        start_size: float = 3.0,
        positives: int = 7,
        surround: int = 3,
        alpha: float = 0.75,
        gamma: float = 2.0,
        missed_weight: float = 4.0,
        negatives: int = 100,
        classification_weight: float = 0.25,
        offset_weight: float = 1.0,
        size_weight: float = 0.5,
        iou_weight: float = 1.0,
        candidates: int = 10000,
        nms_iou: float = 0.1,
        detections: int = 100,
    ) -> None:
        super().__init__()
        if plan["classes"] < 1:
            raise InputError(
                f"plan {plan['plan']} of {plan['dataset']}: no classes: centre net needs a task with labels"
            )
        if positives < 1:
            raise InputError(f"centre net: positives {positives}: use at least 1 position per object")
        self.level: int = plan["detection_levels"][0]
        self.stride = total_stride(plan["strides"], self.level)
        self.classes: int = plan["classes"]
        self.encoder = backbone.encoder(plan["channels"])
        self.neck = UFPN(backbone.features, plan["strides"], plan["kernels"], self.level, pyramid_channels)
        bias = -math.log((1 - prior) / prior)
        self.classifier = DenseHead(pyramid_channels, head_channels, head_convs, 1, self.classes, bias)
        self.regressor = DenseHead(pyramid_channels, head_channels, head_convs, 1, 6)
        nn.init.constant_(self.regressor.out.bias[3:], math.log(start_size))
        self.positives, self.surround = positives, surround * positives
        self.focal = {"alpha": alpha, "gamma": gamma, "missed_weight": missed_weight, "negatives": negatives}
        self.weights = {"cls": classification_weight, "offset": offset_weight, "size": size_weight, "iou": iou_weight}
        self.select = Selection(candidates, nms_iou, detections)

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        logits, deltas, positions = self._heads(images)
        with torch.autocast(images.device.type, enabled=False):
            matched = torch.stack(
                [match_centres(boxes, positions, self.positives, self.surround) for boxes in targets.boxes]
            )
            classes, boxes = anchor_targets(matched, targets.boxes, targets.labels)
            wanted = one_hot_labels(classes, self.classes).view_as(logits)
            losses = {"cls": mined_focal(logits, wanted, matched == IGNORED, **self.focal)}
            image, position = (matched >= 0).nonzero(as_tuple=True)
            losses |= box_losses(deltas[image, position], positions[position], boxes)
            return {name: self.weights[name] * loss for name, loss in losses.items()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Detections]:
        logits, deltas, positions = self._heads(images)
        with torch.autocast(images.device.type, enabled=False):
            scores, places, labels = self.select.best(logits)
            return [
                self.select(scores[image], labels[image], deltas[image, place], positions[place], images.shape[2:])
                for image, place in enumerate(places)
            ]

    def _heads(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits ``[B, N, K]``, box deltas ``[B, N, 6]``, both float32, and the cells ``[N, 6]``."""
        features = self.neck(self.encoder(images), lowest=self.level)[self.level]
        positions = cells(features.shape[2:], self.stride, images.device)
        return self.classifier(features), self.regressor(features), positions


def mined_focal(
    logits: Tensor, wanted: Tensor, ignored: Tensor, alpha: float, gamma: float, missed_weight: float, negatives: int
) -> Tensor:
    """CPM-Net's re-focal loss with mined negatives, mean over the images -> scalar.

    Focal loss of every pair (position, class) that is to be found, times ``missed_weight`` as long as its probability is
    below 0.8, and of the ``negatives`` hardest others per found one (``negatives`` in an image without objects); each image
    over its number of pairs to be found, at least 1.

    Unlike in CPM-Net v2 the negatives are mined among all, not among 10,000 drawn at random, and the focal weight carries a
    gradient, as Lin et al.'s.

    Args:
        logits, wanted: ``[B, N, K]``; wanted in {0, 1}.
        ignored: ``[B, N]`` bool, positions left out; none of them is wanted.
    """
    focal = sigmoid_focal(logits, wanted, alpha, gamma)
    missed = (torch.sigmoid(logits.detach()) < 0.8) * (missed_weight - 1) + 1
    found = (focal * missed * wanted).sum(dim=(1, 2))
    number = wanted.sum(dim=(1, 2)).clamp(min=1)
    others = (focal * (1 - wanted)).masked_fill(ignored[..., None], 0.0).flatten(1).sort(dim=1, descending=True).values
    hard = torch.arange(others.shape[1], device=logits.device) < negatives * number[:, None]
    return ((found + (others * hard).sum(dim=1)) / number).mean()


def box_losses(deltas: Tensor, positions: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """L1 of offset and logarithmic size and 1 - distance IoU, means over P positive positions, all ``[P, 6]``; 0 if P = 0."""
    number = ranks.per_rank(boxes.new_tensor(len(boxes)))
    distance = functional.l1_loss(deltas, box_ops.encode(boxes, positions), reduction="none")
    overlap = box_ops.paired_diou(box_ops.decode(deltas, positions), boxes)
    return {
        "offset": distance[:, :3].sum() / (3 * number),
        "size": distance[:, 3:].sum() / (3 * number),
        "iou": (1 - overlap).sum() / number,
    }
