"""The page of one data set: what it holds, its figures, and the cells that were trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from detpretrain.comparison.rows import Row
from detpretrain.evaluation import matches
from detpretrain.report import captions, tables
from detpretrain.report.cell_pages import CellPage, cell_table
from detpretrain.report.froc_figure import plot_froc
from detpretrain.report.learning_curves import TrainingLog, plot_learning_curves
from detpretrain.report.overlays import plot_overlays
from detpretrain.report.page import DatasetSection, PageFigure
from detpretrain.report.size_figure import plot_sizes
from detpretrain.tasks import Task


def dataset_section(
    dataset: str,
    rows: Sequence[Row],
    logs: Sequence[TrainingLog],
    cells: Sequence[CellPage],
    scores: pd.DataFrame,
    metrics: pd.DataFrame,
    task: Path,
    window: tuple[float, float] | None,
    folder: Path,
    reference: str,
) -> DatasetSection:
    """Everything given is of this data set; draws ``{froc,sizes,learning,overlays}_DATASET.png`` in ``folder``, those that
    there are data for.

    ``task``: its task folder, for the overlays' images. ``window``: grey values (low, high) of the overlays.
    """
    figures = []
    overlaps = dict(zip(scores["init"], scores["overlap"], strict=True))
    if rows:
        froc = folder / f"froc_{dataset}.png"
        plot_froc(list(rows), froc, reference, overlaps, metrics=metrics)
        caption = _explained(captions.FROC_CAPTION, scores)
        figures.append(PageFigure(froc, f"FROC curves of all rows on {dataset}", caption))
    sizes = folder / f"sizes_{dataset}.png"
    if plot_sizes(metrics, sizes, reference):
        figures.append(PageFigure(sizes, f"Scores by size of the objects on {dataset}", captions.SIZES_CAPTION))
    if logs:
        learning = folder / f"learning_{dataset}.png"
        plot_learning_curves(list(logs), learning, reference)
        figures.append(PageFigure(learning, f"Learning curves of all cells on {dataset}", captions.LEARNING_CAPTION))
    best = _best_row(rows, scores)
    if best is not None:
        overlays = folder / f"overlays_{dataset}.png"
        init = best.key.init
        plot_overlays(best, Task.read(task), overlays, window, overlaps[init])
        caption = _explained(captions.OVERLAY_CAPTION, scores[scores["init"] == init])
        figures.append(PageFigure(overlays, f"Detections and objects on slices of {dataset}", caption))
    return DatasetSection(dataset, _holds(scores), figures, cells, cell_table(cells))


def _holds(scores: pd.DataFrame) -> str:
    if scores.empty:
        return "No row of this data set is whole yet."
    holds = [
        f"{test_set}: {line['patients']} patients, {line['cases']} cases, {line['objects']} objects"
        for test_set, line in ((part, lines.iloc[0]) for part, lines in scores.groupby("test_set"))
    ]
    return "; ".join(holds) + "."


def _explained(caption: str, scores: pd.DataFrame) -> str:
    """The caption, and what the mark of an init means where the figure shows one."""
    note = tables.overlap_note(scores)
    return f"{caption} {note}" if note else caption


def _best_row(rows: Sequence[Row], scores: pd.DataFrame) -> Row | None:
    """The row of highest pooled AP@0.10, on the held-out folds where there are any; None without a single object."""
    candidates = scores[scores["test_set"] == "cv"] if (scores["test_set"] == "cv").any() else scores
    candidates = candidates.dropna(subset=[tables.HEADLINE])
    if candidates.empty:
        return None
    line = candidates.sort_values(
        [tables.HEADLINE, *tables.KEY_COLUMNS], ascending=[False] + [True] * len(tables.KEY_COLUMNS)
    ).iloc[0]
    key = matches.Run(*(str(line[name]) for name in tables.KEY_COLUMNS[:-1]), seed=int(line["seed"]))
    return next(row for row in rows if row.key == key)
