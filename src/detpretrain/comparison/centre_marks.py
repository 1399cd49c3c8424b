"""Hits by distance of centres, the criterion of the LUNA16 challenge, for the rows of any data set.

A box stands for a sphere: its radius is half the cube root of the box's volume. On LUNA16 itself the challenge's annotations
decide (``evaluation.luna16``); this score is for intervals and for comparisons within a data set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detpretrain.comparison.pooled_froc import Marks
from detpretrain.comparison.subsets import sizes_of
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.luna16 import Scan, score_scan


def marks_by_centre(case: Case) -> Marks:
    """Hits and false positives of a case with boxes in mm, each class by itself."""
    ignored = np.asarray(case.gt_ignore, dtype=bool)
    classes = np.union1d(case.gt_labels, case.pred_labels)
    results = [score_scan(_scan(case, ignored, label)) for label in classes]
    nothing = np.empty(0)
    return Marks(
        np.concatenate([nothing, *(result.found for result in results)]),
        np.concatenate([nothing, *(result.false_positives for result in results)]),
        int(np.count_nonzero(~ignored)),
    )


def _scan(case: Case, ignored: NDArray[np.bool_], label: int) -> Scan:
    mine = np.asarray(case.gt_labels) == label
    chosen = np.asarray(case.pred_labels) == label
    centres, radii = _centres(case.gt_boxes), sizes_of(case.gt_boxes) / 2
    return Scan(
        nodules=centres[mine & ~ignored],
        radii=radii[mine & ~ignored],
        excluded=centres[mine & ignored],
        excluded_radii=radii[mine & ignored],
        marks=_centres(case.pred_boxes)[chosen],
        scores=np.asarray(case.pred_scores, dtype=np.float64)[chosen],
    )


def _centres(boxes: NDArray) -> NDArray[np.float64]:
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
    return (boxes[:, :3] + boxes[:, 3:]) / 2
