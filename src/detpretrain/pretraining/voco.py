"""Volume contrast (VoCo): how similar two crops look to the encoder shall be how much of their volume they share.

Wu, Zhuang & Chen, CVPR 2024 (arXiv 2402.17300). Recipe and details as nnssl's ``VoCoTrainer``, which has no teacher, weighs
positive pairs by their overlap and penalises the similarity of base crops linearly (the study: MICCAI 2025, arXiv 2509.15947).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.errors import InputError
from detpretrain.loading.augmentation import Augmentation
from detpretrain.models import ranks
from detpretrain.pretraining import voco_crops
from detpretrain.pretraining.contract import Citation, Panel, Score

MATRIX_AXES = ("target crop", "base crop")
FEWEST_VOXELS = 2  # of the deepest map: an instance norm of one voxel leaves nothing


class VoCo(nn.Module):
    """Prediction of the overlap of random target crops with the base crops that tile the patch.

    Args:
        backbone: makes the encoder (``models.resenc.ResEnc`` or alike).
        crop: side of a crop in voxels; None = derived from the patch, see ``voco_crops.derived_crop``.
        targets: random crops per image.
        hidden, outputs: width of the projector and of its result.
        augmentation: values of ``loading.augmentation.Augmentation`` that differ from ``voco_crops.CROP_AUGMENTATION``.

    Raises:
        InputError: unknown or unusable values.
    """

    supervised = False
    citations = (
        Citation(
            "Pretraining Method",
            "Volume Contrast (VoCo)",
            (
                "Wu, L., Zhuang, J., & Chen, H. (2024). VoCo: A simple-yet-effective volume contrastive learning framework "
                "for 3D medical image analysis. In Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern "
                "Recognition (pp. 22873-22882).",
            ),
        ),
    )

    def __init__(
        self,
        *,
        backbone: Any,
        crop: int | None = None,
        targets: int = 4,
        hidden: int = 2048,
        outputs: int = 2048,
        augmentation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"crop": crop, "targets": targets, "hidden": hidden, "outputs": outputs}.items():
            if not (name == "crop" and value is None) and (not isinstance(value, int) or value < 1):
                raise InputError(f"VoCo: {name} {value!r}: use a whole number of at least 1")
        self.crop, self.targets = crop, targets
        self.augmentation = crop_augmentation(augmentation or {})
        self.total_stride = np.prod(backbone.strides, axis=0)
        self.network = Embedding(backbone.encoder(1), sum(backbone.features), hidden, outputs)

    def views(self, images: Tensor, sample_seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Crops ``[B, N + T, 1, c, c, c]``, base crops first, and the targets' overlaps ``[B, T, N]`` with them.

        In training, each crop is augmented on its own.

        Raises:
            InputError: the crop does not suit the patch or the network.
        """
        patch = images.shape[2:]
        crop = voco_crops.crop_side(patch, self.crop)
        self._check_network(crop)
        bases = voco_crops.base_starts(patch, crop)
        starts, labels, draws = [], [], []
        for seed in sample_seeds:
            rng = np.random.default_rng(seed)
            targets = voco_crops.target_starts(rng, patch, crop, self.targets)
            starts.append(np.concatenate([bases, targets]))
            labels.append(voco_crops.overlaps(targets, bases, crop))
            if self.training:
                draws += voco_crops.draw_crops(rng, self.augmentation, len(starts[-1]))
        crops = voco_crops.cut(images, torch.from_numpy(np.stack(starts)).to(images.device), crop)
        if self.training:
            crops = voco_crops.augment(crops.flatten(0, 1), draws).unflatten(0, crops.shape[:2])
        return crops[:, :, None], torch.from_numpy(np.stack(labels)).to(images.device, torch.float32)

    def forward(self, crops: Tensor, labels: Tensor) -> dict[str, Tensor]:
        bases, targets = self._embeddings(crops, labels)
        with torch.autocast(crops.device.type, enabled=False):
            return {
                "prediction": prediction_loss(similarity(targets, bases.detach()), labels),
                "regularisation": mean_similarity(bases),
            }

    def assess(self, crops: Tensor, labels: Tensor) -> dict[str, Score]:
        """Error of the predicted overlaps, beside that of the same predictions for other targets of the batch."""
        predicted = self._predicted(crops, labels)
        shuffled = labels.flatten(0, 1).roll(1, dims=0).view_as(labels)
        pairs = labels.new_tensor(labels.numel())
        return {
            "overlap, mean absolute error": Score(
                method=((labels - predicted).abs().sum(), pairs),
                baseline=((shuffled - predicted).abs().sum(), pairs),
                baseline_name="shuffled labels",
            )
        }

    def preview(self, crops: Tensor, labels: Tensor) -> list[list[Panel]]:
        """Per sample: the first target beside the base crop it shares most with, all overlaps and what is predicted."""
        predicted = self._predicted(crops, labels)
        middle = crops[:, :, 0, crops.shape[3] // 2]  # [B, N + T, c, c]
        number = labels.shape[2]
        return [
            [
                Panel("target crop", slices[number]),
                Panel("base crop of most overlap", slices[overlap[0].argmax()]),
                Panel("overlap", overlap, "matrix", MATRIX_AXES),
                Panel("predicted overlap", guess, "matrix", MATRIX_AXES),
            ]
            for slices, overlap, guess in zip(middle, labels, predicted, strict=True)
        ]

    def _embeddings(self, crops: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Bases ``[B, N, E]`` and targets ``[B, T, E]`` in float32, from one pass through the network."""
        embedded = self.network(crops.flatten(0, 1)).float().unflatten(0, crops.shape[:2])
        return embedded.split([labels.shape[2], labels.shape[1]], dim=1)

    def _predicted(self, crops: Tensor, labels: Tensor) -> Tensor:
        bases, targets = self._embeddings(crops, labels)
        with torch.autocast(crops.device.type, enabled=False):
            return similarity(targets, bases)

    def _check_network(self, crop: int) -> None:
        strides = self.total_stride
        if (crop % strides).any() or np.prod(crop // strides) < FEWEST_VOXELS:
            raise InputError(
                f"VoCo: crops of {crop} do not suit the network's total stride {strides.tolist()}: set crop to a multiple of "
                f"it that leaves at least {FEWEST_VOXELS} voxels at the deepest stage"
            )


class Embedding(nn.Module):
    """Encoder, mean over space of every stage's output, projector: ``[K, 1, D, H, W] -> [K, outputs]``."""

    def __init__(self, encoder: nn.Module, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        # nnssl's InstanceNorm1d takes a [K, hidden] tensor for one sample of K channels, which is this norm of each row
        self.projector = nn.Sequential(
            nn.Linear(features, hidden),
            nn.LayerNorm(hidden, elementwise_affine=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden, elementwise_affine=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, outputs),
        )

    def forward(self, crops: Tensor) -> Tensor:
        pooled = [stage.mean(dim=(2, 3, 4)) for stage in self.encoder(crops)]
        return self.projector(torch.cat(pooled, dim=1))


def similarity(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosine of every pair, negative ones as 0: ``[B, R, E], [B, C, E] -> [B, R, C]``."""
    rows, columns = functional.normalize(rows, dim=-1), functional.normalize(columns, dim=-1)
    return functional.relu(rows @ columns.transpose(1, 2))


def prediction_loss(predicted: Tensor, overlap: Tensor) -> Tensor:
    """``[B, T, N]`` each: -log(1 - error), weighted by the overlap, where there is one; elsewhere the mean squared similarity.

    Both are means over the whole batch; without a pair that is apart, the second is 0.
    """
    positive = -torch.log(1 - (overlap - predicted).abs() + 1e-6)
    apart = overlap == 0
    negative = (predicted**2 * apart).sum() / ranks.per_rank(apart.sum())
    return (positive * overlap).sum() / ranks.per_rank(overlap.sum(), at_least=0.0) + negative


def mean_similarity(bases: Tensor) -> Tensor:
    """Mean over the pairs of one image's base crops ``[B, N, E]``: they share nothing, so nothing should be similar."""
    batch, number, _ = bases.shape
    return similarity(bases, bases).triu(1).sum() / (batch * number * (number - 1) / 2)


def crop_augmentation(changes: Mapping[str, Any]) -> Augmentation:
    """nnssl's augmentation of crops with some values changed.

    Raises:
        InputError: an unknown name, or one that crops have no use for.
    """
    try:
        augmentation = dataclasses.replace(voco_crops.CROP_AUGMENTATION, **changes)
    except TypeError as error:
        raise InputError(f"VoCo: augmentation: {error}") from None
    if augmentation.rotation_probability or augmentation.zoom_probability:
        raise InputError("VoCo: augmentation: crops are not rotated or zoomed: leave these probabilities out")
    return augmentation
