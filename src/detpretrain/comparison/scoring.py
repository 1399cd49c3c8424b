"""What each row of a data set scores: as a whole, fold by fold, and on every draw of its patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detpretrain.comparison.bootstrap import patient_draws
from detpretrain.comparison.row_metrics import WHOLE, RowMetrics
from detpretrain.comparison.rows import Row, score_folds
from detpretrain.comparison.settings import CompareSettings
from detpretrain.comparison.subsets import SizeLimits
from detpretrain.evaluation import matches


@dataclass(frozen=True)
class Score:
    """One metric of a part of a row; NaN = not defined.

    Attributes:
        value: of all patients.
        folds: of the patients of each fold, in the order of ``ScoredRow.folds`` [F].
        draws: of each draw of patients [R]; all NaN with a single patient, where no width would look like certainty.
    """

    value: float
    folds: NDArray[np.float64]
    draws: NDArray[np.float64]


@dataclass(frozen=True)
class ScoredRow:
    """``scores``: part -> metric -> score; ``folds``: one line per fold with the evaluation's metrics and counts."""

    row: Row
    scores: Mapping[str, Mapping[str, Score]]
    folds: pd.DataFrame

    @property
    def whole(self) -> Mapping[str, Score]:
        return self.scores[WHOLE]


def score_group(group: Sequence[Row], settings: CompareSettings) -> list[ScoredRow]:
    """Scores rows of the same cases on the same draws of their patients."""
    n_patients = int(group[0].patient_numbers.max()) + 1
    name = f"{group[0].key.dataset}/{group[0].key.test_set}"
    draws = patient_draws(n_patients, settings.resamples, settings.seed, name)
    limits = SizeLimits.of(matches.cases(group[0].table))
    return [_scored(row, RowMetrics.of_row(row, limits), draws) for row in group]


def _scored(row: Row, metrics: RowMetrics, draws: NDArray[np.float64]) -> ScoredRow:
    n_patients = draws.shape[1]
    folds = score_folds(row)
    members = _members(row, folds["fold"].tolist(), n_patients)
    found = metrics(np.concatenate([np.ones((1, n_patients)), members, draws]))
    scores = {
        part: {metric: _score(values, len(members), n_patients) for metric, values in of_part.items()}
        for part, of_part in found.items()
    }
    return ScoredRow(row, scores, folds)


def _score(values: NDArray[np.float64], folds: int, n_patients: int) -> Score:
    draws = values[1 + folds :]
    return Score(float(values[0]), values[1 : 1 + folds], np.full_like(draws, np.nan) if n_patients == 1 else draws)


def _members(row: Row, folds: Sequence[int], n_patients: int) -> NDArray[np.float64]:
    """Weights [F, patients] that count the patients of one fold."""
    members = np.zeros((len(folds), n_patients))
    for place, fold in enumerate(folds):
        chosen = (row.case_lines["fold"] == fold).fillna(False).to_numpy(bool)
        members[place, row.patient_numbers[chosen]] = 1
    return members
