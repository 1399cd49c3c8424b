"""Figures of the pre-trainings: learning curves, pictures of the pretext tasks, the linear probe."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from detpretrain.report.figure_files import save
from detpretrain.report.pretraining_section import CONTENDERS, Pretraining, PreviewPanel
from detpretrain.report.style import init_styles, new_figure, style

PANEL_INCHES = 1.9
TITLE_CHARACTERS = 26  # that fit above a panel of this size
PERCENTILES = (1, 99)
_LOOKS = {  # of the probe's contenders: label, colour (Okabe & Ito), marker
    "pretrained": ("pre-trained", "#0072B2", "o"),
    "random": ("random weights", "#D55E00", "s"),
    "intensity": ("intensity alone", "#707070", "^"),
}


def plot_pretraining_curves(
    pretrainings: Sequence[Pretraining], path: Path, inits: Iterable[str], reference: str = "scratch"
) -> None:
    """Writes one figure: a panel per pre-training with its training (solid) and validation (dashed) loss over the epochs.

    ``inits``: all of the report, so that each keeps its colour. The losses of two methods do not compare, so that every panel
    has its own axis, logarithmic where all values are positive.
    """
    colours = init_styles([*inits, *(one.init for one in pretrainings)], reference)
    across = 2 if len(pretrainings) == 4 else min(3, len(pretrainings))
    down = -(-len(pretrainings) // across)
    with style():
        figure = new_figure(max(5.0, 3.3 * across), 0.8 + 2.4 * down)
        axes = figure.subplots(down, across, squeeze=False).flat
        for panel, one in zip(axes, pretrainings, strict=False):
            _curves(panel, one, colours[one.init][0])
        for unused in axes[len(pretrainings) :]:
            unused.set_axis_off()
        handles = [
            Line2D([], [], color="#404040", ls=dashes, label=label)
            for dashes, label in (("-", "training"), ("--", "validation"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        figure.suptitle("Losses of the pre-trainings", x=0.01, ha="left", fontsize=11)
        save(figure, path)


def _curves(axes: Axes, one: Pretraining, colour: str) -> None:
    values = []
    for column, dashes in (("train_loss", "-"), ("val_loss", "--")):
        line = one.log.dropna(subset=[column])
        marker = "o" if len(line) == 1 else None  # a line through one point would not be seen
        axes.plot(line["epoch"], line[column], dashes, color=colour, marker=marker, ms=3)
        values += line[column].tolist()
    if values and min(values) > 0:
        axes.set_yscale("log")
        # within a decade the powers of ten alone would leave an axis without a number
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if max(values) > 10 * min(values) else MaxNLocator(5))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title(one.name, loc="left")
    axes.set(xlabel="epoch", ylabel="loss (no unit)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def plot_preview(one: Pretraining, path: Path) -> None:
    """Writes one figure: the panels of the preview, a row per sample.

    Grey panels of a row share one window, from the 1st to the 99th percentile of all their values; labels have a colour each on
    black; matrices run from 0 to 1.
    """
    across = max(len(row) for row in one.preview)
    with style():
        figure = new_figure(PANEL_INCHES * across + 0.6, 0.5 + (PANEL_INCHES + 0.35) * len(one.preview))
        axes = figure.subplots(len(one.preview), across, squeeze=False)
        for line, row in zip(axes, one.preview, strict=True):
            window = grey_window(row)
            for panel_axes, panel in zip(line, row, strict=False):
                _draw(panel_axes, panel, window)
            matrices = [place for place, panel in enumerate(row) if panel.kind == "matrix"]
            if matrices:
                figure.colorbar(line[matrices[-1]].images[0], ax=line.tolist(), shrink=0.75, pad=0.01)
            for unused in line[len(row) :]:
                unused.set_axis_off()
        figure.suptitle(f"{one.name}: validation samples", x=0.01, ha="left", fontsize=11)
        save(figure, path)


def grey_window(row: Sequence[PreviewPanel]) -> tuple[float, float]:
    """Grey values (low, high) that the grey panels of a row share; (0, 1) without one."""
    values = [panel.values.ravel() for panel in row if panel.kind == "grey"]
    if not values:
        return 0.0, 1.0
    low, high = np.percentile(np.concatenate(values), PERCENTILES)
    return float(low), float(high) if high > low else float(low) + 1.0


def label_colours(largest: int) -> ListedColormap:
    """Black for 0, then colours that colour-blind readers can tell apart; they start anew after ten labels."""
    palette = seaborn.color_palette("colorblind").as_hex()
    return ListedColormap(["#000000", *(palette[label % len(palette)] for label in range(largest))])


def _draw(axes: Axes, panel: PreviewPanel, window: tuple[float, float]) -> None:
    shown = {"interpolation": "nearest", "aspect": "equal"}
    if panel.kind == "grey":
        axes.imshow(panel.values, cmap="gray", vmin=window[0], vmax=window[1], **shown)
    elif panel.kind == "labels":
        largest = max(int(panel.values.max()), 1)
        axes.imshow(panel.values, cmap=label_colours(largest), vmin=-0.5, vmax=largest + 0.5, **shown)
    else:
        axes.imshow(panel.values, cmap="viridis", vmin=0, vmax=1, **shown)
    if panel.kind == "matrix":
        axes.set(ylabel=panel.axes[0], xlabel=panel.axes[1])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
    else:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    axes.grid(False)
    axes.set_title(textwrap.fill(panel.title, TITLE_CHARACTERS), fontsize=8.5)


def plot_probes(pretrainings: Sequence[Pretraining], path: Path) -> None:
    """Writes one figure: per labelled data set a panel, per pre-training three lines of points, one point per repeat.

    ``pretrainings``: at least one of them probed; the others are left out.
    """
    probed = [one for one in pretrainings if one.probe is not None]
    datasets = sorted({one.probe.dataset for one in probed})
    counts = [sum(one.probe.dataset == dataset for one in probed) for dataset in datasets]
    with style():
        figure = new_figure(7.0, 1.0 + sum(0.6 + 0.55 * count for count in counts))
        axes = figure.subplots(len(datasets), 1, squeeze=False, sharex=True, height_ratios=counts)[:, 0]
        for panel, dataset in zip(axes, datasets, strict=True):
            of_dataset = [one for one in probed if one.probe.dataset == dataset]
            panel.set_title(f"{dataset}, {of_dataset[0].probe.classes} classes", loc="left")
            _probe_panel(panel, of_dataset)
        axes[-1].set_xlabel("balanced accuracy of a linear classifier (chance: 1 / classes)")
        handles = [
            Line2D([], [], color=colour, ls="", marker=marker, mfc="none", label=label)
            for label, colour, marker in _LOOKS.values()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.suptitle("Linear probe of the frozen encoders", x=0.01, ha="left", fontsize=11)
        save(figure, path)


def _probe_panel(axes: Axes, probed: Sequence[Pretraining]) -> None:
    for place, one in enumerate(probed):
        for offset, contender in zip((-0.22, 0.0, 0.22), CONTENDERS, strict=True):
            _, colour, marker = _LOOKS[contender]
            values = one.probe.accuracies[contender]
            axes.plot([np.mean(values)] * 2, [place + offset - 0.1, place + offset + 0.1], color=colour, lw=1.6)
            axes.plot(values, [place + offset] * len(values), ls="", marker=marker, ms=5, mfc="none", color=colour)
    axes.axvline(1 / probed[0].probe.classes, color="#A0A0A0", lw=1.0, ls=":")
    axes.set_yticks(range(len(probed)), [one.name for one in probed])
    axes.set_ylim(len(probed) - 0.5, -0.5)
    axes.grid(False, axis="y")
