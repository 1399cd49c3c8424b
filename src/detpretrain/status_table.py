"""The state of a study on the terminal: a table by row, and the cells that are not fresh."""

from __future__ import annotations

from collections import Counter

from rich import box
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
    table = Table(title=f"study {study.name}: cells", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("row", overflow="fold")
    for heading in STATES:
        table.add_column(heading, justify="right", max_width=7)
    table.add_column("pooled")
    for row, found in counts.items():
        pooled = (study.folder / "rows" / row.path / "metrics.json").exists()
        table.add_row(row.path.replace("/", " "), *(str(found[state]) for state in STATES), "yes" if pooled else "no")
    return table


def _reason(state: CellState) -> str:
    return "; ".join(f"{stage}: {what}" for stage, what in state.stages.items()) or state.state
