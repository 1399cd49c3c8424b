"""The one style of all figures: colours that colour-blind readers can tell apart, sizes readable at 100 %."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib
import seaborn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 150
TRUTH_COLOUR = "#56B4E9"  # sky blue and orange of Okabe & Ito's palette: apart in every common colour-vision deficiency
DETECTION_COLOUR = "#E69F00"
REFERENCE_COLOUR = "#404040"
DASHES = ("-", "--", "-.", ":")

_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "figure.dpi": DPI,
    "svg.hashsalt": "detpretrain",
    "pdf.fonttype": 42,  # text stays text, which journals ask for
}


@contextmanager
def style() -> Iterator[None]:
    with matplotlib.rc_context(_SETTINGS):
        yield


def init_styles(inits: Iterable[str], reference: str = "scratch") -> dict[str, tuple[str, str]]:
    """(colour, line style) of each init, the same in every figure of a report; the reference is dark grey.

    With more inits than colours the dashes change as well.
    """
    palette = seaborn.color_palette("colorblind").as_hex()
    others = sorted(set(inits) - {reference})
    styles = {
        init: (palette[i % len(palette)], DASHES[i // len(palette) % len(DASHES)]) for i, init in enumerate(others)
    }
    return {reference: (REFERENCE_COLOUR, "-"), **styles}


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` x ``height`` inches on the Agg canvas, without pyplot's global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
