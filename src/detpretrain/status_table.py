"""The state of a study on the terminal: a table by row, and the cells that are not fresh."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from detpretrain.status import FRESH, MISSING, RECIPE, SOURCE, CellState, cell_states
from detpretrain.study import Row, Study

STATES = (FRESH, SOURCE, RECIPE, MISSING)


def print_status(study: Study, console: Console) -> None:
    """Cells by row and state, what is not fresh and why, and which pre-trainings and rows exist."""
    states = cell_states(study)
    console.print(_rows(study, states))
    for state in states:
        if state.state != FRESH:
            console.print(f"{state.cell.path}: {_reason(state)}", soft_wrap=True, highlight=False)
    for init, backbone in study.pretrainings:
        made = (study.folder / "pretrained" / init / backbone / "checkpoint.pth").exists()
        console.print(f"pre-training {init} of {backbone}: {'made' if made else MISSING}", highlight=False)


def _rows(study: Study, states: list[CellState]) -> Table:
    counts: dict[Row, Counter[str]] = {row: Counter() for row in study.rows}
    for state in states:
        cell = state.cell
        counts[Row(cell.dataset, cell.detector, cell.init, cell.seed)][state.state] += 1
    table = Table(title=f"study {study.name}: cells")
    for heading in ("data set", "detector", "initialisation"):
        table.add_column(heading, overflow="fold")
    for heading in ("seed", *STATES):
        table.add_column(heading, justify="right")
    table.add_column("consolidated")
    for row, found in counts.items():
        made = (study.folder / "rows" / row.path / "metrics.json").exists()
        numbers = [str(found[state]) for state in STATES]
        table.add_row(row.dataset, row.detector, row.init, str(row.seed), *numbers, "yes" if made else "no")
    return table


def _reason(state: CellState) -> str:
    return "; ".join(f"{stage}: {what}" for stage, what in state.stages.items()) or state.state
