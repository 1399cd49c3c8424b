"""Several readers' outlines -> nodules: which marks mean the same nodule, and which voxels most of its readers agree on.

Rule: marks of different readers belong together when a voxel of one lies within a pixel's spacing of a voxel of the other
(they overlap or touch), and so do marks that are joined by others. Two marks of one reader are two nodules to him, so they are
joined by another reader's mark only. Where touching joins more than four marks (there are four readers), only overlapping ones
count, so that neighbours do not become one nodule. It is pylidc's idea (marks closer than the pixel spacing, and a smaller
distance where more than four come together), measured between voxels instead of outlines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from detpretrain.datasets.lidc_annotations import Contour, Mark
from detpretrain.datasets.lidc_contours import fill

READERS = 4
ROUNDING = 1e-6  # mm

Voxels = NDArray[np.int64]  # [N, 3] indices (z, y, x), without duplicates


def mark_voxels(mark: Mark, slice_of: Callable[[Contour], int], shape: Sequence[int]) -> Voxels:
    """The voxels of one reader's nodule: what is inside the outlines of a slice, less what its exclusions cover.

    The pixels of an outline never belong to the nodule, neither those of an inclusion nor those of an exclusion (Armato et
    al., 2011; confirmed by the first author in pylidc's pull request 16).

    Args:
        slice_of: index of the slice that a contour lies in.
        shape: of the volume (D, H, W); what lies outside is cut off.
    """
    found = []
    slices: dict[int, list[Contour]] = {}
    for contour in mark.contours:
        slices.setdefault(slice_of(contour), []).append(contour)
    for index, contours in slices.items():
        mask = np.zeros(shape[1:], bool)
        for contour in sorted(contours, key=lambda contour: not contour.inclusion):  # exclusions last
            region = fill(contour.points)
            if contour.inclusion:
                _paint(mask, region.row, region.column, region.inside, True)
            else:
                _paint(mask, region.row, region.column, region.inside | region.border, False)
        rows, columns = np.nonzero(mask)
        found.append(np.stack([np.full(len(rows), index), rows, columns], axis=1))
    return np.concatenate(found).astype(np.int64) if found else np.zeros((0, 3), np.int64)


def _paint(mask: NDArray[np.bool_], row: int, column: int, region: NDArray[np.bool_], value: bool) -> None:
    """Sets the pixels of a region whose window may reach beyond the mask."""
    rows, columns = np.nonzero(region)
    rows, columns = rows + row, columns + column
    there = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
    mask[rows[there], columns[there]] = value


def clusters(marks: Sequence[Voxels], readers: Sequence[int], spacing: Sequence[float]) -> list[list[int]]:
    """Which marks mean the same nodule, see above.

    Args:
        marks: voxels of each mark, none empty.
        readers: whose mark it is.
        spacing: mm (z, y, x).

    Returns:
        numbers of the marks of each nodule, ascending, nodules in the order of their first mark.
    """
    touching = float(max(spacing[1:]))
    distances = _distances(marks, readers, np.asarray(spacing, np.float64), touching + ROUNDING)
    found = []
    for group in _components(list(range(len(marks))), distances, touching + ROUNDING):
        found += [group] if len(group) <= READERS else _components(group, distances, ROUNDING)
    return sorted(found)


def majority(marks: Iterable[Voxels], shape: Sequence[int]) -> Voxels:
    """The voxels that more than half of the readers have marked; ``marks``: one per reader."""
    numbers = [np.ravel_multi_index(tuple(voxels.T), tuple(shape)) for voxels in marks]
    voxels, votes = np.unique(np.concatenate(numbers), return_counts=True)
    return np.stack(np.unravel_index(voxels[2 * votes > len(numbers)], tuple(shape)), axis=1).astype(np.int64)


def union(marks: Iterable[Voxels]) -> Voxels:
    """All voxels of one reader's marks of a nodule, each once."""
    return np.unique(np.concatenate(list(marks)), axis=0)


def _distances(
    marks: Sequence[Voxels], readers: Sequence[int], spacing: NDArray[np.float64], limit: float
) -> NDArray[np.float64]:
    """Smallest distance in mm between the voxels of two marks [N, N]; infinite above ``limit`` and within one reader."""
    points = [voxels * spacing for voxels in marks]
    trees = [cKDTree(places) for places in points]
    found = np.full((len(marks), len(marks)), np.inf)
    for i, j in _near_boxes(points, limit):
        if readers[i] != readers[j]:
            found[i, j] = found[j, i] = trees[j].query(points[i], distance_upper_bound=limit)[0].min()
    return found


def _near_boxes(points: Sequence[NDArray[np.float64]], limit: float) -> Iterator[tuple[int, int]]:
    """Pairs i < j whose bounding boxes come close enough for the voxels to do so."""
    low, high = [places.min(axis=0) for places in points], [places.max(axis=0) for places in points]
    for i in range(len(points)):
        for j in range(i + 1, len(points)):
            if (low[i] <= high[j] + limit).all() and (low[j] <= high[i] + limit).all():
                yield i, j


def _components(group: Sequence[int], distances: NDArray[np.float64], limit: float) -> list[list[int]]:
    """Members of a group that are joined by distances up to ``limit``."""
    near = csr_array(distances[np.ix_(group, group)] <= limit)
    count, label = connected_components(near, directed=False)
    return [[member for member, own in zip(group, label, strict=True) if own == number] for number in range(count)]
