"""Gains over the reference as a heat map: where does which pre-training help?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from detpretrain.report.figure_files import save
from detpretrain.report.style import new_figure, style
from detpretrain.report.tables import HEADLINE, marked

LEVEL = 0.05
COLOURS = "PuOr_r"  # diverging, apart in every common colour-vision deficiency, and in grey by its middle


def plot_gains(differences: pd.DataFrame, path: Path, reference: str = "scratch") -> bool:
    """Writes one figure: a line per detector and init, a column per data set and test set, mean differences over the seeds.

    ``differences``: of ``comparison.compare``. An asterisk: p below 0.05 after Holm's adjustment in every seed. False with a
    single column, which the forest plot shows better.
    """
    lines = differences[(differences["metric"] == HEADLINE) & differences["difference"].notna()]
    columns = [f"{d}\n({t})" if t != "cv" else d for d, t in zip(lines["dataset"], lines["test_set"], strict=True)]
    names = [marked(*line) for line in zip(lines["init"], lines["overlap"], strict=True)]
    lines = lines.assign(column=columns, name=lines["detector"] + "  " + pd.Series(names, lines.index, dtype="object"))
    values = lines.pivot_table("difference", "name", "column", aggfunc="mean")
    if values.shape[1] < 2:
        return False
    adjusted = lines.pivot_table("p_holm", "name", "column", aggfunc="max").reindex_like(values)
    limit = max(0.01, float(np.nanmax(np.abs(values.to_numpy()))))
    with style():
        figure = new_figure(2.6 + 1.05 * values.shape[1], 1.4 + 0.34 * len(values))
        axes = figure.subplots()
        drawn = axes.imshow(values, cmap=COLOURS, vmin=-limit, vmax=limit, aspect="auto")
        for (line, column), value in np.ndenumerate(values.to_numpy()):
            if np.isnan(value):
                text, colour = "–", "black"
            else:
                star = "*" if adjusted.iloc[line, column] < LEVEL else ""
                text = f"{value:+.2f}{star}".replace("-", "−")
                colour = "white" if abs(value) > 0.7 * limit else "black"
            axes.text(column, line, text, ha="center", va="center", color=colour, fontsize=8.5)
        axes.set_xticks(range(values.shape[1]), values.columns, rotation=30, ha="right")
        axes.set_yticks(range(len(values)), values.index)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        figure.colorbar(drawn, label=f"difference in {HEADLINE} to {reference}", shrink=0.8)
        figure.suptitle("Gains", x=0.01, ha="left", fontsize=11)
        save(figure, path, values.reset_index())
    return True
