"""Strides, kernels and detection levels of an encoder, and the patch that fits memory (nnDetection v0.1; nnU-Net 1.7.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detpretrain.preprocessing.patch_planning import padded, smaller_patch

FEATURE_LEVELS = 4
FIRST_LEVEL_AT_MOST = 2


@dataclass(frozen=True)
class Architecture:
    """``strides`` and ``kernels`` [stages][3] in the plan's axis order; stage 0 has stride 1 unless a spec says otherwise."""

    patch: list[int]
    strides: list[list[int]]
    kernels: list[list[int]]
    detection_levels: list[int]


def pool_late(
    spacing: Sequence[float], patch: Sequence[int], min_feature_map: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Strides and kernels [stages][3] for a patch: halve, again and again, every axis that is fine and long enough.

    An axis is pooled while its spacing is below twice the finest and its map at least twice ``min_feature_map``. A kernel is
    3 along the largest group of axes whose spacings are within a factor of 2 of each other, else 1; the last stage's is 3.
    """
    spacing, size = np.asarray(spacing, dtype=np.float64), np.asarray(patch)
    strides, kernels = [[1, 1, 1]], []
    while True:
        pooled = (spacing / spacing.min() < 2) & (size >= 2 * min_feature_map)
        if not pooled.any():
            return strides, [*kernels, [3, 3, 3]]
        ratio = np.maximum(spacing[:, None] / spacing, spacing / spacing[:, None])
        group = max(ratio < 2, key=np.count_nonzero)  # the first of equally large groups
        kernels.append([3 if member else 1 for member in group.tolist()])
        strides.append([2 if axis else 1 for axis in pooled.tolist()])
        spacing = np.where(pooled, spacing * 2, spacing)
        size = np.where(pooled, -(-size // 2), size)


def total_stride(strides: Sequence[Sequence[int]]) -> list[int]:
    return np.prod(strides, axis=0).tolist()


def derived_levels(stages: int) -> list[int]:
    """From level ``min(max(1, stages - 4), 2)`` to the last: 2..5 for 6 stages, 1..4 for 5 (one stage: level 0)."""
    first = min(max(1, stages - FEATURE_LEVELS), FIRST_LEVEL_AT_MOST, stages - 1)
    return list(range(first, stages))


def fit_to_memory(
    patch: Sequence[int],
    median_shape: Sequence[int],
    build: Callable[[Sequence[int]], Architecture],
    needed: Callable[[Architecture], int],
    budget: float,
    min_feature_map: int | None,
) -> tuple[Architecture, int]:
    """The first architecture that needs no more than ``budget`` bytes, from ``patch`` downwards, and its bytes.

    Args:
        patch: where to start.
        median_shape: sizes that the patch is compared with to choose the axis that gives way.
        build: patch -> architecture, whose patch is a multiple of its total stride.
        needed: architecture -> bytes.
        budget: bytes.
        min_feature_map: smallest side of the deepest map where ``build`` derives the strides, None where they are fixed.

    Raises:
        ValueError: not even the smallest patch fits.
    """
    architecture = build(patch)
    while (memory := needed(architecture)) > budget:
        divisor = total_stride(architecture.strides)
        smaller = smaller_patch(architecture.patch, median_shape, divisor, min_feature_map)
        if smaller is None:
            raise ValueError(f"patch {architecture.patch} needs {memory} bytes, {budget:.0f} are allowed")
        architecture = build(smaller)
    return architecture, memory


def with_padding(
    patch: Sequence[int], strides: list[list[int]], kernels: list[list[int]], levels: list[int] | None
) -> Architecture:
    """An architecture whose patch is rounded up to its total stride; levels derived where None."""
    return Architecture(
        padded(patch, total_stride(strides)),
        strides,
        kernels,
        derived_levels(len(strides)) if levels is None else levels,
    )
