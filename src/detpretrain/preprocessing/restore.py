"""Boxes between the original image and its preprocessed array.

Both are index coordinates (z1, y1, x1, z2, y2, x2), voxel i centred at i. Along preprocessed axis k, which is the original
axis ``transpose[k]``: original = (preprocessed + 0.5) * ratio - 0.5 + offset, where ratio is the size after cropping over the
size after resampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def boxes_to_original(boxes: np.ndarray, properties: Mapping[str, Any]) -> np.ndarray:
    """Boxes [N, 6] of the preprocessed array -> float64 [N, 6] in the original image; not clipped."""
    ratio, offset, transpose = _mapping(properties)
    corners = _corners(boxes)
    corners = (corners + 0.5) * ratio - 0.5 + offset
    original = np.empty_like(corners)
    original[:, :, transpose] = corners
    return original.reshape(-1, 6)


def boxes_to_preprocessed(boxes: np.ndarray, properties: Mapping[str, Any]) -> np.ndarray:
    """Boxes [N, 6] of the original image -> float64 [N, 6] in the preprocessed array; the inverse of ``boxes_to_original``."""
    ratio, offset, transpose = _mapping(properties)
    corners = _corners(boxes)[:, :, transpose]
    return ((corners - offset + 0.5) / ratio - 0.5).reshape(-1, 6)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 3)


def _mapping(properties: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Ratio and offset per preprocessed axis, and the original axis of each."""
    transpose = list(properties["transpose"])
    cropped = np.asarray(properties["cropped_shape"], dtype=np.float64)[transpose]
    offset = np.asarray(properties["crop_offset"], dtype=np.float64)[transpose]
    return cropped / np.asarray(properties["shape"], dtype=np.float64), offset, transpose
