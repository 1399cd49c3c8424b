"""Average precision of one class: COCO's 101-point interpolation, in float64 throughout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RECALL_POINTS = np.linspace(0.0, 1.0, 101)


def average_precision(
    scores: NDArray[np.float64],
    true_positive: NDArray[np.bool_],
    false_positive: NDArray[np.bool_],
    objects: int,
) -> NDArray[np.float64]:
    """AP at each IoU threshold, as nnDetection v0.1 and COCO define it.

    Detections are pooled over images in the order given and sorted by score (stable). Precision is made non-increasing
    and read at 101 recall values, each at the first detection that reaches it; a recall that is never reached counts 0.

    Args:
        scores: [N].
        true_positive, false_positive: [T, N]; a detection on an ignored object is neither.
        objects: number of objects to be found, > 0.

    Returns:
        [T].
    """
    order = np.argsort(-scores, kind="stable")
    tp = np.cumsum(true_positive[:, order], axis=1, dtype=np.float64)
    fp = np.cumsum(false_positive[:, order], axis=1, dtype=np.float64)
    recall = tp / objects
    precision = tp / np.maximum(tp + fp, 1.0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.hstack([envelope, np.zeros((len(envelope), 1))])
    first = [np.searchsorted(row, RECALL_POINTS, side="left") for row in recall]
    return np.array([row[index].mean() for row, index in zip(padded, first, strict=True)])
