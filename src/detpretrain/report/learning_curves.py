"""Learning curves of the cells of a data set, from the ``log.csv`` that every training writes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from detpretrain.errors import InputError
from detpretrain.report.style import init_styles, new_figure, save, style

CELL_FOLDER = re.compile(r"fold(?P<fold>\d+)-seed(?P<seed>\d+)(?P<variant>(-\w+)?)")
REQUIRED = ("epoch", "train_loss")


@dataclass(frozen=True)
class TrainingLog:
    """One fold's training. ``variant``: what follows the seed in the cell's name (``-frac25``), else empty."""

    dataset: str
    detector: str
    init: str
    fold: int
    seed: int
    variant: str
    table: pd.DataFrame

    @property
    def row(self) -> tuple[str, str, int, str]:
        return self.detector, self.init, self.seed, self.variant

    @property
    def title(self) -> str:
        return f"{self.detector}, {self.init}, seed {self.seed}{self.variant.replace('-', ', ')}"


def read_logs(paths: Iterable[Path]) -> list[TrainingLog]:
    """Reads ``.../DATASET/DETECTOR/INIT/foldF-seedS/log.csv`` files; what a log is of stands in its path.

    Raises:
        InputError: a path of another form, a file that is no csv, or without the columns epoch and train_loss.
    """
    logs = []
    for path in map(Path, paths):
        parts = path.absolute().parts
        found = CELL_FOLDER.fullmatch(parts[-2])
        if found is None or len(parts) < 6:
            raise InputError(f"{path}: not a cell's log: expected DATASET/DETECTOR/INIT/foldF-seedS/log.csv")
        try:
            table = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as csv ({error}): run finetune again") from None
        missing = [name for name in REQUIRED if name not in table]
        if missing:
            raise InputError(f"{path}: no column {', '.join(missing)}: run finetune again")
        dataset, detector, init = parts[-5:-2]
        logs.append(
            TrainingLog(dataset, detector, init, int(found["fold"]), int(found["seed"]), found["variant"], table)
        )
    return sorted(logs, key=lambda log: (log.dataset, *log.row, log.fold))


def plot_learning_curves(logs: list[TrainingLog], path: Path, reference: str = "scratch") -> None:
    """Writes one figure: per row of the study a panel with the losses and one with the validation AP, folds as thin lines.

    ``logs``: of one data set, at least one. All panels of a column share their axes, so that rows compare by eye.
    """
    rows: dict[tuple, list[TrainingLog]] = {}
    for log in sorted(logs, key=lambda log: (log.detector, log.init != reference, *log.row, log.fold)):
        rows.setdefault(log.row, []).append(log)
    with style():
        figure = new_figure(8.2, 0.6 + 2.0 * len(rows))
        axes = figure.subplots(len(rows), 2, squeeze=False, sharex=True, sharey="col")
        colours = init_styles((log.init for log in logs), reference)
        for (loss_axes, ap_axes), of_row in zip(axes, rows.values(), strict=True):
            colour = colours[of_row[0].init][0]
            folds = f"{len(of_row)} fold" + ("s" if len(of_row) > 1 else "")
            loss_axes.set_title(f"{of_row[0].title} ({folds})", loc="left")
            _loss_panel(loss_axes, of_row, colour)
            _ap_panel(ap_axes, of_row, colour)
        for panel in axes[-1]:
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0, 0].legend(loc="upper right")
        figure.suptitle(f"Learning curves on {logs[0].dataset}", x=0.01, ha="left", fontsize=11)
        save(figure, path)


def _loss_panel(axes: Axes, logs: list[TrainingLog], colour: str) -> None:
    for i, log in enumerate(logs):
        for column, dashes, label in (("train_loss", "-", "training"), ("val_loss", "--", "validation")):
            if column in log.table and log.table[column].notna().any():
                _line(axes, log, column, colour, dashes, label if i == 0 else None)
    axes.set_ylabel("loss (no unit)")


def _ap_panel(axes: Axes, logs: list[TrainingLog], colour: str) -> None:
    axes.set_ylim(0, 1)
    axes.set_ylabel("validation AP")
    drawn = [log for log in logs if "val_ap" in log.table and log.table["val_ap"].notna().any()]
    for log in drawn:
        _line(axes, log, "val_ap", colour, "-", None)
    if not drawn:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="#606060")


def _line(axes: Axes, log: TrainingLog, column: str, colour: str, dashes: str, label: str | None) -> None:
    defined = log.table.dropna(subset=[column])
    marker = "o" if len(defined) == 1 else None  # a line through one point would not be seen
    axes.plot(
        defined["epoch"], defined[column], dashes, color=colour, lw=0.9, alpha=0.85, marker=marker, ms=3, label=label
    )
