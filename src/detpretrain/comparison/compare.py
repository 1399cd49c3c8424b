"""`compare`: from the matches tables of a study's rows to the tables that the report prints.

Written to the output folder, one header line, empty = not defined:

Tables of rows have the column ``overlap``: how many of the row's scored patients its pre-training saw, accepted by the user
(0 = none known).

``scores.csv``, one line per study, dataset, test_set, detector, init, seed:
    ``M`` (M = AP@0.10, mAP@0.10:0.50, AP@0.50, FROC@0.10, CPM): pooled over all patients; ``M_low``, ``M_high``: percentile
    interval of the bootstrap over patients; ``M_fold_mean``, ``M_fold_sd``: mean and standard deviation (n - 1) over the folds,
    each scored alone; ``folds``: how many; ``patients``, ``cases``, ``objects`` (not ignored), ``ignored``, ``detections``;
    ``confidence``, ``resamples``, ``undefined_draws``: draws without an object, left out of the intervals; with a single patient
    there is no interval and all draws are undefined.
``folds.csv``, one line per key and ``fold``: the metrics and counts of that fold. Test sets that the fold models predict
    together have no folds and no line.
``metrics.csv``, one line per key, ``part``, ``fold`` (empty = all patients) and ``metric``: ``value``, and of all patients
    ``low``, ``high``. Parts and metrics: ``row_metrics.RowMetrics``; CPM: ``centre_marks``.
``differences.csv``, one line per key (every init but the reference) and ``metric`` (those of ``scores.csv``): ``reference`` (its
    init), ``difference`` = row - reference of the same data set, test set, detector and seed, ``low``, ``high``: percentile
    interval on the same draws, ``p``: two-sided bootstrap p, ``p_holm``: adjusted for all lines of the metric, ``relative``,
    ``superiority``, ``standardised``, ``detectable``: ``effects.Effect``, ``patients``, ``confidence``, ``resamples``. Without a
    reference row, the numbers and ``reference`` are empty.
``pairs.csv``: the same for all pairs of rows of one data set, test set, detector and seed; each pair once, ``p_holm`` within a
    detector and metric.
``claims.csv``: one line per claim, ``claims.Judgement``.

Secondary, of AP@0.10 and without ``overlap``:

``ranks.csv``, one line per detector and init: ``ranking.Ranking``; ``blocks``: (data set, test set) pairs ranked.
``mixed_model.csv``, one line per detector and init: ``mixed_model.MixedModel``; without a fit one line with its ``note``.
``stability.csv``: ``stability.winners`` of every detector. ``variance.csv``: ``stability.variance_shares``, with several seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detpretrain.comparison import secondary
from detpretrain.comparison.bootstrap import interval, paired_difference
from detpretrain.comparison.claims import Judgement, judge
from detpretrain.comparison.effects import Effect, effect_of
from detpretrain.comparison.multiplicity import holm_within
from detpretrain.comparison.rows import Row, counts, groups, read_rows
from detpretrain.comparison.scoring import ScoredRow, score_group
from detpretrain.comparison.settings import CompareSettings
from detpretrain.evaluation import matches
from detpretrain.files import atomic_path

KEY_COLUMNS = list(matches.Run.__dataclass_fields__)
METRICS = ("AP@0.10", "mAP@0.10:0.50", "AP@0.50", "FROC@0.10", "CPM")
_EFFECTS = list(Effect.__dataclass_fields__)


def compare(
    row_files: list[Path],
    output: Path,
    settings: Mapping[str, Any],
    overlaps: Mapping[tuple[str, str], int],
    kinds: Mapping[str, str],
) -> None:
    """Writes the tables (columns: see the module) of the rows in ``row_files`` (``matches.parquet``) to ``output``."""
    compare_rows(read_rows(row_files), output, settings, overlaps, kinds)


def compare_rows(
    rows: list[Row],
    output: Path,
    settings: Mapping[str, Any],
    overlaps: Mapping[tuple[str, str], int],
    kinds: Mapping[str, str],
) -> None:
    """``compare`` for rows that are read already.

    ``settings``: keys of ``CompareSettings``. ``overlaps``: (dataset, init) -> scored patients that the pre-training saw; pairs
    that are not in it have none known. ``kinds``: init -> kind of pre-training, for the claims (``pretraining_kinds.KINDS``).

    Raises:
        InputError: an unknown setting, or rows of one data set that were scored on different cases.
    """
    chosen, everything = CompareSettings.of(settings), []
    lines: dict[str, list[Any]] = {name: [] for name in ("scores", "folds", "metrics", "differences", "pairs")}
    for group in groups(rows):
        scored = score_group(group, chosen)
        everything += scored
        lines["scores"] += [_score_line(entry, chosen) for entry in scored]
        lines["folds"] += [_with_key(entry, entry.folds) for entry in scored]
        lines["metrics"] += [_with_key(entry, _metric_lines(entry, chosen)) for entry in scored]
        lines["differences"] += _difference_lines(scored, chosen)
        lines["pairs"] += _pair_lines(scored, chosen)
    columns = [*KEY_COLUMNS, *_no_difference("", chosen)]
    tables = {
        "scores": pd.DataFrame(lines["scores"]),
        "folds": pd.concat(lines["folds"], ignore_index=True),
        "metrics": pd.concat(lines["metrics"], ignore_index=True),
        "differences": _adjusted(pd.DataFrame(lines["differences"], columns=columns), ["metric"]),
        "pairs": _adjusted(pd.DataFrame(lines["pairs"], columns=columns), ["detector", "metric"]),
    }
    for name, table in tables.items():
        _write(_with_overlap(table, overlaps), output / f"{name}.csv")
    _write(_claim_lines(judge(everything, kinds, chosen)), output / "claims.csv")
    for name, table in secondary.tables(everything, tables["folds"], chosen).items():
        _write(table, output / f"{name}.csv")


def _score_line(entry: ScoredRow, settings: CompareSettings) -> dict[str, Any]:
    line: dict[str, Any] = asdict(entry.row.key)
    for metric in METRICS:
        score = entry.whole[metric]
        defined = score.folds[~np.isnan(score.folds)]
        line[metric] = score.value
        line[f"{metric}_low"], line[f"{metric}_high"] = interval(score.draws, settings.confidence)
        line[f"{metric}_fold_mean"] = defined.mean() if len(defined) else np.nan
        line[f"{metric}_fold_sd"] = defined.std(ddof=1) if len(defined) > 1 else np.nan
    return {
        **line,
        "folds": len(entry.folds),
        **counts(entry.row),
        "confidence": settings.confidence,
        "resamples": settings.resamples,
        "undefined_draws": int(np.isnan(entry.whole["AP@0.10"].draws).sum()),
    }


def _metric_lines(entry: ScoredRow, settings: CompareSettings) -> pd.DataFrame:
    lines = []
    for part, scores in entry.scores.items():
        for metric, score in scores.items():
            low, high = interval(score.draws, settings.confidence)
            lines.append((part, None, metric, score.value, low, high))
            folds = zip(entry.folds["fold"], score.folds, strict=True)
            lines += [(part, fold, metric, value, None, None) for fold, value in folds]
    table = pd.DataFrame(lines, columns=["part", "fold", "metric", "value", "low", "high"])
    return table.astype({"fold": "Int64", "low": "float64", "high": "float64"})


def _with_key(entry: ScoredRow, table: pd.DataFrame) -> pd.DataFrame:
    key = pd.DataFrame([asdict(entry.row.key)] * len(table), columns=KEY_COLUMNS)
    return pd.concat([key, table], axis=1)


def _difference_lines(scored: list[ScoredRow], settings: CompareSettings) -> list[dict[str, Any]]:
    by_key = {entry.row.key: entry for entry in scored}
    lines = []
    for entry in scored:
        if entry.row.key.init != settings.reference:
            reference = by_key.get(replace(entry.row.key, init=settings.reference))
            lines += [_difference(entry, reference, metric, settings) for metric in METRICS]
    return lines


def _pair_lines(scored: list[ScoredRow], settings: CompareSettings) -> list[dict[str, Any]]:
    return [
        _difference(entry, other, metric, settings)
        for other, entry in combinations(scored, 2)
        if replace(entry.row.key, init=other.row.key.init) == other.row.key
        for metric in METRICS
    ]


def _difference(
    entry: ScoredRow, reference: ScoredRow | None, metric: str, settings: CompareSettings
) -> dict[str, Any]:
    line = {**asdict(entry.row.key), **_no_difference(metric, settings)}
    if reference is None:
        return line
    ours, theirs = entry.whole[metric], reference.whole[metric]
    found = paired_difference(ours.value, theirs.value, ours.draws, theirs.draws, settings.confidence)
    patients = int(entry.row.patient_numbers.max()) + 1
    effect = effect_of(ours.value, theirs.value, ours.draws - theirs.draws, patients, settings.confidence)
    return line | {
        "reference": reference.row.key.init,
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        **asdict(effect),
        "patients": patients,
    }


def _no_difference(metric: str, settings: CompareSettings) -> dict[str, Any]:
    """The columns of a difference beside the key, as they are when there is nothing to compare with."""
    return {
        "metric": metric,
        "reference": None,
        **dict.fromkeys(["difference", "low", "high", "p", "p_holm", *_EFFECTS, "patients"]),
        "confidence": settings.confidence,
        "resamples": settings.resamples,
    }


def _claim_lines(judgements: list[Judgement]) -> pd.DataFrame:
    lines = []
    for found in judgements:
        line = {key: value for key, value in vars(found).items() if key != "claim"}
        lines.append({"claim": found.claim.name, "text": found.claim.text, **line})
    return pd.DataFrame(lines)


def _adjusted(table: pd.DataFrame, families: list[str]) -> pd.DataFrame:
    table = table.astype(dict.fromkeys(("difference", "low", "high", "p", *_EFFECTS), "float64"))
    return table.assign(p_holm=holm_within(table, families)).astype({"patients": "Int64", "p_holm": "float64"})


def _with_overlap(table: pd.DataFrame, overlaps: Mapping[tuple[str, str], int]) -> pd.DataFrame:
    pairs = zip(table["dataset"], table["init"], strict=True)
    return table.assign(overlap=pd.Series([overlaps.get(pair, 0) for pair in pairs], table.index, dtype="int64"))


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
