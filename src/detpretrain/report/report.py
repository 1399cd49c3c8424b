"""`report`: the comparison's tables and the rows' matches as one page, its tables and its figures."""

from __future__ import annotations

from collections import Counter
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
from detpretrain.report.bibliography import bibtex, works
from detpretrain.report.cell_pages import CellRecord, cell_pages
from detpretrain.report.cost import JobCost, cost_table
from detpretrain.report.dataset_section import dataset_section
from detpretrain.report.difference_figure import plot_differences
from detpretrain.report.figure_files import rendered_by
from detpretrain.report.film import Film
from detpretrain.report.gain_figure import plot_gains
from detpretrain.report.learning_curves import read_logs
from detpretrain.report.page import (
    TEMPLATE,
    DatasetSection,
    Download,
    PageFigure,
    PageTable,
    PretrainingSection,
    finding,
    write_page,
)
from detpretrain.report.paper_table import HTML, LATEX, MARKDOWN, paper_table
from detpretrain.report.paper_table import NOTE as PAPER_NOTE
from detpretrain.report.pretraining_figures import plot_pretraining_curves, plot_preview, plot_probes
from detpretrain.report.pretraining_section import Pretraining, Reference
from detpretrain.report.published import NOTE as PUBLISHED_NOTE
from detpretrain.report.published import published_table, read_published
from detpretrain.report.rank_figure import plot_critical_differences, plot_ranks
from detpretrain.report.warning_list import warning_list
from detpretrain.tasks import read_dataset_file

DOWNLOADS = ("main_table.csv", "main_table.tex", "paper_table.csv", "paper_table.tex")


@dataclass(frozen=True)
class ReportSettings:
    """``margin``: of the comparison. ``windows``: data set -> grey values (low, high) of its overlays, where the default does
    not fit.

    ``provenance``: lines of the provenance table (column -> value), printed as they are. ``citations``: init -> ``citations``
    of its checkpoint, for inits that come from a file instead of a pre-training of this study. ``costs``: of every job.
    ``missing``: names of the study's results that are not there. ``optimistic``: names of rows whose post-processing was chosen
    on the scored cases. ``published``: folder of other people's numbers (``report.published``).
    """

    title: str = "Does pre-training help 3D medical object detection?"
    reference: str = "scratch"
    margin: float = 0.02
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    provenance: Sequence[Mapping[str, Any]] = ()
    citations: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    costs: Sequence[JobCost] = ()
    missing: Sequence[str] = ()
    optimistic: Sequence[str] = ()
    published: Path | None = None
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
    cells: Sequence[CellRecord],
    tasks: Mapping[str, Path],
    output: Path,
    settings: Mapping[str, Any],
    pretrainings: Sequence[Path] = (),
    processes: int = 1,
) -> None:
    """Writes ``{main,paper}_table.{csv,md,tex}``, ``cost.csv``, ``citations.bib``, ``report.html``, and below ``figures/`` every
    figure as png, pdf and svg with its numbers as csv.

    ``comparison_dir``: what ``compare`` wrote for ``row_files`` (``matches.parquet`` of every row, with ``metrics.json`` beside
    it). ``cells``: with their files. ``tasks``: data set -> its task folder, for the images and whom to cite.
    ``settings``: keys of ``ReportSettings``. ``pretrainings``: folders of the study's own pre-trainings (``assessment.json``,
    ``log.csv``, ``preview.npz``, perhaps ``probe.json``). A data set without objects has no overlays. ``processes``: that
    render the figures.

    Raises:
        InputError: an unknown setting, an unreadable input, rows that the comparison does not hold, a data set without
            a task folder.
    """
    chosen, folder, output = ReportSettings.of(settings), Path(comparison_dir), Path(output)
    scores, differences = tables.read_comparison(folder)
    rows, trained = read_rows(row_files), pretraining_section.read_pretrainings(pretrainings)
    _check_rows(scores, rows, folder)
    datasets = sorted({row.key.dataset for row in rows} | {cell.dataset for cell in cells})
    for dataset in datasets:
        if dataset not in tasks:
            raise InputError(f"report: no task folder given for {dataset}: name it, the overlays show its images")
    inits, figures = sorted({row.key.init for row in rows}), output / "figures"
    with rendered_by(processes):
        values = {  # first what needs little but rendering
            "pretraining": _pretraining_section(trained, inits, figures, chosen.reference),
            "overview": _overview(folder, differences, figures, chosen.reference),
        }
        sections, films = _dataset_sections(datasets, rows, cells, scores, folder, tasks, figures, chosen)
        values |= {"sections": sections, "films": {key: film.to_json() for key, film in films.items()}}
        values |= _tables(scores, differences, rows, cells, folder, trained, output, chosen)
        values |= _cited(trained, inits, {dataset: tasks[dataset] for dataset in datasets}, output, chosen)
    write_text(output / "report.html", write_page(chosen.template, values))


def _tables(
    scores: pd.DataFrame,
    differences: pd.DataFrame,
    rows: list[Row],
    cells: Sequence[CellRecord],
    comparison_dir: Path,
    trained: Sequence[Pretraining],
    output: Path,
    settings: ReportSettings,
) -> dict[str, Any]:
    """Writes the tables; returns them, and what else the page says in words and numbers."""
    confidence = float(scores["confidence"].iloc[0])
    cpm = _challenge_scores(rows)
    table = tables.main_table(scores, differences, cpm, _imported_cells(cells))
    text, note = tables.readable(table, confidence), tables.overlap_note(table)
    notes = f"{note} {tables.imported_note(table)}".strip()
    _write_main_table(table, text, notes, output)
    published = published_table(read_published(settings.published) if settings.published else [], scores, cpm)
    complaints = statistics_section.complaints(comparison_dir)
    return _page_values(scores, table, text, settings) | {
        "n_cells": len(cells),
        "overlap_note": note,
        "warnings": warning_list(settings.missing, cells, scores, complaints, trained, note, settings.optimistic),
        "claims": statistics_section.claims(comparison_dir, confidence),
        "paper_table": _write_paper_table(scores, differences, output, settings.reference, notes),
        "published": PageTable("Published by others", PUBLISHED_NOTE, published),
        "appendix": statistics_section.appendix(comparison_dir),
        "cost": PageTable("Cost", captions.COST_NOTE, _write_costs(settings.costs, output)),
        "downloads": [
            *(Download(output / name) for name in DOWNLOADS),
            *(Download(comparison_dir / name) for name in ("differences.csv", "claims.csv")),
        ],
    }


def _cited(
    trained: Sequence[Pretraining],
    inits: Sequence[str],
    tasks: Mapping[str, Path],
    output: Path,
    settings: ReportSettings,
) -> dict[str, Any]:
    """Writes ``citations.bib``; returns the page's references."""
    references = pretraining_section.references(_citations(trained, inits, settings))
    cited = _cited_datasets(tasks)
    write_text(output / "citations.bib", bibtex(works(references, cited)))
    return {
        "references": [*references, *(Reference("Data set", name, (text,), (name,)) for name, text in cited.items())],
        "bibliography": Download(output / "citations.bib"),
    }


def _imported_cells(cells: Sequence[CellRecord]) -> Counter[tuple[str, str, str, int]]:
    """How many cells of each row (data set, detector, init, seed) were computed elsewhere."""
    return Counter((cell.dataset, cell.detector, cell.init, cell.seed) for cell in cells if cell.imported)


def _write_main_table(table: pd.DataFrame, text: pd.DataFrame, note: str, output: Path) -> None:
    with atomic_path(output / "main_table.csv") as temporary:
        table.to_csv(temporary, index=False)
    write_text(output / "main_table.md", tables.to_markdown(text, note))
    write_text(output / "main_table.tex", tables.to_latex(text, note))


def _dataset_sections(
    datasets: Sequence[str],
    rows: Sequence[Row],
    cells: Sequence[CellRecord],
    scores: pd.DataFrame,
    comparison_dir: Path,
    tasks: Mapping[str, Path],
    figures: Path,
    settings: ReportSettings,
) -> tuple[list[DatasetSection], dict[str, Film]]:
    """Data set by data set, and the films of all."""
    logs = read_logs(cell.folder / "log.csv" for cell in cells)
    metrics = statistics_section.read_table(comparison_dir, "metrics")
    overlaps = {(line.dataset, line.init): line.overlap for line in scores[["dataset", "init", "overlap"]].itertuples()}
    pages, films = cell_pages(cells, logs, tasks, settings.windows, overlaps)
    sections = [
        dataset_section(
            dataset,
            [row for row in rows if row.key.dataset == dataset],
            [log for log in logs if log.dataset == dataset],
            [page for page in pages if page.record.dataset == dataset],
            scores[scores["dataset"] == dataset],
            metrics[metrics["dataset"] == dataset],
            tasks[dataset],
            settings.windows.get(dataset),
            figures,
            settings.reference,
        )
        for dataset in datasets
    ]
    return sections, films


def _citations(
    trained: Sequence[Pretraining], inits: Sequence[str], settings: ReportSettings
) -> dict[str, list[Mapping[str, Any]]]:
    """Init -> citations of the checkpoints that its rows start from."""
    found: dict[str, list[Mapping[str, Any]]] = {init: [*settings.citations.get(init, ())] for init in inits}
    for one in trained:
        if one.init in found:
            found[one.init] += one.citations
    return found


def _cited_datasets(tasks: Mapping[str, Path]) -> dict[str, str]:
    """Data set -> how to cite it, of those that say so."""
    found = {dataset: str(read_dataset_file(task)[1].get("citation") or "") for dataset, task in tasks.items()}
    return {dataset: text for dataset, text in found.items() if text}


def _write_paper_table(
    scores: pd.DataFrame, differences: pd.DataFrame, output: Path, reference: str, more: str
) -> PageTable:
    """``paper_table.{csv,md,tex}``, with ``more`` to say below; returns the table as the page shows it."""
    made = paper_table(scores, differences, reference)
    note = PAPER_NOTE.format(reference=reference)
    with atomic_path(output / "paper_table.csv") as temporary:
        made.values.to_csv(temporary)
    notes = f"{note} {more}".strip()
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


def _page_values(
    scores: pd.DataFrame, table: pd.DataFrame, text: pd.DataFrame, settings: ReportSettings
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
        "findings": [sentence for sentence in sentences if sentence is not None],
        "table": {"columns": list(text.columns), "lines": text.to_numpy().tolist()},
        "provenance": {"columns": list(provenance.columns), "lines": provenance.to_numpy().tolist()},
    }
