"""Differences to the reference as a forest plot: every row, its interval, and what stays after adjustment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from detpretrain.report.figure_files import save
from detpretrain.report.style import REFERENCE_COLOUR, init_styles, new_figure, style
from detpretrain.report.tables import HEADLINE, marked

LEVEL = 0.05
LINE_HEIGHT = 0.24  # inches


def plot_differences(differences: pd.DataFrame, path: Path, reference: str = "scratch") -> bool:
    """Writes one figure: a panel per detector, a line per data set (test set, seed) and init. False when there is none to draw.

    ``differences``: of ``comparison.compare``. Filled: p below 0.05 after Holm's adjustment for all of them.
    """
    lines = differences[(differences["metric"] == HEADLINE) & differences["low"].notna()]
    if lines.empty:
        return False
    styles = init_styles(lines["init"], reference)
    panels = [(detector, _ordered(part)) for detector, part in lines.groupby("detector")]
    heights = [len(part) + part["group"].nunique() for _, part in panels]
    with style():
        figure = new_figure(7.2, 1.2 + LINE_HEIGHT * sum(heights) + 0.45 * len(panels))
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for panel, (detector, part) in zip(axes, panels, strict=True):
            _forest(panel, part, styles)
            panel.set_title(detector, loc="left")
        axes[-1].set_xlabel(f"difference in {HEADLINE} to {reference}")
        handles = [
            Line2D([], [], color=REFERENCE_COLOUR, marker="o", mfc=fill, ls="", label=label)
            for fill, label in ((REFERENCE_COLOUR, f"p (Holm) < {LEVEL:g}"), ("white", "not shown to differ"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        figure.suptitle("Differences and their intervals", x=0.01, ha="left", fontsize=11)
        save(figure, path, lines)
    return True


def _ordered(part: pd.DataFrame) -> pd.DataFrame:
    """With the text of each line and ``group``: its data set."""
    several_seeds = part["seed"].nunique() > 1
    groups = part["dataset"] + part["test_set"].map(lambda name: "" if name == "cv" else f" ({name})")
    names = [marked(*line) for line in part[["init", "overlap"]].itertuples(index=False, name=None)]
    names = [f"{name}, seed {seed}" if several_seeds else name for name, seed in zip(names, part["seed"], strict=True)]
    return part.assign(group=groups, text=names).sort_values(["group", "init", "seed"])


def _forest(axes: Axes, part: pd.DataFrame, styles: dict[str, tuple[str, str]]) -> None:
    ticks, labels, place = [], [], 0
    for group, lines in part.groupby("group"):
        ticks.append(place)
        labels.append(group)
        place += 1
        for line in lines.to_dict("records"):
            colour = styles[line["init"]][0]
            shown = line["p_holm"] < LEVEL
            axes.plot([line["low"], line["high"]], [place, place], color=colour, lw=1.6)
            axes.plot(line["difference"], place, "o", color=colour, mfc=colour if shown else "white", ms=5)
            ticks.append(place)
            labels.append(f"{line['text']}  ")
            place += 1
    axes.axvline(0, color=REFERENCE_COLOUR, lw=1)
    axes.set_yticks(ticks, labels)
    axes.set_ylim(place - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    for label in axes.get_yticklabels():
        if label.get_text() in set(part["group"]):
            label.set_fontweight("bold")
