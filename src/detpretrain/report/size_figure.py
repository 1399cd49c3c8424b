"""Scores by size of the objects: where a pre-training helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from detpretrain.comparison.subsets import SIZES
from detpretrain.report.figure_files import save
from detpretrain.report.style import init_styles, new_figure, style

METRIC = "FROC@0.10"
WIDTH = 0.7  # of a size's place that its inits share


def plot_sizes(metrics: pd.DataFrame, path: Path, reference: str = "scratch") -> bool:
    """Writes one figure of one data set: a panel per detector (and test set), per size a point and interval for each init.

    ``metrics``: lines of ``metrics.csv`` of the data set; seeds share their place. False when it has no parts by size.
    """
    lines = metrics[metrics["part"].isin(SIZES) & metrics["fold"].isna() & (metrics["metric"] == METRIC)]
    if lines.empty:
        return False
    styles = init_styles(lines["init"], reference)
    present = [init for init in styles if (lines["init"] == init).any()]
    panels = sorted({(line.test_set != "cv", line.test_set, line.detector) for line in lines.itertuples()})
    with style():
        figure = new_figure(max(6.4, 3.4 * len(panels)), 4.2)
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for panel, (_, test_set, detector) in zip(axes, panels, strict=True):
            own = lines[(lines["test_set"] == test_set) & (lines["detector"] == detector)]
            for number, init in enumerate(present):
                shift = WIDTH * ((number + 0.5) / len(present) - 0.5)
                _points(panel, own[own["init"] == init], shift, styles[init][0], init)
            panel.set_title(f"{detector} ({test_set})", loc="left")
            panel.set_xticks(range(len(SIZES)), SIZES)
            panel.set_xlim(-0.5, len(SIZES) - 0.5)
            panel.set_ylim(0, 1)
            panel.grid(axis="x", visible=False)
        axes[0].set_ylabel(f"{METRIC} (mean sensitivity)")
        handles, labels = axes[0].get_legend_handles_labels()
        for panel in axes[1:]:
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                if label not in labels:
                    handles, labels = [*handles, handle], [*labels, label]
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
        figure.suptitle(f"By size of the objects on {lines['dataset'].iloc[0]}", x=0.01, ha="left", fontsize=11)
        save(figure, path, lines)
    return True


def _points(axes, lines: pd.DataFrame, shift: float, colour: str, label: str) -> None:
    if lines.empty:
        return
    places = np.array([SIZES.index(part) for part in lines["part"]]) + shift
    axes.vlines(places, lines["low"], lines["high"], color=colour, lw=1.6)
    axes.plot(places, lines["value"], "o", color=colour, ms=4.5, label=label)
