"""Sliding windows: where tiles lie and what a box in a tile is worth (nnDetection v0.1)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np


def axis_starts(size: int, patch: int, overlap: float) -> list[int]:
    """Starts of the tiles along one axis: a grid symmetric about the image, tiles sticking out shifted inside.

    ``size`` must be at least ``patch``.
    """
    step = max(1, int(patch * (1 - overlap)))
    count = math.ceil((size - patch) / step) + 1
    first = (size - ((count - 1) * step + patch)) // 2
    starts = [min(max(first + index * step, 0), size - patch) for index in range(count)]
    return sorted(set(starts))


def tile_starts(shape: Sequence[int], patch: Sequence[int], overlap: float) -> np.ndarray:
    """Starts of all tiles, ``[T, 3]``."""
    axes = [axis_starts(size, length, overlap) for size, length in zip(shape, patch, strict=True)]
    return np.array(list(itertools.product(*axes)))


def pad_to_patch(data: np.ndarray, patch: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Reflects an image ``[C, D, H, W]`` that is smaller than the patch; also the voxels added in front, ``[3]``."""
    missing = np.maximum(np.asarray(patch) - data.shape[1:], 0)
    front = missing // 2
    padding = [(0, 0), *((int(a), int(b)) for a, b in zip(front, missing - front, strict=True))]
    return (np.pad(data, padding, mode="symmetric") if missing.any() else data), front


def tile_weights(boxes: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """Weight of each box by its centre, ``[N, 6] -> [N]``: 1 up to half way to the tile's corner, falling to 0.5 there."""
    middle = np.asarray(patch, dtype=np.float64) / 2
    centre = (boxes[:, :3] + boxes[:, 3:]) / 2
    distance = np.linalg.norm(centre - middle, axis=1) / np.linalg.norm(middle)
    return np.where(distance <= 0.5, 1.0, np.maximum(1.5 - distance, 0.5))
