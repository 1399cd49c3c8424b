"""Overlays: what one row finds and misses on its best, a median and its worst case, slice by slice."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from detpretrain import volumes
from detpretrain.comparison.rows import Row
from detpretrain.errors import InputError
from detpretrain.evaluation.matches import SIDES
from detpretrain.report.case_selection import ChosenCase, choose_cases, choose_slices, display_threshold
from detpretrain.report.figure_files import save
from detpretrain.report.style import DETECTION_COLOUR, TRUTH_COLOUR, new_figure, style
from detpretrain.report.tables import marked
from detpretrain.tasks import Task

SLICES = 5
WHOLE_SLICE_MM = 260.0  # a slice larger than a head is shown around a box: a 5 mm nodule in a whole chest is a dot
FIELD_OF_VIEW_MM = 160.0
MIN_COLUMNS = 3  # so that the heading has room and panels keep their size
PANEL_INCHES = 2.5
CT_WINDOW = (-1000.0, 400.0)
PERCENTILES = (0.5, 99.5)
_TEXT_BACKGROUND = {"facecolor": "black", "alpha": 0.75, "pad": 0.6, "edgecolor": "none"}
SCALE_BARS_MM = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Panel:
    """One case as it is drawn. ``boxes`` in mm along the image axes, ``detections`` by falling score."""

    chosen: ChosenCase
    image: np.ndarray
    spacing: tuple[float, float, float]
    window: tuple[float, float]
    truths: np.ndarray
    ignored: np.ndarray
    detections: np.ndarray
    scores: np.ndarray
    slices: list[int]


def plot_overlays(
    row: Row, task: Task, path: Path, window: tuple[float, float] | None = None, overlap: int = 0
) -> None:
    """Writes the overlay figure of one row on one data set.

    ``window``: grey values (low, high) to show; default -1000 to 400
    for CT, else the 0.5 and 99.5 percentiles of the values that are not 0. ``overlap``: scored patients that the row's
    pre-training saw.

    Raises:
        InputError: a case of the table has no image in the task folder, or no case has an object.
    """
    table = row.table
    init = marked(row.key.init, overlap)
    row_name = f"{row.key.dataset} ({row.key.test_set}): {row.key.detector}, {init}, seed {row.key.seed}"
    chosen = choose_cases(row)
    if not chosen:
        raise InputError(f"{path.name}: no case of {row_name} has an object: nothing to overlay")
    threshold = display_threshold(table)
    panels = [_panel(table[table["case"] == entry.case], entry, task, threshold, window) for entry in chosen]
    columns = max(MIN_COLUMNS, *(len(panel.slices) for panel in panels))
    with style():
        heading, row = 0.6, PANEL_INCHES + 0.35  # inches
        figure = new_figure(PANEL_INCHES * columns, heading + row * len(panels))
        rows = figure.subfigures(len(panels) + 1, 1, height_ratios=[heading] + [row] * len(panels))
        _heading(rows[0], row_name, threshold)
        for subfigure, panel in zip(rows[1:], panels, strict=True):
            subfigure.suptitle(_case_title(panel), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
            axes = subfigure.subplots(1, columns, squeeze=False)[0]
            for index, slice_axes in zip(panel.slices, axes, strict=False):
                _draw_slice(slice_axes, panel, index)
            for unused in axes[len(panel.slices) :]:
                unused.set_axis_off()
        save(figure, path)


def _panel(
    lines: pd.DataFrame, chosen: ChosenCase, task: Task, threshold: float, window: tuple[float, float] | None
) -> Panel:
    image, geometry = volumes.read(task.image_paths(chosen.case)[0])
    truths = lines[lines["kind"] == "truth"]
    detections = lines[(lines["kind"] == "detection") & (lines["score"] >= threshold)]
    detections = detections.sort_values("score", ascending=False, kind="stable")
    found = detections[SIDES].to_numpy(np.float64)
    wanted = truths.loc[~truths["ignored"], SIDES].to_numpy(np.float64)
    return Panel(
        chosen=chosen,
        image=image,
        spacing=geometry.spacing,
        window=window or default_window(image, task.modalities[0]),
        truths=wanted,
        ignored=truths.loc[truths["ignored"], SIDES].to_numpy(np.float64),
        detections=found,
        scores=detections["score"].to_numpy(np.float64),
        slices=choose_slices(wanted, found, geometry.spacing[0], image.shape[0], SLICES),
    )


def default_window(image: np.ndarray, modality: str) -> tuple[float, float]:
    """Grey values (black, white) that suit a modality."""
    if modality.upper() == "CT":
        return CT_WINDOW
    values = image[image != 0]  # the background of skull-stripped volumes would own the low percentile
    low, high = np.percentile(values if values.size else image, PERCENTILES)
    return float(low), float(high) if high > low else float(low) + 1.0


def _heading(area, row_name: str, threshold: float) -> None:
    area.suptitle(row_name, x=0.01, ha="left", fontsize=11)
    handles = [
        Line2D([], [], color=TRUTH_COLOUR, lw=1.6, label="object"),
        Line2D([], [], color=TRUTH_COLOUR, lw=1.2, ls=":", label="ignored object"),
        Line2D(
            [],
            [],
            color=DETECTION_COLOUR,
            lw=1.4,
            ls="--",
            label=f"detection with its score (shown: ≥ {threshold:.2f})",
        ),
    ]
    area.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.01, 0.02), ncols=3, borderpad=0, borderaxespad=0)


def _case_title(panel: Panel) -> str:
    objects = len(panel.truths)
    return (
        f"{panel.chosen.rank} case: {panel.chosen.case}, AP@0.10 {panel.chosen.score:.2f}, "
        f"{objects} object{'s' if objects != 1 else ''}"
    )


def _draw_slice(axes: Axes, panel: Panel, index: int) -> None:
    dz, dy, dx = panel.spacing
    height, width = panel.image.shape[1:]
    extent = (-0.5 * dx, (width - 0.5) * dx, (height - 0.5) * dy, -0.5 * dy)
    low, high = panel.window
    axes.imshow(
        panel.image[index], cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest", aspect="equal"
    )
    axes.set_title(f"z = {index * dz:.1f} mm (slice {index})", fontsize=8.5)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    position = index * dz
    for boxes, dashes in ((panel.truths, "-"), (panel.ignored, ":")):
        for box in boxes[_crosses(boxes, position)]:
            _rectangle(axes, box, TRUTH_COLOUR, dashes)
    on_slice = _crosses(panel.detections, position)
    view = _view(extent, panel.truths, panel.detections, position)
    axes.set(xlim=view[:2], ylim=view[2:])
    for box in panel.detections[on_slice]:
        _rectangle(axes, box, DETECTION_COLOUR, "--")
    _score_texts(axes, panel.detections[on_slice], panel.scores[on_slice], view)
    _scale_bar(axes, view)


def _crosses(boxes: np.ndarray, position: float) -> np.ndarray:
    return (boxes[:, 0] <= position) & (position <= boxes[:, 3])


def _view(
    extent: tuple[float, float, float, float], truths: np.ndarray, detections: np.ndarray, position: float
) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in mm: the whole slice, or a part of it around the boxes on the slice."""
    left, right, bottom, top = extent
    if max(right - left, bottom - top) <= WHOLE_SLICE_MM:
        return extent
    boxes = np.concatenate([truths[_crosses(truths, position)], detections[_crosses(detections, position)]])
    if len(boxes) == 0:
        return extent
    # Around the first box (an object, else the best detection); wider when it is larger than the usual view itself.
    size = max(FIELD_OF_VIEW_MM, 1.5 * float(np.max(boxes[0, 4:] - boxes[0, 1:3])))
    x_low, x_high = _span((boxes[0, 2] + boxes[0, 5]) / 2, size, left, right)
    y_low, y_high = _span((boxes[0, 1] + boxes[0, 4]) / 2, size, top, bottom)
    return x_low, x_high, y_high, y_low


def _span(centre: float, size: float, low: float, high: float) -> tuple[float, float]:
    """An interval of ``size`` around ``centre``, shifted inside [low, high]; all of it when it is smaller."""
    if size >= high - low:
        return low, high
    start = float(np.clip(centre - size / 2, low, high - size))
    return start, start + size


def _rectangle(axes: Axes, box: np.ndarray, colour: str, dashes: str) -> None:
    y1, x1, y2, x2 = box[1], box[2], box[4], box[5]
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.3, ls=dashes))


def _score_texts(axes: Axes, boxes: np.ndarray, scores: np.ndarray, view: tuple[float, float, float, float]) -> None:
    mm_per_inch = (view[1] - view[0]) / PANEL_INCHES
    corners = place_labels(boxes, view, width=0.36 * mm_per_inch, height=0.17 * mm_per_inch)  # "0.00" in 8 points
    for score, corner in zip(scores, corners, strict=True):
        if corner is None:
            continue
        axes.text(
            *corner,
            f"{score:.2f}",
            color=DETECTION_COLOUR,
            fontsize=8,
            ha="left",
            va="top",
            clip_on=True,
            bbox=_TEXT_BACKGROUND,
        )


def place_labels(
    boxes: np.ndarray, view: tuple[float, float, float, float], width: float, height: float
) -> list[tuple[float, float] | None]:
    """Top left corner (x, y) of each box's label, so that labels lie in the view and apart from each other.

    ``boxes`` [N, 6] and ``width``, ``height`` of a label in mm; ``view``: left, right, bottom, top. Tried in this order:
    above the box at its left and right end, below it, then inside it. None for a box with its centre outside the view, or
    where no place is free.
    """
    left, right, bottom, top = view
    taken: list[tuple[float, float]] = []
    places: list[tuple[float, float] | None] = []
    for _, y1, x1, _, y2, x2 in boxes:
        place = None
        if left <= (x1 + x2) / 2 <= right and top <= (y1 + y2) / 2 <= bottom:
            for x, y in itertools.product((x1, x2 - width), (y1 - height, y2, y1, y2 - height)):
                inside = left <= x <= right - width and top <= y <= bottom - height
                if inside and not any(abs(x - tx) < width and abs(y - ty) < height for tx, ty in taken):
                    place = (float(x), float(y))
                    taken.append(place)
                    break
        places.append(place)
    return places


def _scale_bar(axes: Axes, view: tuple[float, float, float, float]) -> None:
    x_low, x_high, y_high, y_low = view
    length = max((mm for mm in SCALE_BARS_MM if mm <= 0.3 * (x_high - x_low)), default=SCALE_BARS_MM[0])
    x, y = x_low + 0.05 * (x_high - x_low), y_high - 0.05 * (y_high - y_low)
    axes.plot([x, x + length], [y, y], color="white", lw=2.4, solid_capstyle="butt", zorder=5)
    axes.text(
        x,
        y - 0.015 * (y_high - y_low),
        f"{length} mm",
        color="white",
        fontsize=8,
        va="bottom",
        zorder=5,
        bbox=_TEXT_BACKGROUND,
    )
