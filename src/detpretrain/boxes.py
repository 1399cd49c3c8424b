"""Boxes in numpy: the convention, IoU, non-maximum suppression and weighted box clustering.

A box is ``(z1, y1, x1, z2, y2, x2)`` in index coordinates of its array, voxel i centred at i; sizes are plain differences
(no ``+ 1``). Everything is computed in float64. Inference, the sweep and the evaluation all use these functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CANDIDATES_PER_BLOCK = 1 << 20


def from_instances(instances: NDArray[np.integer]) -> tuple[Integers, NDArray[np.float32]]:
    """One box per instance id of a map: ``min index - 1 .. max index + 1`` per axis (nnDetection v0.1), not clipped.

    The margin makes an object of n voxels n + 1 long, and lets a box at the border reach -1. An id that lies in several
    parts has one box around all of them. Values <= 0 are background.

    Args:
        instances: integers [D, H, W].

    Returns:
        ids [N] ascending, boxes [N, 6].
    """
    if not np.issubdtype(instances.dtype, np.integer):
        raise TypeError(f"an instance map holds integers, not {instances.dtype}")
    found = [(index + 1, where) for index, where in enumerate(ndimage.find_objects(instances)) if where is not None]
    ids = np.array([instance for instance, _ in found], dtype=np.int64)
    corners = [[axis.start - 1 for axis in where] + [axis.stop for axis in where] for _, where in found]
    return ids, np.array(corners, dtype=np.float32).reshape(-1, 6)


def volume(boxes: ArrayLike) -> Floats:
    """Volumes [N] of boxes [N, 6]."""
    boxes = _as_boxes(boxes)
    size = boxes[:, 3:] - boxes[:, :3]
    return size[:, 0] * size[:, 1] * size[:, 2]


def iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Intersection over union of every box of ``a`` [N, 6] with every box of ``b`` [M, 6]: [N, M].

    0 where both volumes are 0, so that an empty box matches nothing, itself included.
    """
    a, b = _as_boxes(a), _as_boxes(b)
    intersection = np.ones((len(a), len(b)))
    for axis in range(3):
        overlap = np.minimum(a[:, None, axis + 3], b[:, axis + 3]) - np.maximum(a[:, None, axis], b[:, axis])
        intersection *= np.maximum(overlap, 0.0)
    union = volume(a)[:, None] + volume(b) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def clip(boxes: ArrayLike, shape: Sequence[int]) -> Floats:
    """Boxes [N, 6] cut to ``0 .. shape`` (z, y, x) as nnDetection does; one that lies outside gets volume 0."""
    return np.clip(_as_boxes(boxes), 0.0, np.tile(np.asarray(shape, dtype=np.float64), 2))


def nms(
    boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, threshold: float, weights: ArrayLike | None = None
) -> Integers:
    """Greedy non-maximum suppression within each label.

    Args:
        boxes: [N, 6].
        scores: [N].
        labels: integers [N]; boxes of different labels never suppress each other.
        threshold: a box goes when its IoU with a kept one is above this.
        weights: [N] or None; with them the order is that of ``score * weight`` ("weighted" NMS of nnDetection v0.1).

    Returns:
        Indices of the kept boxes, best first; equal ones in their given order.
    """
    scores = np.asarray(scores, dtype=np.float64)
    rank = scores if weights is None else scores * np.asarray(weights, dtype=np.float64)
    order = np.argsort(-rank, kind="stable")
    starts, others, _ = _worse_neighbours(_as_boxes(boxes)[order], np.asarray(labels)[order], threshold)
    alive = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if alive[i] and starts[i] < starts[i + 1]:
            alive[others[starts[i] : starts[i + 1]]] = False
    return order[alive]


def weighted_box_clustering(
    boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, weights: ArrayLike, threshold: float, n_models: int
) -> tuple[Floats, Floats, Integers]:
    """Merges the boxes of several models, class by class (weighted box clustering of nnDetection v0.1).

    The best remaining box and all remaining ones of IoU > ``threshold`` with it form a cluster. With
    ``w = IoU to the best * weight``, the score is ``sum(w s) / (sum(w) + max(0, n_models - found) * mean(w))``, so that
    boxes only few models see lose score, and the box is ``sum(w s box) / sum(w s)``.

    Args:
        boxes: [N, 6], scores: [N], labels: integers [N], weights: [N] (1 at the centre of a tile).
        threshold: IoU that a member exceeds.
        n_models: predictions expected per object (models x mirrors).

    Returns:
        boxes [K, 6], scores [K] descending, labels [K]. Clusters whose score or weight is 0 are left out.
    """
    boxes, scores, labels = _as_boxes(boxes), np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    order = np.argsort(-scores, kind="stable")
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    weights = np.asarray(weights, dtype=np.float64)[order]
    best, overlap = _clusters(boxes, labels, threshold)

    size = len(order)
    weights = weights * overlap
    found = np.bincount(best, minlength=size)
    weight_sum = np.bincount(best, weights=weights, minlength=size)
    evidence = np.bincount(best, weights=weights * scores, minlength=size)
    keep = np.flatnonzero(evidence > 0)
    missing = np.maximum(0, n_models - found[keep])
    merged_scores = evidence[keep] / (weight_sum[keep] + missing * weight_sum[keep] / found[keep])
    sums = [np.bincount(best, weights=weights * scores * boxes[:, side], minlength=size)[keep] for side in range(6)]
    merged_boxes = np.stack(sums, axis=1) / evidence[keep, None]
    descending = np.argsort(-merged_scores, kind="stable")
    return merged_boxes[descending], merged_scores[descending], labels[keep][descending]


def _clusters(boxes: Floats, labels: Integers, threshold: float) -> tuple[Integers, Floats]:
    """Boxes in descending order of score -> index of the best box of each one's cluster, and its IoU with that one."""
    starts, others, overlaps = _worse_neighbours(boxes, labels, threshold)
    best = np.full(len(boxes), -1, dtype=np.int64)
    # The best box is a member of its own cluster even if it has no volume (IoU 0 with itself).
    to_best = (volume(boxes) > 0).astype(np.float64)
    for i in range(len(boxes)):
        if best[i] >= 0:
            continue
        best[i] = i
        members = others[starts[i] : starts[i + 1]]
        if members.size:
            free = best[members] < 0
            best[members[free]] = i
            to_best[members[free]] = overlaps[starts[i] : starts[i + 1]][free]
    return best, to_best


def _worse_neighbours(boxes: Floats, labels: NDArray, threshold: float) -> tuple[list[int], Integers, Floats]:
    """The pairs of one label with IoU > ``threshold``, by their better (earlier) box.

    Returns:
        starts (N + 1 offsets), others, overlaps: ``others[starts[i]:starts[i + 1]]`` are the later boxes that overlap box i.
    """
    blocks = [
        _overlapping(boxes, first, second, threshold) for first, second in _candidate_pairs(boxes, np.asarray(labels))
    ]
    first, second, overlaps = (
        [np.concatenate(part) for part in zip(*blocks, strict=True)]
        if blocks
        else [np.empty(0, np.int64)] * 2 + [np.empty(0)]
    )
    order = np.argsort(first * len(boxes) + second)
    starts = np.concatenate([[0], np.cumsum(np.bincount(first, minlength=len(boxes)))]).tolist()
    return starts, second[order], overlaps[order]


def _candidate_pairs(boxes: Floats, labels: NDArray) -> Iterator[tuple[Integers, Integers]]:
    """Sweep and prune: every pair of one label whose extents meet on one axis, the axis that leaves the fewest pairs."""
    if len(boxes) < 2:
        return
    _, group = np.unique(labels, return_inverse=True)
    # Labels are laid side by side on the axis, a gap between them, so that one sweep serves all and no pair mixes two;
    # only this search sees the shifted values.
    shift = group[:, None] * (boxes[:, 3:].max(axis=0) - boxes[:, :3].min(axis=0) + 1.0)
    low, high = boxes[:, :3] + shift, boxes[:, 3:] + shift
    order = np.argsort(low, axis=0)
    last = [np.searchsorted(low[order[:, axis], axis], high[order[:, axis], axis], "right") for axis in range(3)]
    axis = int(np.argmin([ends.sum() for ends in last]))
    by_start = order[:, axis]
    counts = np.maximum(last[axis] - np.arange(len(boxes)) - 1, 0)
    total = np.cumsum(counts)
    begin = 0
    while begin < len(boxes):
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _CANDIDATES_PER_BLOCK, "right")))
        rows = np.repeat(np.arange(begin, end), counts[begin:end])
        within = np.arange(len(rows)) - np.repeat(total[begin:end] - counts[begin:end] - before, counts[begin:end])
        a, b = by_start[rows], by_start[rows + 1 + within]
        yield np.minimum(a, b), np.maximum(a, b)
        begin = end


def _overlapping(
    boxes: Floats, first: Integers, second: Integers, threshold: float
) -> tuple[Integers, Integers, Floats]:
    """The pairs among the given ones with IoU > ``threshold``, and their IoU."""
    intersection = np.ones(len(first))
    for axis in range(3):
        overlap = np.minimum(boxes[first, axis + 3], boxes[second, axis + 3])
        overlap -= np.maximum(boxes[first, axis], boxes[second, axis])
        meet = overlap > 0
        first, second, intersection = first[meet], second[meet], intersection[meet] * overlap[meet]
    volumes = volume(boxes)
    overlaps = intersection / (volumes[first] + volumes[second] - intersection)
    above = overlaps > threshold
    return first[above], second[above], overlaps[above]


def _as_boxes(boxes: ArrayLike) -> Floats:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
