"""Average precision of one row for many weightings of its patients at once.

Matching happens inside a case, so drawing patients again never changes which detection matched which object: it only
changes how often each patient's detections and objects count. The detections are therefore sorted once, and the AP of a
draw follows from cumulative sums weighted with the number of times each patient was drawn.

Precision and recall change upwards at true positives only, so the precision envelope needs nothing but the points there:
a draw costs one product with a [patients, true positives] matrix instead of a walk over all detections. Integer weights
give the metric of the drawn multiset of patients itself (a patient drawn twice counts twice), not an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detpretrain.evaluation.average_precision import RECALL_POINTS
from detpretrain.evaluation.matching import MatchedCase

CHUNK_ELEMENTS = 2_000_000  # of a [draws, true positives] array: stays in the cache's reach and bounds the memory


@dataclass(frozen=True)
class RankedHits:
    """The true positives of one class at one IoU threshold, K of them by falling score, seen per patient.

    Attributes:
        hits: true positives up to the k-th one [patients, K].
        counted: detections up to there, without those on ignored objects [patients, K].
        objects: objects to be found [patients].
    """

    hits: NDArray[np.float64]
    counted: NDArray[np.float64]
    objects: NDArray[np.float64]


@dataclass(frozen=True)
class PooledAP:
    """AP of one row as a function of its patients' weights.

    Attributes:
        n_patients: length of a weighting.
        n_thresholds: IoU thresholds of the matching.
        ranked: ``ranked[c][t]``: the c-th class that has objects, at the t-th threshold.
    """

    n_patients: int
    n_thresholds: int
    ranked: tuple[tuple[RankedHits, ...], ...]

    @staticmethod
    def of_cases(cases: Sequence[MatchedCase], patient: Sequence[int]) -> PooledAP:
        """Prepares the matched cases of ONE row and test set, at least one.

        ``patient`` [cases]: number of each case's patient, 0 .. n - 1. With a number per case instead, the cases are what
        is weighted. Equal scores keep the order of the cases, as in the evaluation, and the copies of a detection whose
        patient counts several times stay together.
        """
        patient = np.asarray(patient, dtype=np.int64)
        n_patients = int(patient.max()) + 1
        labels = np.concatenate([case.labels for case in cases])
        scores = np.concatenate([case.scores for case in cases])
        hit = np.concatenate([case.true_positive for case in cases], axis=1)
        counted = hit | np.concatenate([case.false_positive for case in cases], axis=1)
        owner = np.repeat(patient, [len(case.labels) for case in cases])
        wanted = np.concatenate([case.object_labels[~case.object_ignored] for case in cases])
        wanted_owner = np.repeat(patient, [np.count_nonzero(~case.object_ignored) for case in cases])
        ranked = []
        for label in np.unique(wanted):
            objects = np.bincount(wanted_owner[wanted == label], minlength=n_patients).astype(np.float64)
            own = np.flatnonzero(labels == label)
            own = own[np.argsort(-scores[own], kind="stable")]
            ranked.append(
                tuple(_ranked_hits(hit[t, own], counted[t, own], owner[own], objects) for t in range(len(hit)))
            )
        return PooledAP(n_patients, len(hit), tuple(ranked))

    def __call__(self, weights: NDArray) -> NDArray[np.float64]:
        """AP of each draw and threshold [R, thresholds]: mean over the classes that have objects in the draw.

        ``weights`` [R, patients]: how often each patient counts. NaN where a draw holds no object at all.
        """
        weights = np.asarray(weights, dtype=np.float64)
        if weights.ndim != 2 or weights.shape[1] != self.n_patients:
            raise ValueError(f"weights have shape {weights.shape}, expected [draws, {self.n_patients}]")
        result = np.full((len(weights), self.n_thresholds), np.nan)
        if not self.ranked:
            return result
        for t in range(self.n_thresholds):
            per_class = np.stack([average_precision(of_class[t], weights) for of_class in self.ranked])
            present = ~np.isnan(per_class)
            with np.errstate(invalid="ignore"):
                result[:, t] = np.where(present, per_class, 0.0).sum(axis=0) / present.sum(axis=0)
        return result


def average_precision(ranked: RankedHits, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """AP [R] of one class at one threshold for ``weights`` [R, patients]; NaN without objects.

    COCO's 101-point AP (Lin et al. 2014) as the evaluation computes it: mean over the recall points of the highest
    precision at that recall or beyond, 0 beyond the final recall.
    """
    objects = weights @ ranked.objects
    result = np.where(objects > 0, 0.0, np.nan)
    n_hits = ranked.hits.shape[1]
    if n_hits == 0:
        return result
    rows = max(1, CHUNK_ELEMENTS // n_hits)
    for start in range(0, len(weights), rows):
        chunk = slice(start, start + rows)
        hits, counted = weights[chunk] @ ranked.hits, weights[chunk] @ ranked.counted
        precision = hits / (counted + np.spacing(1))  # as the evaluation: 0 where nothing was drawn yet
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = np.divide(hits, objects[chunk, None], out=np.zeros_like(hits), where=objects[chunk, None] > 0)
        reached = np.searchsorted(RECALL_POINTS, recall, side="right")
        result[chunk] += (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALL_POINTS)
    return result


def _ranked_hits(
    hit: NDArray[np.bool_], counted: NDArray[np.bool_], owner: NDArray[np.int64], objects: NDArray[np.float64]
) -> RankedHits:
    """``hit``, ``counted``, ``owner`` (patient) [N]: detections of one class by falling score."""
    at_hit = np.flatnonzero(hit)
    n_patients, n_hits = len(objects), len(at_hit)
    hits = np.zeros((n_patients, n_hits))
    hits[owner[at_hit], np.arange(n_hits)] = 1
    # A detection enters the precision at the first true positive that is not ranked before it; behind the last: never.
    valid = np.flatnonzero(counted)
    enters = np.searchsorted(at_hit, valid, side="left")
    valid, enters = valid[enters < n_hits], enters[enters < n_hits]
    entered = np.bincount(owner[valid] * n_hits + enters, minlength=n_patients * n_hits).reshape(n_patients, n_hits)
    return RankedHits(hits.cumsum(axis=1), entered.astype(np.float64).cumsum(axis=1), objects)
