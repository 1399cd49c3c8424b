"""FROC: sensitivity against false positives per image, from a score and a hit flag per detection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FPPI = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def curve(
    scores: NDArray[np.float64], hit: NDArray[np.bool_], images: int, objects: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The FROC curve from (0, 0): one point for each distinct score.

    Args:
        scores: [N]; equal scores enter together, so that their order does not matter.
        hit: [N], True for a detection that found an object, False for a false positive.
        images: all images, those without objects included.
        objects: number of objects to be found, > 0.

    Returns:
        False positives per image [P] and sensitivity [P], both non-decreasing.
    """
    if not len(scores):
        return np.zeros(1), np.zeros(1)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_score = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    tp = np.append(0.0, np.cumsum(hit[order], dtype=np.float64)[last_of_score])
    fp = np.append(0.0, np.cumsum(~hit[order], dtype=np.float64)[last_of_score])
    return _rounded_like_roc(fp, images), _rounded_like_roc(tp, objects)


def sensitivity_at(
    scores: NDArray[np.float64], hit: NDArray[np.bool_], images: int, objects: int
) -> NDArray[np.float64]:
    """Sensitivity [7] at 1/8 .. 8 false positives per image: linear between the points of ``curve``, its last value after.

    Without any hit it is 0 (nnDetection v0.1 gives NaN). Where the curve is vertical the upper end counts.
    """
    fppi, sensitivity = curve(scores, hit, images, objects)
    return np.interp(FPPI, fppi, sensitivity)


def _rounded_like_roc(counts: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """``counts / total``, rounded as by nnDetection and LUNA16, which rescale the rates of a ROC curve.

    The last bit matters: a vertical part of the curve can lie exactly on a requested rate, or 1e-17 beyond it.
    """
    if counts[-1] == 0:
        return counts
    return counts / counts[-1] * counts[-1] / total
