"""Retina U-Net (Jaeger et al., ML4H 2020) as in nnDetection: anchors over a U-shaped pyramid, segmentation as a second task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.detectors.anchors import AnchorGenerator, AnchorGrid
from detpretrain.detectors.assignment import atss
from detpretrain.detectors.contract import Detections, Targets
from detpretrain.detectors.dense_head import DenseHead
from detpretrain.detectors.losses import soft_dice
from detpretrain.detectors.selection import Selection
from detpretrain.errors import InputError
from detpretrain.models.fpn import UFPN


class RetinaUNet(nn.Module):
    """The detector.

    Args:
        backbone: makes the encoder (``models.resenc.ResEnc`` or alike).
        plan: strides, kernels, detection levels, anchors, numbers of classes and channels.
        criterion: classification and box loss (``detectors.criteria``).
        pyramid_channels: width of the pyramid from the first detection level on.
        head_channels, head_convs, head_slope: of both heads; ReLU in nnDetection v0.1, LeakyReLU in its second version.
        prior: initial probability of every anchor.
        segmentation: the second task; without it the pyramid below the first detection level stays idle (RetinaNet).
        dice_smooth: numerator smoothing of the Dice term; segmentation is 0.5 cross-entropy + 0.5 Dice.
        atss_candidates: positions per level and object.
        candidates, nms_iou, detections: of ``selection.Selection``, per tile.

    Raises:
        InputError: a plan without anchors, or whose first stage is strided.
    """

    def __init__(
        self,
        *,
        backbone: Any,
        plan: Mapping[str, Any],
        criterion: nn.Module,
        pyramid_channels: int = 128,
        head_channels: int = 128,
        head_convs: int = 2,
        head_slope: float = 0.01,
        prior: float = 0.01,
        segmentation: bool = True,
        dice_smooth: float = 0.0,
        atss_candidates: int = 4,
        candidates: int = 10000,
        nms_iou: float = 0.6,
        detections: int = 100,
    ) -> None:
        super().__init__()
        check_plan(plan)
        self.levels: Sequence[int] = plan["detection_levels"]
        self.classes: int = plan["classes"]
        self.encoder = backbone.encoder(plan["channels"])
        self.neck = UFPN(backbone.features, plan["strides"], plan["kernels"], self.levels[0], pyramid_channels)
        self.anchors = AnchorGenerator(plan["anchors"], [total_stride(plan["strides"], level) for level in self.levels])
        shapes = self.anchors.shapes
        bias = -math.log((1 - prior) / prior)
        self.classifier = DenseHead(pyramid_channels, head_channels, head_convs, shapes, self.classes, bias, head_slope)
        self.regressor = DenseHead(pyramid_channels, head_channels, head_convs, shapes, 6, slope=head_slope)
        self.level_scale = nn.Parameter(torch.ones(len(self.levels)))
        self.segmenter = nn.Conv3d(self.neck.channels[0], 2, 1) if segmentation else None
        self.criterion = criterion
        self.dice_smooth, self.atss_candidates = dice_smooth, atss_candidates
        self.select = Selection(candidates, nms_iou, detections)

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        maps = self.neck(self.encoder(images), lowest=self.levels[0] if self.segmenter is None else 0)
        logits = self._logits(maps)
        segmentation = None if self.segmenter is None else self.segmenter(maps[0])
        with torch.autocast(images.device.type, enabled=False):
            grid = self._grid(maps, images.device)
            matched = torch.stack([atss(grid, boxes, self.atss_candidates) for boxes in targets.boxes])
        deltas = self._deltas_at(maps, grid, *(matched >= 0).nonzero().unbind(dim=1))
        with torch.autocast(images.device.type, enabled=False):
            losses = self.criterion(logits, deltas, grid.boxes, matched, targets.boxes, targets.labels)
            if segmentation is None:
                return losses
            return losses | segmentation_losses(segmentation.float(), targets.foreground, self.dice_smooth)

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Detections]:
        maps = self.neck(self.encoder(images), lowest=self.levels[0])
        grid = self._grid(maps, images.device)
        scores, places, labels = self.select.best(self._logits(maps))
        image = torch.arange(len(images), device=images.device).repeat_interleave(places.shape[1])
        deltas = self._deltas_at(maps, grid, image, places.flatten()).view(*places.shape, 6)
        with torch.autocast(images.device.type, enabled=False):
            of_image = zip(scores, labels, deltas, grid.boxes[places], strict=True)
            return [self.select(*found, images.shape[2:]) for found in of_image]

    def _logits(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Class logits ``[B, N, K]`` of all levels, float32."""
        return torch.cat([self.classifier(maps[level]) for level in self.levels], dim=1)

    def _deltas_at(self, maps: Mapping[int, Tensor], grid: AnchorGrid, image: Tensor, anchor: Tensor) -> Tensor:
        """Box deltas ``[P, 6]`` of these anchors of these images, float32: ``[P]`` indices each.

        The last convolution of the boxes is the dearest of the network (162 outputs per position), and of a million anchors some
        hundred are positive in training and some thousand are candidates in prediction: no others are computed.
        """
        position = anchor.div(grid.shapes, rounding_mode="floor")
        rows, places, first = [], [], 0
        for level, scale, positions in zip(self.levels, self.level_scale, grid.positions, strict=True):
            here = ((position >= first) & (position < first + len(positions))).nonzero()[:, 0]
            found = self.regressor.at(maps[level], image[here], position[here] - first, anchor[here] % grid.shapes)
            rows.append(found * scale)
            places.append(here)
            first += len(positions)
        return torch.cat(rows)[torch.cat(places).argsort()]

    def _grid(self, maps: Mapping[int, Tensor], device: torch.device):
        return self.anchors.grid([maps[level].shape[2:] for level in self.levels], device)


def check_plan(plan: Mapping[str, Any]) -> None:
    """Raises ``InputError`` for a plan that this detector cannot be built on."""
    if plan["anchors"] is None:
        raise InputError(f"plan {plan['plan']} of {plan['dataset']}: no anchors: Retina U-Net needs a task with labels")
    if max(plan["strides"][0]) > 1:
        raise InputError(
            f"plan {plan['plan']} of {plan['dataset']}: stride {plan['strides'][0]} into the first stage: Retina U-Net "
            "segments at full resolution, start the strides with 1"
        )


def total_stride(strides: Sequence[Sequence[int]], level: int) -> list[int]:
    """Voxels per position at a level, per axis: the product of the strides up to it."""
    return [math.prod(stride[axis] for stride in strides[: level + 1]) for axis in range(3)]


def segmentation_losses(logits: Tensor, foreground: Tensor, dice_smooth: float) -> dict[str, Tensor]:
    """Half cross-entropy, half batch Dice of the foreground: ``[B, 2, D, H, W], [B, D, H, W]``."""
    cross_entropy = functional.cross_entropy(logits, foreground.long())
    dice = soft_dice(torch.softmax(logits, dim=1)[:, 1], foreground, dice_smooth)
    return {"seg_ce": 0.5 * cross_entropy, "seg_dice": 0.5 * dice}
