"""Anchor sizes: three whole numbers per axis whose 27 combinations, at every level, cover the training boxes best.

The objective is nnDetection v0.1's ("planning/architecture/boxes"): centred boxes, best IoU over the 27 base anchors and their
copies scaled by each detection level's relative stride, mean over boxes. It is maximised by coordinate search from several fixed
starts instead of differential evolution: only 9 of the 27 shapes change with one size, so that all values of a size are tried at
once, and the result needs no seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIZES = 3
START = (4, 8, 16)  # nnDetection's
PERCENTILES = (0.5, 99.5)
SEARCH_BOXES = 400
MAX_SIZES_TRIED = 24


@dataclass(frozen=True)
class AnchorPlan:
    """``sizes`` [3 axes][3] ascending, voxels; ``mean_iou`` of the best anchor, over the ``boxes`` that were not outliers."""

    sizes: list[list[int]]
    mean_iou: float
    boxes: int


def plan_anchors(lengths: np.ndarray, scales: np.ndarray) -> AnchorPlan:
    """Chooses anchor sizes.

    Args:
        lengths: [N, 3] box side lengths in voxels of the preprocessed arrays, N > 0.
        scales: [levels, 3] relative stride of each detection level; the first is 1.
    """
    lengths = without_outliers(np.asarray(lengths, dtype=np.float64))
    unique, counts = np.unique(lengths, axis=0, return_counts=True)
    weights = counts / counts.sum()
    scales = np.asarray(scales, dtype=np.float64)
    few, few_weights = _thinned(unique, weights)
    found = {_sorted(_search(start, few, few_weights, scales)) for start in _starts(lengths, scales)}
    # The candidates are compared, and the best refined, on all boxes.
    best = max(sorted(found), key=lambda sizes: mean_best_iou(np.array(sizes), unique, weights, scales))
    if len(few) < len(unique):
        best = _sorted(_search(np.array(best), unique, weights, scales, sweeps=1))
    return AnchorPlan(
        [list(axis) for axis in best], mean_best_iou(np.array(best), unique, weights, scales), len(lengths)
    )


def without_outliers(lengths: np.ndarray) -> np.ndarray:
    """Drops boxes [N, 3] outside the 0.5 to 99.5 percentile along any axis; all stay where that would drop all."""
    low, high = np.percentile(lengths, PERCENTILES, axis=0)
    inside = ((lengths >= low) & (lengths <= high)).all(axis=1)
    return lengths[inside] if inside.any() else lengths


def relative_strides(strides: Sequence[Sequence[int]], levels: Sequence[int]) -> np.ndarray:
    """Stride of each detection level relative to the first one, [levels, 3]."""
    total = np.cumprod(strides, axis=0)[list(levels)]
    return total / total[0]


def mean_best_iou(sizes: np.ndarray, lengths: np.ndarray, weights: np.ndarray, scales: np.ndarray) -> float:
    """The objective: ``sizes`` [3, 3], boxes [N, 3] with weights [N] that sum to 1, ``scales`` [levels, 3]."""
    return float(_best_iou(*(size[None] for size in sizes), lengths, scales)[0] @ weights)


def _best_iou(z: np.ndarray, y: np.ndarray, x: np.ndarray, lengths: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Best IoU [V, N] of boxes [N, 3] with all combinations of sizes z, y, x, [V, sizes] each, at every level."""
    volume = lengths.prod(axis=1)
    best = np.zeros((len(z), len(lengths)))
    for scale in scales:
        axes = [side[:, :, None] * factor for side, factor in zip((z, y, x), scale, strict=True)]
        overlap = [np.minimum(side, lengths[:, axis]) for axis, side in enumerate(axes)]  # [V, sizes, N]
        for i in range(z.shape[1]):
            for j in range(y.shape[1]):
                plane = overlap[0][:, i] * overlap[1][:, j]
                area = axes[0][:, i] * axes[1][:, j]
                for k in range(x.shape[1]):
                    intersection = plane * overlap[2][:, k]
                    np.maximum(best, intersection / (volume + area * axes[2][:, k] - intersection), out=best)
    return best


def _search(
    start: np.ndarray, lengths: np.ndarray, weights: np.ndarray, scales: np.ndarray, sweeps: int = 20
) -> np.ndarray:
    """Coordinate search: the best value of one size after another until none improves."""
    sizes = np.array(start, dtype=np.int64)
    score = mean_best_iou(sizes, lengths, weights, scales)
    for _ in range(sweeps):
        before = score
        for axis in range(3):
            for slot in range(SIZES):
                sizes[axis, slot], score = _best_value(sizes, axis, slot, score, lengths, weights, scales)
        if score <= before + 1e-9:
            break
    return sizes


def _best_value(
    sizes: np.ndarray, axis: int, slot: int, score: float, lengths: np.ndarray, weights: np.ndarray, scales: np.ndarray
) -> tuple[int, float]:
    """The best value of one size with the eight others fixed, and the objective with it."""
    fixed = list(sizes[:, None].astype(np.float64))
    fixed[axis] = np.delete(fixed[axis], slot, axis=1)
    others = _best_iou(*fixed, lengths, scales)[0]
    values = _values_to_try(int(sizes[axis, slot]), int(np.ceil(lengths[:, axis].max())))
    varied = [np.repeat(sizes[a][None].astype(np.float64), len(values), axis=0) for a in range(3)]
    varied[axis] = values[:, None].astype(np.float64)
    scores = np.maximum(_best_iou(*varied, lengths, scales), others) @ weights
    best = int(np.argmax(scores))
    return (int(values[best]), float(scores[best])) if scores[best] > score + 1e-12 else (int(sizes[axis, slot]), score)


def _values_to_try(current: int, largest: int) -> np.ndarray:
    """Sizes 1..largest: all of them when they are few, else the neighbours of the current one and a geometric series."""
    if largest <= MAX_SIZES_TRIED:
        return np.arange(1, max(largest, 1) + 1)
    near = np.arange(current - 4, current + 5)
    far = np.round(np.geomspace(1, largest, MAX_SIZES_TRIED - len(near)))
    return np.unique(np.clip(np.concatenate([near, far]), 1, largest)).astype(np.int64)


def _starts(lengths: np.ndarray, scales: np.ndarray) -> list[np.ndarray]:
    """nnDetection's start, and quantiles of the box sizes, whole and divided among the levels."""
    starts = [np.tile(START, (3, 1))]
    mean_scale = scales.mean(axis=0)
    for quantiles in ((10, 50, 90), (25, 50, 75), (2, 20, 60)):
        size = np.percentile(lengths, quantiles, axis=0).T
        for divisor in (np.ones(3), mean_scale, scales[-1]):
            starts.append(np.maximum(np.round(size / divisor[:, None]), 1).astype(np.int64))
    return starts


def _thinned(lengths: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 400 boxes for the search: every k-th by volume stands for its neighbours."""
    if len(lengths) <= SEARCH_BOXES:
        return lengths, weights
    order = np.argsort(lengths.prod(axis=1), kind="stable")
    groups = np.array_split(order, SEARCH_BOXES)
    middle = [group[len(group) // 2] for group in groups]
    return lengths[middle], np.array([weights[group].sum() for group in groups])


def _sorted(sizes: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted(axis)) for axis in sizes.tolist())
