"""Parts of a row that are scored by themselves: the objects of one class, or of one third by size.

The matching stays as it is, only what counts changes. Objects of another size count as ignored ones do, with the detections
that found them. A detection that found nothing counts, for AP, where its own size belongs (COCO's rule for areas, Lin et al.
2014): a detector whose boxes are too large is spared false positives among the small. For FROC it counts in every third, so that
sensitivities of all thirds are those at the same scores, and their mean over objects is the sensitivity of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.matching import MatchedCase

SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class SizeLimits:
    """The thirds of a data set's objects by size, the cube root of the box volume in mm: ``small <= low < medium <= high``."""

    low: float
    high: float

    @staticmethod
    def of(cases: Sequence[Case]) -> SizeLimits | None:
        """Limits between the thirds of the objects that count; None with fewer than three different sizes."""
        sizes = np.concatenate([sizes_of(case.gt_boxes)[~np.asarray(case.gt_ignore, bool)] for case in cases])
        if len(np.unique(sizes)) < len(SIZES):
            return None
        low, high = np.quantile(sizes, [1 / 3, 2 / 3], method="lower")
        return SizeLimits(float(low), float(high)) if low < high < sizes.max() else None

    def third(self, sizes: NDArray[np.float64]) -> NDArray[np.int64]:
        """Index into ``SIZES`` of each size."""
        return np.searchsorted([self.low, self.high], sizes, side="left")


def sizes_of(boxes: NDArray) -> NDArray[np.float64]:
    """Cube roots of the volumes of boxes [N, 6]."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
    return np.cbrt(np.maximum(boxes[:, 3:] - boxes[:, :3], 0).prod(axis=1))


def of_class(case: MatchedCase, label: int) -> MatchedCase:
    """The objects and detections of one class alone."""
    objects, detections = case.object_labels == label, case.labels == label
    place = np.append(np.cumsum(objects) - 1, -1)
    return replace(
        case,
        labels=case.labels[detections],
        scores=case.scores[detections],
        source=case.source[detections],
        truth=place[case.truth[:, detections]],
        iou=case.iou[:, detections],
        object_labels=case.object_labels[objects],
        object_ignored=case.object_ignored[objects],
    )


def objects_of_size(matched: MatchedCase, case: Case, limits: SizeLimits, third: int) -> MatchedCase:
    """The objects of one third by size, and every false positive; ``case`` holds the boxes of ``matched`` in mm."""
    elsewhere = limits.third(sizes_of(case.gt_boxes)) != third
    return replace(matched, object_ignored=matched.object_ignored | elsewhere)


def of_size(matched: MatchedCase, case: Case, limits: SizeLimits, third: int) -> MatchedCase:
    """The objects of one third by size, and the false positives of that size."""
    matched = objects_of_size(matched, case, limits, third)
    foreign = limits.third(sizes_of(case.pred_boxes)) != third
    # one more ignored object takes the detections that found nothing and are of another size
    nowhere = len(matched.object_labels)
    return replace(
        matched,
        truth=np.where((matched.truth < 0) & foreign, nowhere, matched.truth),
        object_labels=np.append(matched.object_labels, 0),
        object_ignored=np.append(matched.object_ignored, True),
    )
