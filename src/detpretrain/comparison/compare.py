"""`compare`: from the matches tables of a study's rows to the tables that the report prints.

Written to the output folder, one header line, empty = not defined:

Every table has the column ``overlap``: how many of the row's scored patients its pre-training saw, accepted by the user
(0 = none known).

``scores.csv``, one line per study, dataset, test_set, detector, init, seed:
    ``M`` (M = AP@0.10, mAP@0.10:0.50, AP@0.50, FROC@0.10): pooled over all patients; ``M_low``, ``M_high`` (the APs only):
    percentile interval of the bootstrap over patients; ``M_fold_mean``, ``M_fold_sd``: mean and standard deviation
    (n - 1) over the folds, each scored alone; ``folds``: how many; ``patients``, ``cases``, ``objects`` (not ignored),
    ``ignored``, ``detections``; ``confidence``, ``resamples``, ``undefined_draws``: draws without an object, left out of
    the intervals; with a single patient there is no interval and all draws are undefined.
``folds.csv``, one line per key and ``fold``: the metrics and counts of that fold. Test sets that the fold models predict
    together have no folds and no line.
``differences.csv``, one line per key (every init but the reference) and ``metric`` (the three APs): ``reference`` (its
    init), ``difference`` = row - reference of the same data set, test set, detector and seed, ``low``, ``high``: percentile
    interval on the same draws, ``p``: two-sided bootstrap p, not corrected for the number of comparisons, ``patients``,
    ``confidence``, ``resamples``. Without a reference row, the numbers and ``reference`` are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain.comparison.bootstrap import interval, paired_difference, patient_draws
from detpretrain.comparison.pooled_ap import PooledAP
from detpretrain.comparison.rows import (
    AP_METRICS,
    METRICS,
    Row,
    counts,
    groups,
    read_rows,
    score,
    score_folds,
    summarise_ap,
)
from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.files import atomic_path

KEY_COLUMNS = list(matches.Run.__dataclass_fields__)


@dataclass(frozen=True)
class CompareSettings:
    """``reference``: the init that others are compared with."""

    resamples: int = 2000
    seed: int = 0
    confidence: float = 0.95
    reference: str = "scratch"

    @staticmethod
    def of(settings: Mapping[str, Any]) -> CompareSettings:
        """Raises InputError for an unknown key or a value out of range."""
        known = CompareSettings.__dataclass_fields__
        for key in settings:
            if key not in known:
                raise InputError(f"compare: unknown setting {key!r}: use one of {', '.join(known)}")
        made = CompareSettings(**settings)
        if made.resamples < 1 or not 0 < made.confidence < 1:
            raise InputError(f"compare: resamples {made.resamples} or confidence {made.confidence} out of range")
        return made


@dataclass(frozen=True)
class ScoredRow:
    """``pooled``: metrics of the whole row; ``draws``: AP metrics [R] of each draw of patients; ``folds``: per fold."""

    row: Row
    pooled: dict[str, float]
    draws: dict[str, np.ndarray]
    folds: pd.DataFrame


def compare(
    row_files: list[Path], output: Path, settings: Mapping[str, Any], overlaps: Mapping[tuple[str, str], int]
) -> None:
    """Writes ``scores.csv``, ``folds.csv`` and ``differences.csv`` (columns: see the module) to ``output``.

    ``row_files``: the ``matches.parquet`` of every row. ``settings``: keys of ``CompareSettings``. ``overlaps``: (dataset, init)
    -> scored patients that the pre-training saw; pairs that are not in it have none known.

    Raises:
        InputError: an unknown setting, a file that is no matches table, a row given twice, rows of one data set that
            were scored on different cases.
    """
    chosen = CompareSettings.of(settings)
    scores, folds, differences = [], [], []
    for group in groups(read_rows(row_files)):
        scored = score_group(group, chosen)
        scores += [_score_line(entry, chosen) for entry in scored]
        folds += [_with_key(entry) for entry in scored]
        differences += _difference_lines(scored, chosen)
    columns = [*KEY_COLUMNS, *_no_difference("", chosen)]
    tables = {
        "scores": pd.DataFrame(scores),
        "folds": pd.concat(folds, ignore_index=True),
        "differences": pd.DataFrame(differences, columns=columns).astype({"patients": "Int64"}),
    }
    for name, table in tables.items():
        _write(_with_overlap(table, overlaps), output / f"{name}.csv")


def score_group(group: list[Row], settings: CompareSettings) -> list[ScoredRow]:
    """Scores rows of the same cases on the same draws of their patients."""
    n_patients = int(group[0].patient_numbers.max()) + 1
    name = f"{group[0].key.dataset}/{group[0].key.test_set}"
    weights = patient_draws(n_patients, settings.resamples, settings.seed, name)
    scored = []
    for row in group:
        per_threshold = PooledAP.of_cases(row.cases, row.patient_numbers)(weights)
        if n_patients == 1:
            per_threshold[:] = np.nan  # every draw is the same patient: no width would look like certainty
        draws = summarise_ap(per_threshold)
        scored.append(ScoredRow(row, score(row.cases), draws, score_folds(row)))
    return scored


def _score_line(entry: ScoredRow, settings: CompareSettings) -> dict[str, Any]:
    line: dict[str, Any] = asdict(entry.row.key)
    for metric in METRICS:
        line[metric] = entry.pooled[metric]
        if metric in AP_METRICS:
            line[f"{metric}_low"], line[f"{metric}_high"] = interval(entry.draws[metric], settings.confidence)
        line[f"{metric}_fold_mean"] = entry.folds[metric].mean()
        line[f"{metric}_fold_sd"] = entry.folds[metric].std(ddof=1)
    return {
        **line,
        "folds": len(entry.folds),
        **counts(entry.row),
        "confidence": settings.confidence,
        "resamples": settings.resamples,
        "undefined_draws": int(np.isnan(entry.draws["AP@0.10"]).sum()),
    }


def _with_key(entry: ScoredRow) -> pd.DataFrame:
    key = pd.DataFrame([asdict(entry.row.key)] * len(entry.folds), columns=KEY_COLUMNS)
    return pd.concat([key, entry.folds], axis=1)


def _difference_lines(scored: list[ScoredRow], settings: CompareSettings) -> list[dict[str, Any]]:
    by_key = {entry.row.key: entry for entry in scored}
    lines = []
    for entry in scored:
        if entry.row.key.init == settings.reference:
            continue
        reference = by_key.get(replace(entry.row.key, init=settings.reference))
        for metric in AP_METRICS:
            line = _no_difference(metric, settings)
            if reference is not None:
                found = paired_difference(
                    entry.pooled[metric],
                    reference.pooled[metric],
                    entry.draws[metric],
                    reference.draws[metric],
                    settings.confidence,
                )
                line |= {"reference": settings.reference, "difference": found.value, "p": found.p}
                line |= {"low": found.low, "high": found.high, "patients": int(entry.row.patient_numbers.max()) + 1}
            lines.append({**asdict(entry.row.key), **line})
    return lines


def _no_difference(metric: str, settings: CompareSettings) -> dict[str, Any]:
    """The columns of a difference beside the key, as they are when there is nothing to compare with."""
    return {
        "metric": metric,
        "reference": None,
        "difference": None,
        "low": None,
        "high": None,
        "p": None,
        "patients": None,
        "confidence": settings.confidence,
        "resamples": settings.resamples,
    }


def _with_overlap(table: pd.DataFrame, overlaps: Mapping[tuple[str, str], int]) -> pd.DataFrame:
    pairs = zip(table["dataset"], table["init"], strict=True)
    return table.assign(overlap=pd.Series([overlaps.get(pair, 0) for pair in pairs], table.index, dtype="int64"))


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
