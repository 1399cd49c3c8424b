"""FROC curves of all rows of one data set, from their matches tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from detpretrain.comparison.row_metrics import WHOLE
from detpretrain.comparison.rows import KEY, Row, froc_points
from detpretrain.evaluation.froc import FPPI
from detpretrain.evaluation.matches import Run
from detpretrain.report.figure_files import save
from detpretrain.report.style import init_styles, new_figure, style
from detpretrain.report.tables import marked

FPPI_LABELS = ("1/8", "1/4", "1/2", "1", "2", "4", "8")
FPPI_RANGE = (0.1, 10.0)
IOU = "0.10"


def plot_froc(
    rows: list[Row],
    path: Path,
    reference: str = "scratch",
    overlaps: Mapping[str, int] | None = None,
    metrics: pd.DataFrame | None = None,
) -> None:
    """Writes one figure: a panel per test set (down) and detector (across), a line per init; seeds share their colour.

    ``rows``: of one data set, at least one. ``overlaps``: init -> scored patients that its pre-training saw, 0 where not named.
    ``metrics``: lines of ``metrics.csv`` of the data set, for the intervals. Marked: sensitivity at the seven false-positive
    rates that the score averages.
    """
    bands = {} if metrics is None else _bands(metrics)
    test_sets = sorted({row.key.test_set for row in rows}, key=lambda name: (name != "cv", name))
    detectors = sorted({row.key.detector for row in rows})
    styles = init_styles((row.key.init for row in rows), reference)
    present = [init for init in styles if any(row.key.init == init for row in rows)]
    with style():
        figure = new_figure(max(6.4, 4.2 * len(detectors)), 0.9 + 3.6 * len(test_sets))
        axes = figure.subplots(len(test_sets), len(detectors), squeeze=False, sharex=True, sharey=True)
        for line, test_set in zip(axes, test_sets, strict=True):
            for panel, detector in zip(line, detectors, strict=True):
                panel.set_title(f"{detector} ({test_set})", loc="left")
                for row in rows:
                    if (row.key.test_set, row.key.detector) == (test_set, detector):
                        _curve(panel, row, styles[row.key.init], row.key.init == reference)
                        if row.key in bands:
                            panel.fill_between(FPPI, *bands[row.key], color=styles[row.key.init][0], alpha=0.12, lw=0)
                _axes(panel)
        for panel in axes[-1]:
            panel.set_xlabel("false positives per case")
        for panel in axes[:, 0]:
            panel.set_ylabel(f"sensitivity at IoU {IOU}")
        handles = [
            Line2D([], [], color=styles[init][0], ls=styles[init][1], marker="o", ms=4, label=marked(init, overlap))
            for init, overlap in ((init, (overlaps or {}).get(init, 0)) for init in present)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
        figure.suptitle(f"FROC on {rows[0].key.dataset}", x=0.01, ha="left", fontsize=11)
        save(figure, path, pd.concat([_points(row) for row in rows], ignore_index=True))


def _bands(metrics: pd.DataFrame) -> dict[Run, tuple[np.ndarray, np.ndarray]]:
    """Row -> low and high end of the sensitivity at each of the seven rates [7], where there is an interval."""
    names = [f"sensitivity@{rate:g}" for rate in FPPI]
    lines = metrics[(metrics["part"] == WHOLE) & metrics["fold"].isna() & metrics["metric"].isin(names)]
    bands = {}
    for values, part in lines.groupby(list(KEY)):
        ends = part.set_index("metric").loc[names, ["low", "high"]].to_numpy(np.float64)
        if not np.isnan(ends).any():
            bands[Run(*map(str, values[:-1]), seed=int(values[-1]))] = (ends[:, 0], ends[:, 1])
    return bands


def _points(row: Row) -> pd.DataFrame:
    """The curve of a row, point by point."""
    false_positives, sensitivity = froc_points(row.cases, IOU)
    points = {"false_positives_per_case": false_positives, "sensitivity": sensitivity}
    return pd.DataFrame({**asdict(row.key), **points})


def _curve(axes: Axes, row: Row, look: tuple[str, str], is_reference: bool) -> None:
    colour, dashes = look
    # The reference is thick and below the others, so that it shows where another row has the same curve.
    width, order = (3.2, 2.0) if is_reference else (1.6, 2.5)
    false_positives, sensitivity = froc_points(row.cases, IOU)
    grid = np.geomspace(*FPPI_RANGE, 400)
    # Linear between the points and the last value to the right: the curve that the score is read from.
    axes.plot(grid, np.interp(grid, false_positives, sensitivity), dashes, color=colour, lw=width, zorder=order)
    axes.plot(FPPI, np.interp(FPPI, false_positives, sensitivity), "o", color=colour, ms=2 + 1.6 * width, zorder=order)


def _axes(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*FPPI_RANGE)
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(FixedLocator(FPPI))
    axes.xaxis.set_major_formatter(FixedFormatter(FPPI_LABELS))
    axes.xaxis.set_minor_locator(NullLocator())
