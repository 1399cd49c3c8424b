"""A page for every cell: its scores, learning curves, boxes on slices of one case, configuration and provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import pandas as pd
import yaml

from detpretrain import volumes
from detpretrain.comparison.rows import Row, read_rows
from detpretrain.errors import InputError
from detpretrain.evaluation.matches import SIDES
from detpretrain.files import read_json
from detpretrain.report.case_selection import case_scores, choose_slices, display_threshold
from detpretrain.report.curve_chart import Chart, charts
from detpretrain.report.film import SLICES, Film, make_film
from detpretrain.report.learning_curves import TrainingLog
from detpretrain.report.overlays import default_window
from detpretrain.report.tables import marked, number
from detpretrain.tasks import Task

SHOWN_DETECTIONS = 50  # of a case, the best ones
SCORES = ("AP@0.10", "mAP@0.10:0.50", "AP@0.50")


@dataclass(frozen=True)
class CellRecord:
    """What the report is told of a cell. ``folder``: holds log.csv, metrics.json and matches.parquet; ``state``: as
    ``detpretrain status`` says; ``configuration`` and ``provenance`` are printed as they are; ``imported``: where it comes from,
    empty for one that was computed here.
    """

    dataset: str
    detector: str
    init: str
    fold: int
    seed: int
    folder: Path
    state: str
    configuration: Mapping[str, Any]
    provenance: Mapping[str, Any]
    imported: str = ""

    @property
    def anchor(self) -> str:
        return f"cell-{self.dataset}-{self.detector}-{self.init}-fold{self.fold}-seed{self.seed}"


@dataclass(frozen=True)
class CellPage:
    """``init``: as readers see it; ``film``: key of the page's films, None where no case of the fold has an object;
    ``boxes``: of its case in mm, see ``boxes_of``.
    """

    record: CellRecord
    init: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]
    charts: Sequence[Chart]
    film: str | None
    boxes: Mapping[str, Any]

    @property
    def title(self) -> str:
        cell = self.record
        return f"{cell.dataset}: {cell.detector}, {self.init}, fold {cell.fold}, seed {cell.seed}"

    @property
    def configuration(self) -> str:
        return yaml.safe_dump(_plain(self.record.configuration), sort_keys=False, allow_unicode=True)

    @property
    def provenance(self) -> str:
        return yaml.safe_dump(_plain(self.record.provenance), sort_keys=False, allow_unicode=True)


def cell_pages(
    cells: Sequence[CellRecord],
    logs: Sequence[TrainingLog],
    tasks: Mapping[str, Path],
    windows: Mapping[str, tuple[float, float]],
    overlaps: Mapping[tuple[str, str], int],
) -> tuple[list[CellPage], dict[str, Film]]:
    """Pages in the order of data set, detector, init, seed and fold, and the films they share: all cells of a fold show the
    same case, so that they can be compared.

    ``logs``: of the cells that have one. ``tasks``, ``windows``: as ``report``'s. ``overlaps``: (data set, init) -> scored
    patients that the pre-training saw.

    Raises:
        InputError: a cell's file is missing or unreadable.
    """
    by_cell = {(log.dataset, log.detector, log.init, log.fold, log.seed): log for log in logs if not log.variant}
    pages, films = [], {}
    ordered = sorted(cells, key=lambda cell: (cell.dataset, cell.fold))
    for (dataset, fold), group in groupby(ordered, key=lambda cell: (cell.dataset, cell.fold)):
        of_fold = [(cell, _held_out(cell)) for cell in group]
        key, film = f"{dataset}-fold{fold}", None
        case = median_case([row for _, row in of_fold])
        if case is not None:
            tables = [row.table[row.table["case"] == case] for _, row in of_fold]
            film = films[key] = _film(case, tables, Task.read(tasks[dataset]), windows.get(dataset))
        for cell, row in of_fold:
            log = by_cell.get((cell.dataset, cell.detector, cell.init, cell.fold, cell.seed))
            drawn = charts(log.table) if log else []
            boxes = boxes_of(row.table, film.case) if film else {}
            columns, lines = _scores(cell)
            init = marked(cell.init, overlaps.get((dataset, cell.init), 0))
            pages.append(CellPage(cell, init, columns, lines, drawn, key if film else None, boxes))
    pages.sort(key=lambda page: _order(page.record))
    return pages, films


def cell_table(pages: Sequence[CellPage]) -> pd.DataFrame:
    """The cells of a data set, each linked to its page: texts and HTML."""
    return pd.DataFrame(
        [
            {
                "detector": page.record.detector,
                "init": page.init,
                "fold": markupsafe.Markup('<a href="#{}">fold {}</a>').format(page.record.anchor, page.record.fold),
                "seed": str(page.record.seed),
                **dict(zip(page.columns, page.lines[0], strict=True)),
                "state": f"{page.record.state}, imported" if page.record.imported else page.record.state,
            }
            for page in pages
        ],
        dtype="object",  # a string type would drop what marks HTML as safe
    )


def median_case(rows: Sequence[Row]) -> str | None:
    """The case of median AP@0.10 (mean over the rows; the lower of two); None when no case has an object."""
    tables = [case_scores(row) for row in rows]
    means = pd.concat(tables).groupby("case")["AP@0.10"].mean()
    if means.empty:
        return None
    ordered = means.reset_index().sort_values(["AP@0.10", "case"], ignore_index=True)
    return str(ordered["case"][(len(ordered) - 1) // 2])


def boxes_of(table: pd.DataFrame, case: str) -> dict[str, Any]:
    """Boxes of a case as [z1, y1, x1, z2, y2, x2] in mm, detections with their score behind; ``threshold``: of the scores
    to show first, see ``display_threshold``.
    """
    lines = table[table["case"] == case]
    truths = lines[lines["kind"] == "truth"]
    found = lines[lines["kind"] == "detection"].nlargest(SHOWN_DETECTIONS, "score")
    sides = found[[*SIDES, "score"]].to_numpy(np.float64)
    return {
        "truths": truths.loc[~truths["ignored"], SIDES].to_numpy(np.float64).round(2).tolist(),
        "ignored": truths.loc[truths["ignored"], SIDES].to_numpy(np.float64).round(2).tolist(),
        "detections": sides.round(3).tolist(),
        "threshold": round(display_threshold(table), 3),
    }


def _held_out(cell: CellRecord) -> Row:
    """The matches of the fold's held-out cases; of a test set where the fold holds none out."""
    rows = read_rows([cell.folder / "matches.parquet"])
    return next((row for row in rows if row.key.test_set == "cv"), rows[0])


def _film(case: str, tables: Sequence[pd.DataFrame], task: Task, window: tuple[float, float] | None) -> Film:
    """``tables``: lines of the case in every cell; objects are the same in all of them, detections choose slices too."""
    image, geometry = volumes.read(task.image_paths(case)[0])
    truths = tables[0].loc[tables[0]["kind"] == "truth", SIDES].to_numpy(np.float64)
    everything = pd.concat(tables)
    best = everything[everything["kind"] == "detection"].nlargest(SHOWN_DETECTIONS, "score")
    wanted = choose_slices(truths, best[SIDES].to_numpy(np.float64), geometry.spacing[0], image.shape[0], SLICES // 2)
    return make_film(case, image, geometry.spacing, window or default_window(image, task.modalities[0]), wanted)


def _scores(cell: CellRecord) -> tuple[list[str], list[list[str]]]:
    path = cell.folder / "metrics.json"
    columns = ["test set", *SCORES, "FROC@0.10", "cases", "objects", "detections"]
    try:
        lines = [
            [
                test_set,
                *(number(_value(scores[name])) for name in SCORES),
                number(_value(scores["FROC@0.10"]["score"])),
                *(str(scores["counts"][name]) for name in ("images", "objects", "detections")),
            ]
            for test_set, scores in _held_out_first(read_json(path)["test_sets"])
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not the metrics of a cell ({error}): run evaluate again") from None
    if not lines:
        raise InputError(f"{path}: no test set in it: run evaluate again")
    return columns, lines


def _held_out_first(test_sets: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from sorted(test_sets.items(), key=lambda item: (item[0] != "cv", item[0]))


def _value(score: float | None) -> float:
    return float("nan") if score is None else float(score)


def _plain(value: Mapping[str, Any]) -> Any:
    """Without types that YAML would name."""
    return json.loads(json.dumps(value, default=str))


def _order(cell: CellRecord) -> tuple[Any, ...]:
    return cell.dataset, cell.detector, cell.init, cell.seed, cell.fold
