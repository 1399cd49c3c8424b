"""The report of a study from its results folder: of the whole study for the workflow, or of what is there so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from detpretrain import leaves, status
from detpretrain.comparison.settings import CompareSettings
from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.report.cell_pages import CellRecord
from detpretrain.report.cost import JobCost, of_record
from detpretrain.report.report import report
from detpretrain.status import FRESH, MISSING, CellState
from detpretrain.study import Row, Study
from detpretrain.tasks import read_splits

NAMED = 3


def write_report(
    study: Study, root: Path, comparison: Path, rows: Sequence[Row], output: Path, processes: int = 1
) -> list[str]:
    """Writes the report of ``rows``, which ``comparison`` (a folder) compares, and of all cells that are finished.

    ``root``: of the repository, for published numbers. Returns the names of what the study has and its results lack.
    """
    states = status.cell_states(study)
    present = [state for state in states if state.state != MISSING]
    pretrained = [folder for folder in _pretraining_folders(study) if (folder / "assessment.json").exists()]
    missing = [
        *(f"cell {state.cell.path}" for state in states if state.state == MISSING),
        *(f"row {row.path}" for row in study.rows if row not in rows),
        *(
            f"pre-training {'/'.join(folder.parts[-2:])}"
            for folder in _pretraining_folders(study)
            if folder not in pretrained
        ),
    ]
    compared = CompareSettings.of(study.config["comparison"])
    settings = {
        "reference": compared.reference,
        "margin": compared.margin,
        "provenance": status.summary(states),
        "citations": _given_citations(study, present),
        "costs": [*_cell_costs(study, present), *_pretraining_costs(pretrained)],
        "missing": missing,
        "optimistic": [row.path for row in rows if _chosen_on_scored(study, row)],
        "published": root / "config" / "reference",
    }
    report(
        comparison,
        [study.folder / "rows" / row.path / "matches.parquet" for row in rows],
        [_record(study, state) for state in present],
        {row.dataset: study.data / row.dataset / "task" for row in study.rows},
        output,
        settings,
        pretrained,
        processes,
    )
    return missing


def report_so_far(study: Study, root: Path, output: Path) -> list[str]:
    """Compares and reports the rows that are whole, into ``output/comparison`` and ``output/report``; returns what is missing.

    Raises:
        InputError: no row is whole, or the patients of a row were not checked against its pre-training's.
    """
    # here: the workflow's report does without, and statsmodels takes seconds
    from detpretrain.comparison.compare import compare

    rows = [row for row in study.rows if (study.folder / "rows" / row.path / "metrics.json").exists()]
    if not rows:
        raise InputError(f"{study.folder / 'rows'}: no row of the study is whole yet: let the workflow finish one")
    files = [study.folder / "rows" / row.path / "matches.parquet" for row in rows]
    overlaps = {(row.dataset, row.init): _overlap(study, row) for row in rows}
    compare(files, output / "comparison", study.config["comparison"], overlaps, leaves.kinds(study))
    return write_report(study, root, output / "comparison", rows, output / "report")


def require_fresh(study: Study) -> None:
    """For a report that must rest on today's source and configuration alone.

    Raises:
        InputError: a cell is stale or missing; the first ones are named.
    """
    states = status.cell_states(study)
    others = [f"{state.cell.path} ({state.state})" for state in states if state.state != FRESH]
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        raise InputError(
            f"study {study.name}: {len(others)} of {len(states)} cells are not fresh: {', '.join(others[:NAMED])}{more}: "
            "see `detpretrain status`, and make them again or leave --strict out"
        )


def _overlap(study: Study, row: Row) -> int:
    """Scored patients that the row's pre-training saw, as the guard found before the row was trained."""
    if not (study.needs_pretraining(row.init) or study.checkpoint(row.init)):
        return 0
    return len(read_json(study.folder / "leakage" / row.init / f"{row.dataset}.json")["patients"])


def _chosen_on_scored(study: Study, row: Row) -> bool:
    """Whether a row's post-processing was chosen on the cases that score it: the study asked for that, or an engine does so.

    Folds with a test part score cases that choose nothing.
    """
    path = study.folder / "rows" / row.path / "postprocessing.json"
    if not (path.exists() and read_json(path)["faithful_sweep"]):
        return False
    return "test" not in read_splits(study.results / "data" / row.dataset / "task" / "splits.json")[0]


def _pretraining_folders(study: Study) -> list[Path]:
    return [study.folder / "pretrained" / init / backbone for init, backbone in study.pretrainings]


def _record(study: Study, state: CellState) -> CellRecord:
    cell = state.cell
    configuration = {
        **leaves.finetune(study, cell.detector, cell.init, cell.fold, cell.seed),
        **leaves.predict(study, cell.detector),
        "init": study.entry("inits", cell.init),
    }
    where = study.folder / "cells" / cell.path
    name = (cell.dataset, cell.detector, cell.init, cell.fold, cell.seed)
    provenance, origin = state.recorded, ""
    if state.imported is not None:
        provenance, origin = {**provenance, "imported": state.imported.content}, str(state.imported)
    return CellRecord(*name, where, state.state, configuration, provenance, origin)


def _training_seconds(log: Path) -> float:
    """Of all epochs, those before an interruption too."""
    return float(pd.read_csv(log)["seconds"].sum())


def _cell_costs(study: Study, states: Sequence[CellState]) -> Iterator[JobCost]:
    for state in states:
        cell, log = state.cell, study.folder / "cells" / state.cell.path / "log.csv"
        recorded = {stage: state.recorded.get(stage, {}) for stage in ("finetune", "predict")}
        yield of_record("fine-tuning", cell.detector, cell.init, recorded["finetune"], _training_seconds(log))
        yield of_record("prediction", cell.detector, cell.init, recorded["predict"])


def _pretraining_costs(folders: Sequence[Path]) -> Iterator[JobCost]:
    for folder in folders:
        found = read_json(folder / "assessment.json")
        seconds = _training_seconds(folder / "log.csv")
        yield of_record("pre-training", found["backbone"], found["init"], found["provenance"], seconds)


def _given_citations(study: Study, states: Sequence[CellState]) -> dict[str, list[dict[str, Any]]]:
    """What the cells recorded of checkpoints that this study did not train."""
    recorded = {state.cell.init: state.recorded["pretrain"].get("citations", []) for state in states}
    return {init: citations for init, citations in recorded.items() if study.checkpoint(init)}
