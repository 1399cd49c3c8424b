"""nnDetection's empirical choice of the post-processing: one parameter after another, the best value kept (v0.1, sweeper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.ensemble import Candidates, PostProcessing, cluster, within_models
from detpretrain.evaluation.matching import MatchedCase, match_case
from detpretrain.evaluation.metrics import mean_average_precision

_IOUS = (1e-5, 0.1, 0.2, 0.3, 0.4, 0.5)
# Order and values as in nnDetection: 28 evaluations; the first of equally good values wins.
GRID: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "model_iou": _IOUS,
        "model_nms": ("weighted", "plain"),
        "ensemble_iou": _IOUS,
        "score_threshold": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        "min_size": (0.01, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0),
    }
)


@dataclass(frozen=True)
class SweepCase:
    """A held-out image: what the models of its fold predicted, and the truth, in preprocessed coordinates.

    Attributes:
        image_id: name of the case.
        candidates: all boxes.
        n_models: (fold, mirror) pairs that predicted.
        shape: of the preprocessed array.
        gt_boxes: [G, 6], gt_labels: [G], gt_ignore: [G].
    """

    image_id: str
    candidates: Candidates
    n_models: int
    shape: tuple[int, int, int]
    gt_boxes: NDArray
    gt_labels: NDArray
    gt_ignore: NDArray


@dataclass(frozen=True)
class Trial:
    """One evaluation of a sweep: the settings and their mAP over IoU 0.10 .. 0.50."""

    parameter: str
    post: PostProcessing
    mean_average_precision: float


def sweep(
    cases: Sequence[SweepCase],
    num_classes: int,
    start: PostProcessing | None = None,
    trials: list[Trial] | None = None,
) -> PostProcessing:
    """The post-processing of the greedy sweep over ``GRID`` on ``cases``.

    Args:
        start: the values of what is not swept yet; nnDetection's defaults if None.
        trials: receives every evaluation, in order.

    Returns:
        The best settings; ``start`` if the cases have no object, because nothing can be told then.
    """
    return _Sweeper(cases, num_classes).run(range(len(cases)), start or PostProcessing(), trials)


def cross_fit(
    cases: Sequence[SweepCase],
    folds: Sequence[int],
    num_classes: int,
    start: PostProcessing | None = None,
    trials: dict[int, list[Trial]] | None = None,
) -> dict[int, PostProcessing]:
    """For each fold what is best on the OTHER folds' cases, so that no case is scored with settings chosen on itself.

    Args:
        folds: fold of each case, at least two different ones.
        trials: receives the evaluations of each fold.
    """
    if len(folds) != len(cases):
        raise ValueError(f"{len(folds)} folds for {len(cases)} cases")
    if len(set(folds)) < 2:
        raise ValueError("cross-fitting takes at least two folds: sweep a validation part instead")
    sweeper = _Sweeper(cases, num_classes)
    chosen = {}
    for fold in sorted(set(folds)):
        others = [index for index, own in enumerate(folds) if own != fold]
        log = None if trials is None else trials.setdefault(fold, [])
        chosen[fold] = sweeper.run(others, start or PostProcessing(), log)
    return chosen


def faithful(
    cases: Sequence[SweepCase], folds: Sequence[int], num_classes: int, start: PostProcessing | None = None
) -> dict[int, PostProcessing]:
    """nnDetection's way: one sweep on all folds' held-out cases, used for the very same cases (optimistic)."""
    return dict.fromkeys(sorted(set(folds)), sweep(cases, num_classes, start))


class _Sweeper:
    """Several sweeps over the same cases share what they compute."""

    def __init__(self, cases: Sequence[SweepCase], num_classes: int) -> None:
        self._cases = cases
        self._num_classes = num_classes
        self._matched: dict[tuple[int, PostProcessing], MatchedCase] = {}
        # The last first stage of each case: a step of the sweep over ensemble_iou needs no other.
        self._within: dict[int, tuple[PostProcessing, Candidates]] = {}

    def run(self, chosen: Sequence[int], start: PostProcessing, trials: list[Trial] | None) -> PostProcessing:
        if not any(np.any(~np.asarray(self._cases[index].gt_ignore, dtype=bool)) for index in chosen):
            return start
        best = start
        for parameter, values in GRID.items():
            tried = [replace(best, **{parameter: value}) for value in values]
            results = [self._objective(chosen, post) for post in tried]
            if trials is not None:
                trials += [Trial(parameter, post, result) for post, result in zip(tried, results, strict=True)]
            best = tried[int(np.argmax(results))]
        return best

    def _objective(self, chosen: Sequence[int], post: PostProcessing) -> float:
        return mean_average_precision([self._match(index, post) for index in chosen], self._num_classes)

    def _match(self, index: int, post: PostProcessing) -> MatchedCase:
        key = (index, post)
        if key not in self._matched:
            case = self._cases[index]
            boxes, scores, labels = cluster(self._within_models(index, post), case.n_models, post)
            truth = (case.gt_boxes, case.gt_labels, case.gt_ignore)
            self._matched[key] = match_case(Case(case.image_id, *truth, boxes, labels, scores))
        return self._matched[key]

    def _within_models(self, index: int, post: PostProcessing) -> Candidates:
        first_stage = replace(post, ensemble_iou=0.0)
        if index not in self._within or self._within[index][0] != first_stage:
            case = self._cases[index]
            self._within[index] = first_stage, within_models(case.candidates, case.shape, post)
        return self._within[index][1]
