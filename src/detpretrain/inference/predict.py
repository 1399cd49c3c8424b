"""All boxes that a detector sees in one image: every mirror, every tile, nothing merged yet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from detpretrain.evaluation.ensemble import Candidates
from detpretrain.inference import tiling


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """The ``inference`` part of a detector entry.

    Attributes:
        overlap: of neighbouring tiles, per axis.
        mirror_axes: test-time mirroring over all combinations of these axes (0 = z).
        tile_batch: tiles per forward pass.
        keep: best boxes kept of each mirror.
    """

    overlap: float = 0.5
    mirror_axes: Sequence[int] = (0, 1, 2)
    tile_batch: int = 4
    keep: int = 1000

    @property
    def mirrors(self) -> list[tuple[int, ...]]:
        axes = tuple(self.mirror_axes)
        return [combination for n in range(len(axes) + 1) for combination in itertools.combinations(axes, n)]


def predict_case(
    detector: nn.Module,
    data: np.ndarray,
    patch: Sequence[int],
    settings: InferenceSettings,
    device: torch.device,
    precision: torch.dtype | None,
) -> Candidates:
    """Boxes of one preprocessed image ``[C, D, H, W]``; ``model`` is the index of the mirror combination."""
    padded, front = tiling.pad_to_patch(data, patch)
    image = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32)).to(device)
    starts = tiling.tile_starts(padded.shape[1:], patch, settings.overlap)
    parts = []
    for model, axes in enumerate(settings.mirrors):
        found = list(_tiles(detector, image, starts, patch, axes, settings.tile_batch, device, precision))
        boxes, scores, labels, weights = (np.concatenate(part) for part in zip(*found, strict=True))
        best = np.argsort(-scores, kind="stable")[: settings.keep]
        boxes = boxes[best] - np.tile(front, 2)
        parts.append((boxes, scores[best], labels[best], weights[best], np.full(len(best), model)))
    boxes, scores, labels, weights, model = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Candidates(boxes.astype(np.float32), scores, labels, weights.astype(np.float32), model)


@torch.no_grad()
def _tiles(
    detector: nn.Module,
    image: torch.Tensor,
    starts: np.ndarray,
    patch: Sequence[int],
    axes: tuple[int, ...],
    batch: int,
    device: torch.device,
    precision: torch.dtype | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes (image coordinates), scores, labels and weights of every tile, mirrored for the network and back."""
    dims = [axis - 3 for axis in axes]
    for first in range(0, len(starts), batch):
        chunk = starts[first : first + batch]
        tiles = torch.stack([image[(slice(None), *map(slice, start, start + patch))] for start in chunk])
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            results = detector.predict(tiles.flip(dims) if dims else tiles)
        for start, result in zip(chunk, results, strict=True):
            boxes = mirror_boxes(result.boxes.float().cpu().numpy(), patch, axes)
            weights = tiling.tile_weights(boxes, patch)
            yield boxes + np.tile(start, 2), result.scores.float().cpu().numpy(), result.labels.cpu().numpy(), weights


def mirror_boxes(boxes: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Boxes of an array flipped along ``axes`` -> of the array itself: voxel i is voxel n - 1 - i of the other."""
    mirrored = boxes.copy()
    for axis in axes:
        mirrored[:, axis] = shape[axis] - 1 - boxes[:, axis + 3]
        mirrored[:, axis + 3] = shape[axis] - 1 - boxes[:, axis]
    return mirrored
