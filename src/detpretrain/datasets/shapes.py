"""Rasters of the shapes that box-only data sets are annotated with: filled box, ellipsoid, sphere in mm.

One convention joins shapes and boxes: an object that covers voxels a..b of an axis reaches from a - 0.5 to b + 0.5, and its
box from a - 1 to b + 1 (``boxes.from_instances``). So a box is what its object reaches, widened by half a voxel on each side.
Every function paints larger objects first, so that a small one inside a large one stays visible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detpretrain.geometry import Geometry

MARGIN = 0.5  # voxels between the end of an object and the edge of its box

# number of the object, index coordinates of voxels [d, h, w, 3] -> which of them it covers [d, h, w]
_Covers = Callable[[int, NDArray[np.float64]], NDArray[np.bool_]]


def filled_box(shape: Sequence[int], boxes: ArrayLike) -> NDArray[np.integer]:
    """Every voxel whose centre lies strictly inside a box; ``from_instances`` gives boxes of whole numbers back.

    Args:
        shape: (D, H, W).
        boxes: [N, 6] in index coordinates.

    Returns:
        instance map [D, H, W], ids 1..N in the order of ``boxes``. An object that no voxel centre lies in is the voxel nearest
        to its centre; one that lies outside the array, or under smaller ones, has no voxels.
    """

    centres, halves = _centres_and_halves(boxes)

    def covers(number: int, points: NDArray) -> NDArray[np.bool_]:
        return (np.abs(points - centres[number]) < halves[number] + MARGIN).all(axis=-1)

    return _painted(shape, centres, halves, covers)


def ellipsoid(shape: Sequence[int], boxes: ArrayLike) -> NDArray[np.integer]:
    """The ellipsoid that fits into each box; arguments and result as of ``filled_box``.

    Of a long and thin one the tips cover no voxel centre, so that its raster may be shorter than its box.
    """

    centres, halves = _centres_and_halves(boxes)

    def covers(number: int, points: NDArray) -> NDArray[np.bool_]:
        return (((points - centres[number]) / np.maximum(halves[number], 1e-9)) ** 2).sum(axis=-1) <= 1.0

    return _painted(shape, centres, halves, covers)


def sphere_mm(geometry: Geometry, centres: ArrayLike, diameters: ArrayLike) -> NDArray[np.integer]:
    """Every voxel whose centre is at most a radius from a centre, measured in mm in the patient.

    Args:
        geometry: of the array; its directions may be oblique or flipped.
        centres: [N, 3] world mm (x, y, z), LPS.
        diameters: [N] mm.

    Returns:
        instance map as of ``filled_box``.
    """
    centres, radii = np.asarray(centres, np.float64).reshape(-1, 3), np.asarray(diameters, np.float64).reshape(-1) / 2

    def covers(number: int, points: NDArray) -> NDArray[np.bool_]:
        away = geometry.index_to_world(points.reshape(-1, 3)).reshape(points.shape) - centres[number]
        return (away**2).sum(axis=-1) <= radii[number] ** 2

    return _painted(geometry.shape, geometry.world_to_index(centres), radii[:, None] * _voxels_per_mm(geometry), covers)


def sphere_boxes(geometry: Geometry, centres: ArrayLike, diameters: ArrayLike) -> NDArray[np.float64]:
    """Boxes [N, 6] of spheres in index coordinates, not rounded and not clipped; arguments as of ``sphere_mm``."""
    index = geometry.world_to_index(np.asarray(centres, np.float64).reshape(-1, 3))
    reach = np.asarray(diameters, np.float64).reshape(-1, 1) / 2 * _voxels_per_mm(geometry) + MARGIN
    return np.concatenate([index - reach, index + reach], axis=1)


def _voxels_per_mm(geometry: Geometry) -> NDArray[np.float64]:
    """How far a ball of 1 mm radius reaches along each index axis [3]: 1 / spacing, unless the axes are sheared."""
    steps = geometry.world_to_index(np.asarray(geometry.origin) + np.eye(3))  # one line per mm along x, y, z
    return np.linalg.norm(steps, axis=0)


def _centres_and_halves(boxes: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres [N, 3] of boxes and how far their objects reach from them [N, 3]."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 6)
    low, high = boxes[:, :3], boxes[:, 3:]
    return (low + high) / 2, (high - low) / 2 - MARGIN


def _painted(shape: Sequence[int], centres: NDArray, halves: NDArray, covers: _Covers) -> NDArray[np.integer]:
    instances = np.zeros(tuple(shape), np.uint8 if len(centres) < 256 else np.int32)
    volumes = np.maximum(halves, 0.0).prod(axis=1)
    for number in np.argsort(-volumes, kind="stable"):
        window = _window(shape, centres[number], halves[number])
        if window is not None:
            where, points = window
            covered = covers(number, points)
            instances[where][covered if covered.any() else _nearest(points, centres[number])] = number + 1
    return instances


def _window(
    shape: Sequence[int], centre: NDArray, half: NDArray
) -> tuple[tuple[slice, ...], NDArray[np.float64]] | None:
    """The part of the array around one object and the index coordinates of its voxels [d, h, w, 3]; None if it is outside."""
    reach = np.maximum(half, 0.0) + MARGIN
    low = np.maximum(np.ceil(centre - reach), 0).astype(int)
    high = np.minimum(np.floor(centre + reach), np.asarray(shape) - 1).astype(int)
    if (low > high).any():
        return None
    axes = [np.arange(first, last + 1, dtype=np.float64) for first, last in zip(low, high, strict=True)]
    window = tuple(slice(first, last + 1) for first, last in zip(low, high, strict=True))
    return window, np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _nearest(points: NDArray, centre: NDArray) -> NDArray[np.bool_]:
    """The one voxel of a window that is nearest to the object's centre."""
    away = ((points - centre) ** 2).sum(axis=-1)
    return np.arange(away.size).reshape(away.shape) == int(np.argmin(away))
