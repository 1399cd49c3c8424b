"""Learning curves of the cells of a data set, from the ``log.csv`` that every training writes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from detpretrain.errors import InputError
from detpretrain.report.figure_files import save
from detpretrain.report.style import init_styles, new_figure, style

CELL_FOLDER = re.compile(r"fold(?P<fold>\d+)-seed(?P<seed>\d+)(?P<variant>(-\w+)?)")
REQUIRED = ("epoch", "train_loss")
AP_LABEL = "validation AP@0.10"
PANELS = (("train_loss", "training loss (no unit)"), ("val_loss", "validation loss (no unit)"), ("val_ap", AP_LABEL))


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
    def label(self) -> str:
        """The init, with the variant where there is one."""
        return self.init + self.variant.replace("-", ", ")


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
    return sorted(logs, key=lambda log: (log.dataset, log.detector, log.label, log.seed, log.fold))


def plot_learning_curves(logs: list[TrainingLog], path: Path, reference: str = "scratch") -> None:
    """Writes one figure: per detector a line of panels (training loss, validation loss, validation AP), a curve per init.

    ``logs``: of one data set, at least one. Thick: the mean over folds and seeds of the epochs that all of them have; thin: each
    of them. Losses of two detectors are no neighbours on a scale, so each line of panels has its own; AP is from 0 to 1 in all.
    """
    detectors = sorted({log.detector for log in logs})
    styles = init_styles((log.label for log in logs), reference)
    present = [init for init in styles if any(log.label == init for log in logs)]
    with style():
        figure = new_figure(10.2, 0.9 + 2.5 * len(detectors))
        axes = figure.subplots(len(detectors), len(PANELS), squeeze=False, sharex=True)
        for line, detector in zip(axes, detectors, strict=True):
            line[1].sharey(line[0])  # before anything is drawn, so that the range is of both
            of_detector = [log for log in logs if log.detector == detector]
            for panel, (column, label) in zip(line, PANELS, strict=True):
                for init in present:
                    of_init = [log for log in of_detector if log.label == init]
                    _curves(panel, of_init, column, styles[init], init == reference)
                _axes(panel, label)
            line[0].set_title(detector, loc="left")
        for panel in axes[-1]:
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [Line2D([], [], color=styles[init][0], ls=styles[init][1], label=init) for init in present]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
        figure.suptitle(f"Learning curves on {logs[0].dataset}", x=0.01, ha="left", fontsize=11)
        save(figure, path, pd.concat([_curve_table(log) for log in logs], ignore_index=True))


def _curve_table(log: TrainingLog) -> pd.DataFrame:
    """The drawn columns of a log, with what it is the log of."""
    columns = ["epoch", *(column for column, _ in PANELS if column in log.table)]
    about = {"detector": log.detector, "init": log.label, "fold": log.fold, "seed": log.seed}
    return log.table[columns].assign(**about)[[*about, *columns]]


def _curves(axes: Axes, logs: list[TrainingLog], column: str, look: tuple[str, str], is_reference: bool) -> None:
    """The curve of every log of an init, and their mean."""
    tables = [log.table.set_index("epoch")[column].dropna() for log in logs if column in log.table]
    tables = [table for table in tables if len(table)]
    colour, dashes = look
    order = 2.0 if is_reference else 2.5  # the reference is thick and below, as in the FROC figure
    for table in tables:
        axes.plot(table.index, table, dashes, color=colour, lw=0.6, alpha=0.45, zorder=order)
    if tables:
        mean = pd.concat(tables, axis=1, join="inner").mean(axis=1)
        marker = "o" if len(mean) == 1 else None  # a line through one point would not be seen
        axes.plot(
            mean.index, mean, dashes, color=colour, lw=2.8 if is_reference else 1.6, marker=marker, ms=4, zorder=order
        )


def _axes(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    if label == AP_LABEL:
        axes.set_ylim(0, 1)
    if not axes.lines:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="#606060")
