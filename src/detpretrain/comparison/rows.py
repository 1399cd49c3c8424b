"""The rows of a study, collected from their matches tables, and what each one scores as a whole and in its folds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detpretrain.errors import InputError
from detpretrain.evaluation import froc, matches
from detpretrain.evaluation.matching import MatchedCase
from detpretrain.evaluation.metrics import SINGLE_THRESHOLDS, evaluate_matched

KEY = ("study", "dataset", "test_set", "detector", "init", "seed")
AP_METRICS = ("AP@0.10", "mAP@0.10:0.50", "AP@0.50")
METRICS = (*AP_METRICS, "FROC@0.10")
COUNTS = ("patients", "cases", "objects", "ignored", "detections")


@dataclass(frozen=True)
class Row:
    """``table``: the lines of matches.parquet of this row and test set; ``source``: the file they come from."""

    key: matches.Run
    table: pd.DataFrame
    source: Path

    @cached_property
    def cases(self) -> list[MatchedCase]:
        """The matching of every case, in the table's order."""
        return matches.matched_cases(self.table)

    @cached_property
    def case_lines(self) -> pd.DataFrame:
        """One line per case, in the same order: patient, case, fold."""
        return self.table.loc[self.table["kind"] == "case", ["patient", "case", "fold"]].reset_index(drop=True)

    @cached_property
    def patient_numbers(self) -> NDArray[np.int64]:
        """Of each case: the place of its patient among the sorted patients, the same in all rows of a data set."""
        return np.unique(self.case_lines["patient"].to_numpy(str), return_inverse=True)[1]


def read_rows(row_files: Iterable[Path]) -> list[Row]:
    """Reads matches tables of rows and splits them by test set; ordered by key.

    Raises:
        InputError: no file given, a file that is no matches table, or two files that hold the same row.
    """
    return rows_of((path, matches.read(path)) for path in row_files)


def rows_of(tables: Iterable[tuple[Path, pd.DataFrame]]) -> list[Row]:
    """``read_rows`` for tables that are read already, with the files they come from."""
    rows: dict[matches.Run, Row] = {}
    for path, table in tables:
        if table.empty:
            raise InputError(f"{path}: no line in the matches table: run consolidate again")
        for values, part in table.groupby(list(KEY), sort=False):
            key = matches.Run(*(str(value) for value in values[:-1]), seed=int(values[-1]))
            if key in rows:
                raise InputError(
                    f"{path}: {' '.join(map(str, astuple(key)))} is already in {rows[key].source}: give each row once"
                )
            rows[key] = Row(key, part.reset_index(drop=True), Path(path))
    if not rows:
        raise InputError("compare: no row given: list at least one matches.parquet")
    return [rows[key] for key in sorted(rows, key=astuple)]


def groups(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows that were scored on the same cases (study, data set and test set), checked for it.

    Raises:
        InputError: two rows of a group differ in their cases, patients or objects: they cannot be paired.
    """
    by_group: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_group.setdefault((row.key.study, row.key.dataset, row.key.test_set), []).append(row)
    for group in by_group.values():
        expected = _scored(group[0].table)
        for row in group[1:]:
            if _scored(row.table) != expected:
                raise InputError(
                    f"{row.source}: cases, patients or objects of {row.key.dataset} ({row.key.test_set}) differ from "
                    f"{group[0].source}: make both rows from the same task and folds"
                )
        yield group


def _scored(table: pd.DataFrame) -> tuple[frozenset, frozenset]:
    """(patient, case) pairs and (case, truth, class, ignored) of the objects."""
    truths = table[table["kind"] == "truth"]
    return (
        frozenset(zip(table["patient"], table["case"], strict=True)),
        frozenset(zip(truths["case"], truths["truth"], truths["class"], truths["ignored"], strict=True)),
    )


def summarise_ap(per_threshold: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """APs at the nine IoU thresholds [R, 9] -> the reported metrics, each [R]."""
    return {
        "AP@0.10": per_threshold[:, SINGLE_THRESHOLDS["0.10"]],
        "mAP@0.10:0.50": per_threshold.mean(axis=1),
        "AP@0.50": per_threshold[:, SINGLE_THRESHOLDS["0.50"]],
    }


def score(cases: Sequence[MatchedCase]) -> dict[str, float]:
    """The reported metrics of cases taken together, as the evaluation computes them; NaN without objects.

    A class without objects is left out of the mean.
    """
    labels = np.concatenate([labels for case in cases for labels in (case.labels, case.object_labels)])
    found = evaluate_matched(cases, num_classes=int(labels.max(initial=0)) + 1)
    found["FROC@0.10"] = found["FROC@0.10"]["score"]
    return {name: float("nan") if found[name] is None else float(found[name]) for name in METRICS}


def counts(row: Row, chosen: NDArray[np.bool_] | None = None) -> dict[str, int]:
    """Patients, cases, objects to be found, ignored objects and scored detections of a row, or of ``chosen`` [cases]."""
    chosen = np.ones(len(row.cases), dtype=bool) if chosen is None else chosen
    cases = [row.cases[i] for i in np.flatnonzero(chosen)]
    return {
        "patients": len(np.unique(row.patient_numbers[chosen])),
        "cases": len(cases),
        "objects": sum(int(np.count_nonzero(~case.object_ignored)) for case in cases),
        "ignored": sum(int(np.count_nonzero(case.object_ignored)) for case in cases),
        "detections": sum(len(case.labels) for case in cases),
    }


def score_folds(row: Row) -> pd.DataFrame:
    """One line per fold: fold, the metrics and the counts. No line for a test set that all folds predict together."""
    lines = []
    for fold in sorted(row.case_lines["fold"].dropna().unique()):
        chosen = (row.case_lines["fold"] == fold).fillna(False).to_numpy(bool)
        cases = [row.cases[i] for i in np.flatnonzero(chosen)]
        lines.append({"fold": int(fold), **score(cases), **counts(row, chosen)})
    return pd.DataFrame(lines, columns=["fold", *METRICS, *COUNTS])


def froc_points(cases: Sequence[MatchedCase], iou: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The FROC curve of cases, all classes pooled, at IoU "0.10" or "0.50": false positives per case and sensitivity.

    Without any object the sensitivity is 0.
    """
    at = SINGLE_THRESHOLDS[iou]
    scores = np.concatenate([case.scores for case in cases])
    hit = np.concatenate([case.true_positive[at] for case in cases])
    counted = hit | np.concatenate([case.false_positive[at] for case in cases])
    objects = sum(int(np.count_nonzero(~case.object_ignored)) for case in cases)
    return froc.curve(scores[counted], hit[counted], len(cases), max(objects, 1))
