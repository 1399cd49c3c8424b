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
from detpretrain.files import atomic_path, read_json, write_text
from detpretrain.report import captions, pretraining_section, statistics_section, tables
from detpretrain.report.cost import JobCost, cost_table
from detpretrain.report.difference_figure import plot_differences
from detpretrain.report.froc_figure import plot_froc
from detpretrain.report.gain_figure import plot_gains
from detpretrain.report.learning_curves import TrainingLog, plot_learning_curves, read_logs
from detpretrain.report.overlays import plot_overlays
from detpretrain.report.page import (
    TEMPLATE,
    DatasetSection,
    PageFigure,
    PageTable,
    PretrainingSection,
    finding,
    write_page,
)
from detpretrain.report.paper_table import HTML, LATEX, MARKDOWN, paper_table
from detpretrain.report.paper_table import NOTE as PAPER_NOTE
from detpretrain.report.pretraining_figures import plot_pretraining_curves, plot_preview, plot_probes
from detpretrain.report.pretraining_section import Pretraining
from detpretrain.report.rank_figure import plot_critical_differences, plot_ranks
from detpretrain.report.size_figure import plot_sizes
from detpretrain.tasks import Task


@dataclass(frozen=True)
class ReportSettings:
    """``margin``: of the comparison. ``windows``: data set -> grey values (low, high) of its overlays, where the default does
    not fit.

    ``provenance``: lines of the provenance table (column -> value), printed as they are. ``citations``: init -> ``citations``
    of its checkpoint, for inits that come from a file instead of a pre-training of this study. ``costs``: of every job.
    """

    title: str = "Does pre-training help 3D medical object detection?"
    reference: str = "scratch"
    margin: float = 0.02
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    provenance: Sequence[Mapping[str, Any]] = ()
    citations: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    costs: Sequence[JobCost] = ()
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
    pretrainings: Sequence[Path] = (),
) -> None:
    """Writes ``{main,paper}_table.{csv,md,tex}``, ``{froc,learning,overlays}_DATASET.png``, ``pretraining_*.png`` and
    ``report.html``.

    ``comparison_dir``: what ``compare`` wrote for ``row_files`` (``matches.parquet`` of every row, with ``metrics.json`` beside
    it). ``cell_logs``: ``log.csv`` of every cell. ``tasks``: data set -> its task folder, for the overlays' images.
    ``settings``: keys of ``ReportSettings``. ``pretrainings``: folders of the study's own pre-trainings (``assessment.json``,
    ``log.csv``, ``preview.npz``, perhaps ``probe.json``). A data set without logs has no learning curves, one without objects
    no overlays.

    Raises:
        InputError: an unknown setting, an unreadable input, rows that the comparison does not hold, a data set without
            a task folder.
    """
    chosen = ReportSettings.of(settings)
    scores, differences = tables.read_comparison(Path(comparison_dir))
    rows, logs, trained = (
        read_rows(row_files),
        read_logs(cell_logs),
        pretraining_section.read_pretrainings(pretrainings),
    )
    _check_rows(scores, rows, Path(comparison_dir))
    output = Path(output)
    table = tables.main_table(scores, differences, _challenge_scores(rows))
    text = tables.readable(table, float(scores["confidence"].iloc[0]))
    note = tables.overlap_note(table)
    with atomic_path(output / "main_table.csv") as temporary:
        table.to_csv(temporary, index=False)
    write_text(output / "main_table.md", tables.to_markdown(text, note))
    write_text(output / "main_table.tex", tables.to_latex(text, note))
    printed = _write_paper_table(scores, differences, output, chosen.reference, note)
    metrics = statistics_section.read_table(Path(comparison_dir), "metrics")
    datasets = sorted({row.key.dataset for row in rows})
    sections = [
        _dataset_section(
            dataset,
            [row for row in rows if row.key.dataset == dataset],
            [log for log in logs if log.dataset == dataset],
            scores[scores["dataset"] == dataset],
            metrics[metrics["dataset"] == dataset],
            tasks,
            output,
            chosen,
        )
        for dataset in datasets
    ]
    inits = sorted({row.key.init for row in rows})
    values = _page_values(scores, table, text, sections, len(logs), chosen) | {
        "overlap_note": note,
        "claims": statistics_section.claims(Path(comparison_dir), float(scores["confidence"].iloc[0])),
        "paper_table": printed,
        "overview": _overview(Path(comparison_dir), differences, output, chosen.reference),
        "appendix": statistics_section.appendix(Path(comparison_dir)),
        "cost": PageTable("Cost", captions.COST_NOTE, _write_costs(chosen.costs, output)),
        "pretraining": _pretraining_section(trained, inits, output, chosen.reference),
        "references": pretraining_section.references(_citations(trained, inits, chosen)),
    }
    write_text(output / "report.html", write_page(chosen.template, values))


def _write_paper_table(
    scores: pd.DataFrame, differences: pd.DataFrame, output: Path, reference: str, overlap_note: str
) -> PageTable:
    """``paper_table.{csv,md,tex}``; returns the table as the page shows it."""
    made = paper_table(scores, differences, reference)
    note = PAPER_NOTE.format(reference=reference)
    with atomic_path(output / "paper_table.csv") as temporary:
        made.values.to_csv(temporary)
    notes = f"{note} {overlap_note}".strip()
    write_text(output / "paper_table.md", tables.to_markdown(made.written(MARKDOWN), notes))
    write_text(output / "paper_table.tex", tables.booktabs(made.written(LATEX), notes))
    return PageTable("Table as printed", note, made.written(HTML))


def _write_costs(costs: Sequence[JobCost], output: Path) -> pd.DataFrame:
    """``cost.csv``; returns its table, empty without jobs."""
    table = cost_table(costs)
    if len(table):
        with atomic_path(output / "cost.csv") as temporary:
            table.to_csv(temporary, index=False)
    return table


def _overview(comparison_dir: Path, differences: pd.DataFrame, output: Path, reference: str) -> list[PageFigure]:
    """Figures over all data sets, those that there are data for."""
    ranks = statistics_section.read_table(comparison_dir, "ranks")
    paths = {name: output / f"{name}.png" for name in ("differences", "gains", "ranks", "critical_differences")}
    drawn = {
        "differences": plot_differences(differences, paths["differences"], reference),
        "gains": plot_gains(differences, paths["gains"], reference),
        "ranks": plot_ranks(ranks, paths["ranks"], reference),
        "critical_differences": plot_critical_differences(ranks, paths["critical_differences"]),
    }
    return [PageFigure(paths[name], *captions.OVERVIEW[name]) for name, there in drawn.items() if there]


def _check_rows(scores: pd.DataFrame, rows: list[Row], folder: Path) -> None:
    compared = {matches.Run(*map(str, line[:-1]), seed=int(line[-1])) for line in scores[tables.KEY_COLUMNS].to_numpy()}
    given = {row.key for row in rows}
    if compared != given:
        odd = sorted(map(str, compared ^ given))[0]
        raise InputError(
            f"{folder / 'scores.csv'}: {odd} is not in both the comparison and the rows: run compare again"
        )


def _challenge_scores(rows: list[Row]) -> dict[matches.Run, float]:
    """The LUNA16 challenge's score (CPM) of the rows that have one, from the ``metrics.json`` beside their matches."""
    found = {}
    for row in rows:
        path = row.source.with_name("metrics.json")
        try:
            scores = read_json(path)["test_sets"][row.key.test_set]
            if "luna16" in scores:
                found[row.key] = float(scores["luna16"]["cpm"])
        except (KeyError, TypeError):
            raise InputError(f"{path}: not the metrics of {row.source.name}: run consolidate again") from None
    return found


def _dataset_section(
    dataset: str,
    rows: list[Row],
    logs: list[TrainingLog],
    scores: pd.DataFrame,
    metrics: pd.DataFrame,
    tasks: Mapping[str, Path],
    output: Path,
    settings: ReportSettings,
) -> DatasetSection:
    if dataset not in tasks:
        raise InputError(f"report: no task folder given for {dataset}: name it, the overlays show its images")
    figures = []
    froc = output / f"froc_{dataset}.png"
    overlaps = dict(zip(scores["init"], scores["overlap"], strict=True))
    plot_froc(rows, froc, settings.reference, overlaps, metrics=metrics)
    figures.append(PageFigure(froc, f"FROC curves of all rows on {dataset}", _explained(captions.FROC_CAPTION, scores)))
    sizes = output / f"sizes_{dataset}.png"
    if plot_sizes(metrics, sizes, settings.reference):
        figures.append(PageFigure(sizes, f"Scores by size of the objects on {dataset}", captions.SIZES_CAPTION))
    if logs:
        learning = output / f"learning_{dataset}.png"
        plot_learning_curves(logs, learning, settings.reference)
        figures.append(PageFigure(learning, f"Learning curves of all cells on {dataset}", captions.LEARNING_CAPTION))
    best = _best_row(rows, scores)
    if best is not None:
        overlays = output / f"overlays_{dataset}.png"
        init = best.key.init
        plot_overlays(best, Task.read(tasks[dataset]), overlays, settings.windows.get(dataset), overlaps[init])
        caption = _explained(captions.OVERLAY_CAPTION, scores[scores["init"] == init])
        figures.append(PageFigure(overlays, f"Detections and objects on slices of {dataset}", caption))
    holds = [
        f"{test_set}: {line['patients']} patients, {line['cases']} cases, {line['objects']} objects"
        for test_set, line in ((part, lines.iloc[0]) for part, lines in scores.groupby("test_set"))
    ]
    return DatasetSection(dataset, "; ".join(holds) + ".", figures)


def _explained(caption: str, scores: pd.DataFrame) -> str:
    """The caption, and what the mark of an init means where the figure shows one."""
    note = tables.overlap_note(scores)
    return f"{caption} {note}" if note else caption


def _best_row(rows: list[Row], scores: pd.DataFrame) -> Row | None:
    """The row of highest pooled AP@0.10, on the held-out folds where there are any; None without a single object."""
    candidates = scores[scores["test_set"] == "cv"] if (scores["test_set"] == "cv").any() else scores
    candidates = candidates.dropna(subset=[tables.HEADLINE])
    if candidates.empty:
        return None
    line = candidates.sort_values([tables.HEADLINE, *tables.KEY_COLUMNS], ascending=[False] + [True] * 6).iloc[0]
    key = matches.Run(*(str(line[name]) for name in tables.KEY_COLUMNS[:-1]), seed=int(line["seed"]))
    return next(row for row in rows if row.key == key)


def _pretraining_section(
    trained: list[Pretraining], inits: list[str], output: Path, reference: str
) -> PretrainingSection | None:
    """Draws the figures and puts the tables together; None without a pre-training of this study."""
    if not trained:
        return None
    content = [
        ("Pretext tasks", captions.ASSESSMENT_NOTE, pretraining_section.assessment_table(trained)),
        ("Linear probe", captions.PROBE_NOTE, pretraining_section.probe_table(trained)),
        ("Time per step", captions.TIME_NOTE, pretraining_section.time_table(trained)),
    ]
    curves = output / "pretraining_curves.png"
    plot_pretraining_curves(trained, curves, inits, reference)
    figures = [PageFigure(curves, "Training and validation losses of all pre-trainings", captions.CURVES_CAPTION)]
    if any(one.probe is not None for one in trained):
        probes = output / "pretraining_probe.png"
        plot_probes(trained, probes)
        figures.append(PageFigure(probes, "Accuracy of the linear probe of all pre-trainings", captions.PROBE_CAPTION))
    for one in trained:
        preview = output / f"pretraining_preview_{one.init}_{one.backbone}.png"
        plot_preview(one, preview)
        figures.append(
            PageFigure(preview, f"Pretext task of {one.name} on validation samples", captions.PREVIEW_CAPTION)
        )
    return PretrainingSection([PageTable(*entry) for entry in content if not entry[2].empty], figures)


def _citations(
    trained: list[Pretraining], inits: list[str], settings: ReportSettings
) -> dict[str, list[Mapping[str, Any]]]:
    """Init -> citations of the checkpoints that its rows start from."""
    found: dict[str, list[Mapping[str, Any]]] = {init: [*settings.citations.get(init, ())] for init in inits}
    for one in trained:
        if one.init in found:
            found[one.init] += one.citations
    return found


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
        "margin": settings.margin,
        "resamples": int(scores["resamples"].iloc[0]),
        "n_rows": len(scores[["study", "dataset", "detector", "init", "seed"]].drop_duplicates()),
        "n_cells": n_cells,
        "findings": [sentence for sentence in sentences if sentence is not None],
        "table": {"columns": list(text.columns), "lines": text.to_numpy().tolist()},
        "sections": sections,
        "provenance": {"columns": list(provenance.columns), "lines": provenance.to_numpy().tolist()},
    }
