"""Which detection finds which object: COCO's greedy matching per image and class, as nnDetection v0.1 does it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detpretrain import boxes
from detpretrain.evaluation.cases import Case

IOU_THRESHOLDS = np.linspace(0.1, 0.5, 9)
MAX_DETECTIONS = 100


@dataclass(frozen=True)
class MatchedCase:
    """One image after matching: the 100 best detections of each class, by class and descending score.

    Attributes:
        image_id: name of the case.
        labels: class of each detection [D].
        scores: [D].
        source: index of each detection in the case's own list [D].
        truth: index of the object it found at each IoU threshold [T, D], -1 for none.
        iou: IoU with that object [T, D], 0 for none.
        object_labels: class of each object [G].
        object_ignored: [G].
    """

    image_id: str
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    source: NDArray[np.int64]
    truth: NDArray[np.int64]
    iou: NDArray[np.float64]
    object_labels: NDArray[np.int64]
    object_ignored: NDArray[np.bool_]

    @property
    def true_positive(self) -> NDArray[np.bool_]:
        """[T, D]: found an object that counts. A detection on an ignored object is neither this nor a false positive."""
        return (self.truth >= 0) & ~self._on_ignored

    @property
    def false_positive(self) -> NDArray[np.bool_]:
        """[T, D]: found nothing."""
        return self.truth < 0

    @property
    def _on_ignored(self) -> NDArray[np.bool_]:
        return np.append(self.object_ignored, False)[self.truth]


def match_case(
    case: Case, thresholds: NDArray[np.float64] = IOU_THRESHOLDS, max_detections: int = MAX_DETECTIONS
) -> MatchedCase:
    """Matches each class of an image by itself.

    Detections in descending order of score (equal ones as given), at most ``max_detections`` of a class; each takes the
    free object of highest IoU >= threshold, the later one among equals; an ignored object only if no other fits, and each
    ignored object takes one detection.
    """
    gt_labels = np.asarray(case.gt_labels, dtype=np.int64)
    ignored = np.asarray(case.gt_ignore, dtype=bool)
    pred_labels = np.asarray(case.pred_labels, dtype=np.int64)
    scores = np.asarray(case.pred_scores, dtype=np.float64)
    sources, truths, overlaps = [], [], []
    for label in np.unique(pred_labels):
        mine = np.flatnonzero(pred_labels == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")[:max_detections]]
        objects = np.flatnonzero(gt_labels == label)
        iou = boxes.iou(np.asarray(case.pred_boxes)[mine], np.asarray(case.gt_boxes)[objects])
        found = match_greedily(iou, ignored[objects], thresholds)
        sources.append(mine)
        truths.append(np.append(objects, -1)[found])
        overlaps.append(np.hstack([iou, np.zeros((len(mine), 1))])[np.arange(len(mine)), found])
    source = np.concatenate([np.empty(0, np.int64), *sources])
    return MatchedCase(
        image_id=case.image_id,
        labels=pred_labels[source],
        scores=scores[source],
        source=source,
        truth=np.concatenate([np.empty((len(thresholds), 0), np.int64), *truths], axis=1),
        iou=np.concatenate([np.empty((len(thresholds), 0)), *overlaps], axis=1),
        object_labels=gt_labels,
        object_ignored=ignored,
    )


def match_greedily(
    iou: NDArray[np.float64], ignored: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Greedy matching of sorted detections at all thresholds at once.

    Args:
        iou: detections (best first) x objects [D, G].
        ignored: [G].
        thresholds: [T].

    Returns:
        Index of the object each detection takes [T, D], -1 for none.
    """
    count, objects = iou.shape
    found = np.full((len(thresholds), count), -1, dtype=np.int64)
    if not objects:
        return found
    # A threshold of 1 admits IoU up to rounding, as in COCO.
    minimum = np.minimum(thresholds, 1 - 1e-10)[:, None]
    free = np.ones((len(thresholds), objects), dtype=bool)
    for detection in np.flatnonzero(iou.max(axis=1) >= minimum.min()):
        fits = free & (iou[detection] >= minimum)
        regular = fits & ~ignored
        eligible = np.where(regular.any(axis=1, keepdims=True), regular, fits)
        # argmax takes the first of equals: the reversed view makes that the last.
        best = objects - 1 - np.argmax(np.where(eligible, iou[detection], -1.0)[:, ::-1], axis=1)
        hit = np.flatnonzero(eligible.any(axis=1))
        found[hit, detection] = best[hit]
        free[hit, best[hit]] = False
    return found
