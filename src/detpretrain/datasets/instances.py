"""Semantic mask -> instance map: every connected component that is large enough is one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from detpretrain import boxes as box_ops

NEIGHBOURS = {6: 1, 18: 2, 26: 3}  # name of the neighbourhood -> rank of scipy's structuring element


def one_per_value(mask: NDArray, classes: Mapping[int, int]) -> tuple[NDArray[np.integer], dict[int, int]]:
    """All voxels of a value are one instance: for data sets that segment organs instead of objects.

    Args:
        mask: integers [D, H, W], 0 = background.
        classes: value -> class.

    Returns:
        map [D, H, W] with ids 1..N of the values present, ascending; classes by id.

    Raises:
        KeyError: a value that ``classes`` lacks.
    """
    values = [int(value) for value in np.unique(mask) if value != 0]
    ids = np.searchsorted([0, *values], mask).astype(np.uint8 if len(values) < 256 else np.int32)
    return ids, {number: classes[value] for number, value in enumerate(values, start=1)}


def from_semantic(
    mask: NDArray,
    classes: Mapping[int, int],
    spacing: Sequence[float],
    *,
    connectivity: int = 26,
    min_voxels: int = 0,
    min_size_mm: float = 0.0,
) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Connected components of each class, as an instance map (nnDetection v0.1's conversion, section "seg2det").

    A component is kept when it has more than ``min_voxels`` voxels and its box (min - 1 .. max + 1) is longer than
    ``min_size_mm`` on every axis but the coarsest one, where a few slices are all a small object has.

    Args:
        mask: integers [D, H, W].
        classes: value in the mask -> class; other values are background ("stuff"). Values of the same class grow
            together: list the parts of a tumour with one class to get one object.
        spacing: mm (z, y, x).
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        map [D, H, W] with ids 1..N (by class, then in scan order), classes by id.
    """
    if connectivity not in NEIGHBOURS:
        raise ValueError(f"connectivity is 6, 18 or 26, not {connectivity}")
    structure = ndimage.generate_binary_structure(3, NEIGHBOURS[connectivity])
    whole = np.zeros(mask.shape, np.int32)
    window = _window(np.isin(mask, list(classes)))
    mask, instances = mask[window], whole[window]  # objects are a small part of a scan
    kept_classes: dict[int, int] = {}
    for label in sorted(set(classes.values())):
        values = [value for value, its in classes.items() if its == label]
        components, count = ndimage.label(np.isin(mask, values), structure=structure)
        if not count:
            continue
        kept = _large_enough(components, count, spacing, min_voxels, min_size_mm)
        first = len(kept_classes)
        numbers = np.zeros(count + 1, np.int32)
        numbers[1:][kept] = first + 1 + np.arange(kept.sum())
        instances += numbers[components]
        kept_classes |= dict.fromkeys(range(first + 1, first + 1 + int(kept.sum())), label)
    return whole, kept_classes


def _window(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest window that holds all of a mask; an empty one of an empty mask."""
    found = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        found.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0))
    return tuple(found)


def _large_enough(
    components: NDArray, count: int, spacing: Sequence[float], min_voxels: int, min_size_mm: float
) -> NDArray[np.bool_]:
    """Which components [count] pass both limits."""
    voxels = np.bincount(components.ravel(), minlength=count + 1)[1:]
    _, boxes = box_ops.from_instances(components)
    lengths = (boxes[:, 3:] - boxes[:, :3]) * np.asarray(spacing, np.float64)
    in_plane = np.arange(3) != int(np.argmax(spacing))
    return (voxels > min_voxels) & (lengths[:, in_plane] > min_size_mm).all(axis=1)
