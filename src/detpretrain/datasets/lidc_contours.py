"""Filling a closed outline of pixels, in whole numbers and therefore exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Region:
    """What an outline encloses, in the window of the image that it spans.

    Attributes:
        row, column: of the window's first pixel; may be negative.
        inside: [h, w], pixel centres strictly inside the outline.
        border: [h, w], pixel centres on the outline.
    """

    row: int
    column: int
    inside: NDArray[np.bool_]
    border: NDArray[np.bool_]


def fill(outline: ArrayLike) -> Region:
    """The region inside a polygon whose corners are pixel centres; the last corner is joined to the first.

    A pixel is inside when the polygon winds around it (non-zero winding number, so that an outline that crosses itself or is
    drawn twice leaves no hole) and it does not lie on the polygon. Row by row, every edge adds to the winding number of the
    pixels on one side of it; which side is the sign of a cross product of integers (Sunday's winding number test).

    Args:
        outline: integers [N, 2], (x, y) = (column, row).
    """
    corners = np.asarray(outline, np.int64).reshape(-1, 2)
    if not len(corners):
        raise ValueError("an outline has at least one point")
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    columns = np.arange(left, right + 1)
    winding = np.zeros((bottom - top + 1, right - left + 1), np.int32)
    border = np.zeros(winding.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        first, last = min(y0, y1), max(y0, y1)
        rows = np.arange(first, last + 1)[:, None]
        window = slice(first - top, last - top + 1)
        side = (x1 - x0) * (rows - y0) - (columns - x0) * (y1 - y0)
        # an edge owns its lower end only, so that a row through a corner meets one of its two edges
        owned = rows < last
        if y1 > y0:
            winding[window] += owned & (side > 0)
        elif y1 < y0:
            winding[window] -= owned & (side < 0)
        border[window] |= (side == 0) & (columns >= min(x0, x1)) & (columns <= max(x0, x1))
    return Region(int(top), int(left), (winding != 0) & ~border, border)
