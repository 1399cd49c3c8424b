"""The metrics of a set of cases, as ``detpretrain evaluate`` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detpretrain.evaluation import froc
from detpretrain.evaluation.average_precision import average_precision
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.matching import MAX_DETECTIONS, MatchedCase, match_case

AbsentClass = Literal["exclude", "zero", "nndetection"]
MEAN_AP = "mAP@0.10:0.50"
# Rows of IOU_THRESHOLDS that are reported by themselves.
SINGLE_THRESHOLDS = {"0.10": 0, "0.50": 8}


def evaluate(cases: Iterable[Case], num_classes: int, absent_class: AbsentClass = "exclude") -> dict[str, Any]:
    """AP and FROC of detections, by the rules of nnDetection v0.1 in float64, at most 100 detections per image and class.

    ``absent_class`` says what a class without objects (ignored ones do not count) does: ``exclude`` leaves it out of the
    means and gives it null (a set without any object has null for every AP and FROC); ``zero`` counts its AP as 0;
    ``nndetection`` counts it as -1, as nnDetection does. Sensitivity without objects is 0 in the last two.

    Args:
        cases: every image of the set, those without objects or detections too.
        num_classes: classes are 0 .. num_classes - 1.

    Returns:
        ``{"mAP@0.10:0.50", "AP@0.10", "AP@0.50", "FROC@0.10": {"fppi", "sensitivity", "score"}, "FROC@0.50",
        "per_class": {"0": {the same}}, "counts"}``, free of NaN. FROC pools the classes. ``counts`` speak of the
        detections that were scored.
    """
    return evaluate_matched([match_case(case) for case in cases], num_classes, absent_class)


def evaluate_matched(
    cases: Sequence[MatchedCase], num_classes: int, absent_class: AbsentClass = "exclude"
) -> dict[str, Any]:
    """``evaluate`` for cases that are matched already, from a matches table for example."""
    _check(cases, num_classes, absent_class)
    pool = _Pool(cases)
    aps = [pool.average_precision(label) for label in range(num_classes)]
    classes = {
        str(label): {
            **_average_precisions([aps[label]], absent_class),
            **pool.frocs(label, absent_class),
            "counts": pool.counts(label),
        }
        for label in range(num_classes)
    }
    return {
        **_average_precisions(aps, absent_class),
        **pool.frocs(None, absent_class),
        "per_class": classes,
        "counts": {"images": len(cases), "max_detections_per_image_and_class": MAX_DETECTIONS, **pool.counts(None)},
    }


def mean_average_precision(
    cases: Sequence[MatchedCase], num_classes: int, absent_class: AbsentClass = "exclude"
) -> float | None:
    """mAP over IoU 0.10 .. 0.50 alone: what the sweep maximises. None as in ``evaluate``."""
    _check(cases, num_classes, absent_class)
    pool = _Pool(cases)
    return _average_precisions([pool.average_precision(label) for label in range(num_classes)], absent_class)[MEAN_AP]


class _Pool:
    """All detections and objects of a set, images one after another."""

    def __init__(self, cases: Sequence[MatchedCase]) -> None:
        self.images = len(cases)
        self.labels = np.concatenate([case.labels for case in cases])
        self.scores = np.concatenate([case.scores for case in cases])
        self.hit = np.concatenate([case.true_positive for case in cases], axis=1)
        self.miss = np.concatenate([case.false_positive for case in cases], axis=1)
        self.object_labels = np.concatenate([case.object_labels for case in cases])
        self.object_ignored = np.concatenate([case.object_ignored for case in cases])

    def objects(self, label: int | None) -> int:
        return int(np.count_nonzero(self._own_objects(label) & ~self.object_ignored))

    def average_precision(self, label: int) -> NDArray[np.float64] | None:
        """[T], None for a class without objects."""
        own, objects = self._own(label), self.objects(label)
        if not objects:
            return None
        return average_precision(self.scores[own], self.hit[:, own], self.miss[:, own], objects)

    def frocs(self, label: int | None, absent_class: AbsentClass) -> dict[str, Any]:
        own, objects = self._own(label), self.objects(label)
        curves = {}
        for name, row in SINGLE_THRESHOLDS.items():
            if objects:
                counted = own & (self.hit[row] | self.miss[row])
                values = froc.sensitivity_at(
                    self.scores[counted], self.hit[row, counted], self.images, objects
                ).tolist()
            else:
                values = [None if absent_class == "exclude" else 0.0] * len(froc.FPPI)
            score = None if None in values else float(np.mean(values))
            curves[f"FROC@{name}"] = {"fppi": list(froc.FPPI), "sensitivity": values, "score": score}
        return curves

    def counts(self, label: int | None) -> dict[str, int]:
        own, own_objects = self._own(label), self._own_objects(label)
        found = {
            f"true_positives@{name}": int(np.count_nonzero(self.hit[row, own]))
            for name, row in SINGLE_THRESHOLDS.items()
        }
        return {
            "objects": self.objects(label),
            "ignored_objects": int(np.count_nonzero(own_objects & self.object_ignored)),
            "detections": int(np.count_nonzero(own)),
            **found,
        }

    def _own(self, label: int | None) -> NDArray[np.bool_]:
        return np.ones(len(self.labels), dtype=bool) if label is None else self.labels == label

    def _own_objects(self, label: int | None) -> NDArray[np.bool_]:
        return np.ones(len(self.object_labels), dtype=bool) if label is None else self.object_labels == label


def _average_precisions(aps: list[NDArray[np.float64] | None], absent_class: AbsentClass) -> dict[str, float | None]:
    stand_in = {"exclude": None, "zero": 0.0, "nndetection": -1.0}[absent_class]
    if stand_in is None:
        present = [ap for ap in aps if ap is not None]
        if not present:
            return dict.fromkeys([MEAN_AP, *(f"AP@{name}" for name in SINGLE_THRESHOLDS)])
    else:
        length = next((len(ap) for ap in aps if ap is not None), 1 + max(SINGLE_THRESHOLDS.values()))
        present = [np.full(length, stand_in) if ap is None else ap for ap in aps]
    mean = np.mean(present, axis=0)
    return {MEAN_AP: float(mean.mean()), **{f"AP@{name}": float(mean[row]) for name, row in SINGLE_THRESHOLDS.items()}}


def _check(cases: Sequence[MatchedCase], num_classes: int, absent_class: AbsentClass) -> None:
    if absent_class not in get_args(AbsentClass):
        raise ValueError(f"absent_class is {absent_class!r}: use one of {', '.join(get_args(AbsentClass))}")
    if not cases:
        raise ValueError("a set of cases is empty: there is nothing to score")
    for case in cases:
        labels = np.concatenate([case.labels, case.object_labels])
        if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(f"case {case.image_id}: classes go beyond 0 .. {num_classes - 1}")
