"""Mean ranks of the initialisations of each detector: with intervals, and as a critical-difference diagram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from detpretrain.comparison.ranking import cliques
from detpretrain.report.figure_files import save
from detpretrain.report.style import REFERENCE_COLOUR, init_styles, new_figure, style

LINE_HEIGHT = 0.26  # inches


def plot_ranks(ranks: pd.DataFrame, path: Path, reference: str = "scratch") -> bool:
    """Writes one figure: a panel per detector, a line per init: mean rank over data sets, interval over draws of patients.

    ``ranks``: of ``comparison.compare``. False with a single data set, where a rank is only the order of the scores.
    """
    lines = ranks[ranks["blocks"] > 1]
    if lines.empty:
        return False
    styles = init_styles(lines["init"], reference)
    panels = [(detector, part.sort_values("mean_rank", kind="stable")) for detector, part in lines.groupby("detector")]
    heights = [len(part) for _, part in panels]
    with style():
        figure = new_figure(6.4, 1.0 + LINE_HEIGHT * sum(heights) + 0.45 * len(panels))
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for panel, (detector, part) in zip(axes, panels, strict=True):
            for place, line in enumerate(part.to_dict("records")):
                colour = styles[line["init"]][0]
                panel.plot([line["low"], line["high"]], [place, place], color=colour, lw=1.6)
                panel.plot(line["mean_rank"], place, "o", color=colour, ms=5)
            panel.set_yticks(range(len(part)), part["init"])
            panel.set_ylim(len(part) - 0.5, -0.5)
            panel.set_title(detector, loc="left")
        axes[-1].set_xlabel("mean rank over data sets (1 = best)")
        figure.suptitle("Ranks", x=0.01, ha="left", fontsize=11)
        save(figure, path, lines)
    return True


def plot_critical_differences(ranks: pd.DataFrame, path: Path) -> bool:
    """Writes one figure: Demšar's diagram per detector; bars join inits that the Nemenyi test cannot tell apart.

    False where no detector has a critical difference (fewer than two data sets or three inits).
    """
    lines = ranks[ranks["critical_difference"].notna()]
    if lines.empty:
        return False
    panels = [(detector, part.sort_values("mean_rank", kind="stable")) for detector, part in lines.groupby("detector")]
    heights = [1.0 + LINE_HEIGHT * ((len(part) + 1) // 2) for _, part in panels]
    with style():
        figure = new_figure(7.2, 0.5 + sum(heights) + 0.3 * len(panels))
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, (detector, part) in zip(axes, panels, strict=True):
            _diagram(panel, part)
            panel.set_title(f"{detector}: critical difference {part['critical_difference'].iloc[0]:.2f}", loc="left")
        figure.suptitle("Ranks that cannot be told apart", x=0.01, ha="left", fontsize=11)
        save(figure, path, lines)
    return True


def _diagram(axes: Axes, part: pd.DataFrame) -> None:
    """The axis of ranks at the top, the better half named to the left, the other to the right, bars between."""
    mean_rank, names = part["mean_rank"].to_numpy(np.float64), part["init"].tolist()
    k, half = len(names), (len(names) + 1) // 2
    groups = cliques(mean_rank, float(part["critical_difference"].iloc[0]))
    below = 0.25 + 0.16 * len(groups)
    axes.set_xlim(1 - 0.45 * (k - 1), k + 0.45 * (k - 1))
    axes.set_ylim(below + 0.3 * half + 0.15, -0.35)
    axes.axis("off")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.hlines(0, 1, k, color=REFERENCE_COLOUR, lw=1.2)
    for rank in range(1, k + 1):
        axes.vlines(rank, -0.08, 0, color=REFERENCE_COLOUR, lw=1.2)
        axes.text(rank, -0.12, str(rank), ha="center", va="bottom")
    for number, group in enumerate(groups):
        depth = 0.2 + 0.16 * number
        axes.hlines(depth, mean_rank[group[0]] - 0.04, mean_rank[group[-1]] + 0.04, color=REFERENCE_COLOUR, lw=3.5)
    for place, (rank, name) in enumerate(zip(mean_rank, names, strict=True)):
        left = place < half
        depth = below + 0.3 * (place if left else k - 1 - place) + 0.15
        end = 1 - 0.08 * (k - 1) if left else k + 0.08 * (k - 1)
        axes.plot([rank, rank, end], [0, depth, depth], color=REFERENCE_COLOUR, lw=0.9)
        text = f"{name} ({rank:.1f})"
        axes.text(end + (-0.03 if left else 0.03) * (k - 1), depth, text, ha="right" if left else "left", va="center")
