"""Label maps of downloads as small integers, and the work on them done inside boxes, not on whole volumes.

A CT of 512 x 512 x 1000 voxels is 0.26 GB per byte of its number type: a worker stays below 4 GB only without int64 or
float copies of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from detpretrain import volumes
from detpretrain.errors import InputError

Window = tuple[slice, slice, slice]

LARGEST = 65535
_SLAB = 1 << 24  # voxels that are looked at together


def read_labels(path: Path) -> NDArray[np.integer]:
    """A label map [D, H, W] as integers from 0.

    Real ones also come as floats, because a header has a scale (``scl_slope``) or a tool saved them so.

    Raises:
        InputError: see ``volumes.read``; fractions, negative values or values above 65535.
    """
    array, _ = volumes.read(path)
    smallest, largest = array.min(), array.max()
    if smallest < 0 or largest > LARGEST:
        raise InputError(
            f"{path}: holds values from {smallest:g} to {largest:g}, not labels: download the label map again"
        )
    if array.dtype.kind != "f":
        return array.astype(id_type(int(largest)), copy=False)
    labels = np.empty(array.shape, id_type(int(largest)))
    for slab in _slabs(array):
        labels[slab] = array[slab]
        if not np.array_equal(labels[slab], array[slab]):
            raise InputError(f"{path}: holds fractions, not labels: save the segmentation without interpolation")
    return labels


def id_type(largest: int) -> type[np.integer]:
    """The smallest unsigned type for ids up to ``largest``."""
    return np.uint8 if largest < 256 else np.uint16


def windows(labels: NDArray[np.integer]) -> dict[int, Window]:
    """Value -> the smallest window of the array that holds all its voxels; one pass."""
    found = ndimage.find_objects(labels)
    return {value: window for value, window in enumerate(found, start=1) if window is not None}


def union(parts: list[Window]) -> Window:
    """The smallest window that holds all of ``parts``."""
    return tuple(
        slice(min(part[axis].start for part in parts), max(part[axis].stop for part in parts)) for axis in range(3)
    )


def renumbered(labels: NDArray[np.integer], ids: Mapping[int, int]) -> NDArray[np.integer]:
    """A map with ``ids`` (value -> new id); all other values become background."""
    table = np.zeros(max([int(labels.max()), *ids]) + 1, id_type(max(ids.values(), default=0)))
    for value, new in ids.items():
        table[value] = new
    return table[labels]


def pasted(shape: tuple[int, ...], window: Window, part: NDArray[np.integer]) -> NDArray[np.integer]:
    """A map of ``shape`` that is background outside ``window``."""
    instances = np.zeros(shape, id_type(int(part.max())))
    instances[window] = part
    return instances


def _slabs(array: NDArray) -> list[slice]:
    """Slices along z of a bounded size."""
    depth = max(1, _SLAB // max(1, array[0].size))
    return [slice(start, start + depth) for start in range(0, len(array), depth)]
