"""FROC of one row for many weightings of its patients at once: sensitivities at 1/8 .. 8 false positives per image.

As for the average precision (``pooled_ap``): what matched what does not change when patients are drawn again, only how often it
counts. Between two scores at which something is found, the curve runs flat, so that a draw costs three products with
[patients, hits] matrices. Whole-number weights give the FROC of the drawn multiset of patients, ties and rounding included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detpretrain.comparison.pooled_ap import CHUNK_ELEMENTS
from detpretrain.evaluation.froc import FPPI
from detpretrain.evaluation.matching import MatchedCase


@dataclass(frozen=True)
class Marks:
    """The scored detections of one case, all classes together, each a hit or a false positive.

    Attributes:
        found: scores of the hits.
        false_positives: scores of the false positives.
        objects: how many there are to be found.
    """

    found: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    objects: int


def marks_by_iou(case: MatchedCase, threshold: int) -> Marks:
    """``threshold``: row of ``matching.IOU_THRESHOLDS``; detections on ignored objects are neither."""
    return Marks(
        case.scores[case.true_positive[threshold]],
        case.scores[case.false_positive[threshold]],
        int(np.count_nonzero(~case.object_ignored)),
    )


@dataclass(frozen=True)
class PooledFROC:
    """The curve of one row as a function of its patients' weights, step by step: the origin, then each score of a hit, falling.

    Attributes:
        images, objects, false_positives: [patients].
        hits: found with at least the step's score [patients, 1 + K].
        before, after: false positives above it, and at or above it [patients, 1 + K].
    """

    images: NDArray[np.float64]
    objects: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    hits: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]

    @staticmethod
    def of_cases(marks: Sequence[Marks], patient: Sequence[int]) -> PooledFROC:
        """``patient`` [cases]: number of each case's patient, 0 .. n - 1."""
        patient = np.asarray(patient, dtype=np.int64)
        n_patients = int(patient.max()) + 1
        found = np.concatenate([case.found for case in marks])
        wrong = np.concatenate([case.false_positives for case in marks])
        found_by = np.repeat(patient, [len(case.found) for case in marks])
        wrong_by = np.repeat(patient, [len(case.false_positives) for case in marks])
        levels = -np.unique(found)[::-1]  # negated scores of hits, ascending

        def up_to(place: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
            counts = np.zeros((n_patients, len(levels) + 1))
            np.add.at(counts, (owner, place), 1.0)
            return np.pad(counts[:, :-1].cumsum(axis=1), ((0, 0), (1, 0)))

        return PooledFROC(
            images=np.bincount(patient, minlength=n_patients).astype(np.float64),
            objects=np.bincount(patient, [case.objects for case in marks], n_patients),
            false_positives=np.bincount(wrong_by, minlength=n_patients).astype(np.float64),
            hits=up_to(np.searchsorted(levels, -found), found_by),
            before=up_to(np.searchsorted(levels, -wrong, side="right"), wrong_by),
            after=up_to(np.searchsorted(levels, -wrong, side="left"), wrong_by),
        )

    def __call__(self, weights: NDArray) -> NDArray[np.float64]:
        """Sensitivities of each draw [R, 7] for ``weights`` [R, patients]; NaN where a draw holds no object."""
        weights = np.asarray(weights, dtype=np.float64)
        if weights.ndim != 2 or weights.shape[1] != len(self.images):
            raise ValueError(f"weights have shape {weights.shape}, expected [draws, {len(self.images)}]")
        return np.concatenate([self._sensitivities(chunk) for chunk in self._chunks(weights)])

    def _chunks(self, weights: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        rows = max(1, CHUNK_ELEMENTS // self.hits.shape[1])
        return (weights[start : start + rows] for start in range(0, len(weights), rows))

    def _sensitivities(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        objects = (weights @ self.objects)[:, None]
        hits, images = weights @ self.hits, (weights @ self.images)[:, None]
        wrong = (weights @ self.false_positives)[:, None]
        sensitivity = _rate(hits, hits[:, -1:], objects)
        before, after = _rate(weights @ self.before, wrong, images), _rate(weights @ self.after, wrong, images)
        draw = np.arange(len(weights))
        columns = []
        for rate in FPPI:
            last = np.count_nonzero(before <= rate, axis=1) - 1  # the last step that begins within the rate
            lower, upper = sensitivity[draw, np.maximum(last - 1, 0)], sensitivity[draw, last]
            start, end = before[draw, last], after[draw, last]
            inside = end > rate  # hits and false positives of one score: a slope
            part = np.divide(rate - start, end - start, out=np.ones(len(draw)), where=inside)
            columns.append(lower + part * (upper - lower))
        return np.where(objects > 0, np.stack(columns, axis=1), np.nan)


def _rate(counts: NDArray[np.float64], most: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """``counts / total`` with the rounding of ``evaluation.froc``, where the last bit decides about a requested rate."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(most > 0, counts / most * most / total, 0.0)
