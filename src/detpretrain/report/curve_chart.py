"""One training's log as small charts that the page draws itself: a few points each, sharp at any size, no picture to store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 340.0, 190.0  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 8.0, 34.0  # margins for the numbers


@dataclass(frozen=True)
class Line:
    """``points``: as SVG wants them; ``dashed``: beside a solid one."""

    label: str
    points: str
    dashed: bool


@dataclass(frozen=True)
class Chart:
    """``x_ticks`` and ``y_ticks``: (place, text). ``title`` says what the lines are, for readers who do not see them."""

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def charts(log: pd.DataFrame) -> list[Chart]:
    """Losses, and validation AP where the log has any value of it; ``log``: columns epoch, train_loss, ..."""
    found = [_chart(log, "Loss", {"train_loss": "training", "val_loss": "validation"}, None)]
    found.append(_chart(log, "AP@0.10 of validation patches", {"val_ap": "validation"}, (0.0, 1.0)))
    return [chart for chart in found if chart.lines]


def _chart(log: pd.DataFrame, name: str, columns: dict[str, str], limits: tuple[float, float] | None) -> Chart:
    drawn = {label: _finite(log, column) for column, label in columns.items() if column in log}
    drawn = {label: points for label, points in drawn.items() if len(points)}
    if not drawn:
        return Chart(name, [], [], [])
    everything = np.concatenate(list(drawn.values()))
    x_range = _range(everything[:, 0])
    y_range = limits or _range(everything[:, 1])
    lines = [
        Line(label, " ".join(f"{_x(x, x_range):.1f},{_y(y, y_range):.1f}" for x, y in points), number > 0)
        for number, (label, points) in enumerate(drawn.items())
    ]
    last = ", ".join(f"{label} {points[-1, 1]:.3g} in the last epoch" for label, points in drawn.items())
    return Chart(
        f"{name} by epoch: {last}",
        lines,
        [(_x(tick, x_range), f"{tick:g}") for tick in _ticks(x_range, integer=True)],
        [(_y(tick, y_range), f"{tick:g}") for tick in _ticks(y_range, integer=False)],
    )


def _finite(log: pd.DataFrame, column: str) -> np.ndarray:
    """(epoch, value) pairs [N, 2] of the epochs that have a finite value."""
    points = log[["epoch", column]].to_numpy(np.float64)
    return points[np.isfinite(points).all(axis=1)]


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _ticks(limits: tuple[float, float], integer: bool) -> list[float]:
    low, high = limits
    ticks = MaxNLocator(nbins=4, integer=integer).tick_values(low, high)
    tolerance = 1e-9 * (high - low)
    inside = [float(tick) for tick in ticks if low - tolerance <= tick <= high + tolerance]
    return [0.0 if math.isclose(tick, 0, abs_tol=tolerance) else tick for tick in inside]


def _x(value: float, limits: tuple[float, float]) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - limits[0]) / (limits[1] - limits[0])


def _y(value: float, limits: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - limits[0]) / (limits[1] - limits[0])
