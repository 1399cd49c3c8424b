"""`report`: the comparison's tables and the rows' matches as one page, its tables and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from detpretrain.comparison.rows import Row, read_rows
from detpretrain.errors import InputError
from detpretrain.evaluation import matches
from detpretrain.files import atomic_path, write_text
from detpretrain.report import tables
from detpretrain.report.froc_figure import plot_froc
from detpretrain.report.learning_curves import TrainingLog, plot_learning_curves, read_logs
from detpretrain.report.overlays import plot_overlays
from detpretrain.report.page import TEMPLATE, DatasetSection, PageFigure, finding, write_page
from detpretrain.tasks import Task


@dataclass(frozen=True)
class ReportSettings:
    """``windows``: data set -> grey values (low, high) of its overlays, where the default does not fit.

    ``provenance``: lines of the provenance table (column -> value), printed as they are.
    """

    title: str = "Does pre-training help 3D medical object detection?"
    reference: str = "scratch"
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    provenance: Sequence[Mapping[str, Any]] = ()
    template: Path = TEMPLATE

    @staticmethod
    def of(settings: Mapping[str, Any]) -> ReportSettings:
        """Raises InputError for an unknown key."""
        known = ReportSettings.__dataclass_fields__
        for key in settings:
            if key not in known:
                raise InputError(f"report: unknown setting {key!r}: use one of {', '.join(known)}")
        return ReportSettings(**settings)


def report(
    comparison_dir: Path,
    row_files: Sequence[Path],
    cell_logs: Sequence[Path],
    tasks: Mapping[str, Path],
    output: Path,
    settings: Mapping[str, Any],
) -> None:
    """Writes ``main_table.{csv,md,tex}``, ``{froc,learning,overlays}_DATASET.png`` and ``report.html`` to ``output``.

    ``comparison_dir``: what ``compare`` wrote for ``row_files`` (``matches.parquet`` of every row). ``cell_logs``:
    ``log.csv`` of every cell. ``tasks``: data set -> its task folder, for the overlays' images. ``settings``: keys of
    ``ReportSettings``. A data set without logs has no learning curves, one without objects no overlays.

    Raises:
        InputError: an unknown setting, an unreadable input, rows that the comparison does not hold, a data set without
            a task folder.
    """
    chosen = ReportSettings.of(settings)
    scores, differences = tables.read_comparison(Path(comparison_dir))
    rows, logs = read_rows(row_files), read_logs(cell_logs)
    _check_rows(scores, rows, Path(comparison_dir))
    output = Path(output)
    table = tables.main_table(scores, differences)
    text = tables.readable(table, float(scores["confidence"].iloc[0]))
    with atomic_path(output / "main_table.csv") as temporary:
        table.to_csv(temporary, index=False)
    write_text(output / "main_table.md", tables.to_markdown(text))
    write_text(output / "main_table.tex", tables.to_latex(text))
    datasets = sorted({row.key.dataset for row in rows})
    sections = [
        _dataset_section(
            dataset,
            [row for row in rows if row.key.dataset == dataset],
            [log for log in logs if log.dataset == dataset],
            scores[scores["dataset"] == dataset],
            tasks,
            output,
            chosen,
        )
        for dataset in datasets
    ]
    page = write_page(chosen.template, _page_values(scores, table, text, sections, len(logs), chosen))
    write_text(output / "report.html", page)


def _check_rows(scores: pd.DataFrame, rows: list[Row], folder: Path) -> None:
    compared = {matches.Run(*map(str, line[:-1]), seed=int(line[-1])) for line in scores[tables.KEY_COLUMNS].to_numpy()}
    given = {row.key for row in rows}
    if compared != given:
        odd = sorted(map(str, compared ^ given))[0]
        raise InputError(
            f"{folder / 'scores.csv'}: {odd} is not in both the comparison and the rows: run compare again"
        )


def _dataset_section(
    dataset: str,
    rows: list[Row],
    logs: list[TrainingLog],
    scores: pd.DataFrame,
    tasks: Mapping[str, Path],
    output: Path,
    settings: ReportSettings,
) -> DatasetSection:
    if dataset not in tasks:
        raise InputError(f"report: no task folder given for {dataset}: name it, the overlays show its images")
    figures = []
    froc = output / f"froc_{dataset}.png"
    plot_froc(rows, froc, settings.reference)
    figures.append(PageFigure(froc, f"FROC curves of all rows on {dataset}", _FROC_CAPTION))
    if logs:
        learning = output / f"learning_{dataset}.png"
        plot_learning_curves(logs, learning, settings.reference)
        figures.append(PageFigure(learning, f"Learning curves of all cells on {dataset}", _LEARNING_CAPTION))
    best = _best_row(rows, scores)
    if best is not None:
        overlays = output / f"overlays_{dataset}.png"
        plot_overlays(best, Task.read(tasks[dataset]), overlays, settings.windows.get(dataset))
        figures.append(PageFigure(overlays, f"Detections and objects on slices of {dataset}", _OVERLAY_CAPTION))
    holds = [
        f"{test_set}: {line['patients']} patients, {line['cases']} cases, {line['objects']} objects"
        for test_set, line in ((part, lines.iloc[0]) for part, lines in scores.groupby("test_set"))
    ]
    return DatasetSection(dataset, "; ".join(holds) + ".", figures)


def _best_row(rows: list[Row], scores: pd.DataFrame) -> Row | None:
    """The row of highest pooled AP@0.10, on the held-out folds where there are any; None without a single object."""
    candidates = scores[scores["test_set"] == "cv"] if (scores["test_set"] == "cv").any() else scores
    candidates = candidates.dropna(subset=[tables.HEADLINE])
    if candidates.empty:
        return None
    line = candidates.sort_values([tables.HEADLINE, *tables.KEY_COLUMNS], ascending=[False] + [True] * 6).iloc[0]
    key = matches.Run(*(str(line[name]) for name in tables.KEY_COLUMNS[:-1]), seed=int(line["seed"]))
    return next(row for row in rows if row.key == key)


def _page_values(
    scores: pd.DataFrame,
    table: pd.DataFrame,
    text: pd.DataFrame,
    sections: list[DatasetSection],
    n_cells: int,
    settings: ReportSettings,
) -> dict[str, Any]:
    confidence = float(scores["confidence"].iloc[0])
    provenance = pd.DataFrame(list(settings.provenance))
    sentences = [finding(line, confidence) for line in table.to_dict("records")]
    return {
        "title": settings.title,
        "reference": settings.reference,
        "resamples": int(scores["resamples"].iloc[0]),
        "n_rows": len(scores[["study", "dataset", "detector", "init", "seed"]].drop_duplicates()),
        "n_cells": n_cells,
        "findings": [sentence for sentence in sentences if sentence is not None],
        "table": {"columns": list(text.columns), "lines": text.to_numpy().tolist()},
        "sections": sections,
        "provenance": {"columns": list(provenance.columns), "lines": provenance.to_numpy().tolist()},
    }


_FROC_CAPTION = (
    "FROC curves: share of objects found (IoU at least 0.10) against false positives per case, all classes and patients "
    "pooled; points: the seven rates whose mean sensitivity is the FROC score."
)
_LEARNING_CAPTION = (
    "Learning curves: one line per fold; left the training (solid) and validation (dashed) loss, right the validation AP "
    "as logged in training. Nothing is selected on them: the last weights are used."
)
_OVERLAY_CAPTION = (
    "The row of highest pooled AP@0.10 on its best, median and worst case by the case's own AP@0.10 (cases without objects "
    "have none). Slices pass through the centres of objects, then of detections. Detections are shown above the score that "
    "leaves one false positive per case on average."
)
