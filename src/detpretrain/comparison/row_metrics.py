"""Every reported metric of a row as a function of how often each of its patients counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detpretrain.comparison.centre_marks import marks_by_centre
from detpretrain.comparison.pooled_ap import PooledAP
from detpretrain.comparison.pooled_froc import Marks, PooledFROC, marks_by_iou
from detpretrain.comparison.rows import Row, summarise_ap
from detpretrain.comparison.subsets import SIZES, SizeLimits, objects_of_size, of_class, of_size
from detpretrain.evaluation import matches
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.froc import FPPI
from detpretrain.evaluation.matching import MatchedCase
from detpretrain.evaluation.metrics import SINGLE_THRESHOLDS

WHOLE = "all"  # the part that is the whole row

Metrics = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class RowMetrics:
    """Call with weights [R, patients] -> part -> metric -> values [R].

    Parts: ``all`` with the APs, the FROC score and sensitivities at IoU 0.10, the FROC score at 0.50 and the centre score
    (``CPM``); ``class C`` where there are several classes and ``small``, ``medium``, ``large`` (``subsets``), without CPM.
    """

    parts: Mapping[str, Callable[[NDArray], Metrics]]

    @staticmethod
    def of_row(row: Row, limits: SizeLimits | None) -> RowMetrics:
        """``limits``: of the data set, the same for every row; None: no parts by size."""
        cases, boxes, patient = row.cases, matches.cases(row.table), row.patient_numbers
        parts = {WHOLE: _Part.of(cases, cases, boxes, patient)}
        classes = np.unique(np.concatenate([case.object_labels[~case.object_ignored] for case in cases]))
        if len(classes) > 1:
            for label in classes:
                of_label = [of_class(case, label) for case in cases]
                parts[f"class {label}"] = _Part.of(of_label, of_label, None, patient)
        if limits is not None:
            for third, name in enumerate(SIZES):
                for_ap, for_froc = (
                    [count(case, box, limits, third) for case, box in zip(cases, boxes, strict=True)]
                    for count in (of_size, objects_of_size)
                )
                parts[name] = _Part.of(for_ap, for_froc, None, patient)
        return RowMetrics(parts)

    def __call__(self, weights: NDArray) -> dict[str, Metrics]:
        return {name: part(weights) for name, part in self.parts.items()}


@dataclass(frozen=True)
class _Part:
    ap: PooledAP
    froc: Mapping[str, PooledFROC]

    @staticmethod
    def of(
        for_ap: Sequence[MatchedCase],
        for_froc: Sequence[MatchedCase],
        boxes: Sequence[Case] | None,
        patient: NDArray[np.int64],
    ) -> _Part:
        marks: dict[str, list[Marks]] = {
            f"FROC@{name}": [marks_by_iou(case, row) for case in for_froc] for name, row in SINGLE_THRESHOLDS.items()
        }
        if boxes is not None:
            marks["CPM"] = [marks_by_centre(case) for case in boxes]
        froc = {name: PooledFROC.of_cases(found, patient) for name, found in marks.items()}
        return _Part(PooledAP.of_cases(for_ap, patient), froc)

    def __call__(self, weights: NDArray) -> Metrics:
        found = dict(summarise_ap(self.ap(weights)))
        for name, curve in self.froc.items():
            sensitivity = curve(weights)
            found[name] = sensitivity.mean(axis=1)
            if name == "FROC@0.10":
                found |= {f"sensitivity@{rate:g}": sensitivity[:, place] for place, rate in enumerate(FPPI)}
        return found
