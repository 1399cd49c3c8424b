"""The state of a study for people and for programs: a table by row with what is not fresh, or one JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from detpretrain import status
from detpretrain.attempts import Run
from detpretrain.status import FAILED, FRESH, MISSING, RUNNING, STATES, Now
from detpretrain.study import Row, Study

IMPORTED = "imported"


def print_status(study: Study, console: Console) -> None:
    """Cells by row and state, what is not fresh and why, what was imported, pre-trainings, and which rows are put together."""
    cells, pretrainings = status.now(study, status.cell_states(study))
    console.print(_rows(study, cells))
    origins = Counter(f"{cell.imported}, {cell.imported.date}" for cell in cells if cell.imported)
    for origin, count in sorted(origins.items()):
        text = f"imported from {origin}: {count} cell{'' if count == 1 else 's'}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    for cell in cells:
        if cell.state != FRESH:
            console.print(f"{cell.name}: {_reason(cell)}", soft_wrap=True, highlight=False, markup=False)
    for (init, backbone), made in zip(study.pretrainings, pretrainings, strict=True):
        text = f"pre-training {init} of {backbone}: {_reason(made)}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def document(study: Study) -> dict[str, Any]:
    """The same as JSON: every cell, pre-training and row; ``running`` is null for what does not run, ``imported`` for what was
    computed here.
    """
    cells, pretrainings = status.now(study, status.cell_states(study))
    counts = Counter(cell.state for cell in cells)
    return {
        "study": study.name,
        "counts": {state: counts[state] for state in STATES},
        "cells": [_entry(cell) for cell in cells],
        "pretrainings": [_entry(made) for made in pretrainings],
        "rows": [{"path": row.path, "pooled": _pooled(study, row)} for row in study.rows],
    }


def _entry(now: Now) -> dict[str, Any]:
    running = None
    if now.run is not None:
        running = asdict(now.run)
        progress = running.pop("progress")
        running["heartbeat_age"] = round(now.run.heartbeat_age, 1)
        running |= {name: progress[name] if progress else None for name in ("step", "total")}
    mark = now.imported.content if now.imported else None
    return {"path": now.name, "state": now.state, "stages": dict(now.stages), "running": running, "imported": mark}


def _rows(study: Study, cells: Sequence[Now]) -> Table:
    counts: dict[Row, Counter[str]] = {row: Counter() for row in study.rows}
    for cell, found in zip(study.cells, cells, strict=True):
        row = counts[Row(cell.dataset, cell.detector, cell.init, cell.seed)]
        row[found.state] += 1
        row[IMPORTED] += found.imported is not None
    # a column of zeros for those who import nothing would cost the width of a terminal
    columns = [*STATES, IMPORTED] if any(found[IMPORTED] for found in counts.values()) else STATES
    table = Table(title=f"study {study.name}: cells", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("row", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="right", max_width=8 if heading == IMPORTED else 7)
    table.add_column("pooled")
    for row, found in counts.items():
        pooled = "yes" if _pooled(study, row) else "no"
        table.add_row(row.path.replace("/", " "), *(str(found[column]) for column in columns), pooled)
    return table


def _pooled(study: Study, row: Row) -> bool:
    return (study.folder / "rows" / row.path / "metrics.json").exists()


def _reason(now: Now) -> str:
    if now.run is not None:
        return f"{RUNNING}: {_position(now.run)} on {now.run.host}, process {now.run.pid}"
    reasons = "; ".join(f"{stage}: {what}" for stage, what in now.stages.items())
    origin = f", imported from {now.imported}" if now.imported else ""
    if not reasons:
        return f"{now.state}{origin}"
    return f"{now.state}: {reasons}{origin}" if now.state in (FAILED, MISSING) else f"{reasons}{origin}"


def _position(run: Run) -> str:
    return f"step {run.progress.step} of {run.progress.total}" if run.progress else "before its first steps"
