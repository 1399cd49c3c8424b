"""Resampling of whole volumes, with voxel centres as the grid: output voxel i lies at (i + 0.5) * old / new - 0.5.

The same interpolation as nnDetection v0.1 (whole volume in 3-D, never slice by slice: cubic spline with repeated edges
and the result clipped to the input's range for images, nearest voxel for labels). Spline interpolation on a grid is linear
and separable, so each axis is one small matrix, and a volume is three matrix products: the numbers of ``scipy.ndimage.zoom``
to rounding, tens of times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """``round(size * old / new)`` per axis, at least 1; spacings in mm in the order of ``shape``."""
    return tuple(max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, target, strict=True))


def resample_image(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Cubic resampling of one channel [D, H, W] to ``shape``: float32, within the range of the input."""
    shape = tuple(shape)
    image = np.asarray(image, dtype=np.float32)
    if image.shape == shape:
        return image
    low, high = image.min(), image.max()
    # The axis that shrinks most goes first: the later products are on less data.
    # One thread: the rounding of a matrix product depends on how it is split, and results must not.
    with threadpool_limits(limits=1, user_api="blas"):
        for axis in sorted(range(3), key=lambda axis: shape[axis] / image.shape[axis]):
            if shape[axis] != image.shape[axis]:
                image = _along_axis(_cubic_operator(image.shape[axis], shape[axis]), image, axis)
    return np.clip(image, low, high, out=image)


def resample_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Nearest-voxel resampling of a label map or mask [D, H, W]; keeps its dtype."""
    for axis, size in enumerate(shape):
        if size != labels.shape[axis]:
            labels = np.take(labels, _nearest_index(labels.shape[axis], size), axis=axis)
    return labels


def _along_axis(operator: np.ndarray, image: np.ndarray, axis: int) -> np.ndarray:
    if axis == 0:
        return (operator @ image.reshape(image.shape[0], -1)).reshape(-1, *image.shape[1:])
    if axis == 1:
        return operator @ image
    return image @ operator.T


def _nearest_index(old: int, new: int) -> np.ndarray:
    # Whole numbers, so that a centre that falls on a voxel border is not decided by rounding.
    return np.minimum((2 * np.arange(new) + 1) * old // (2 * new), old - 1)


@lru_cache(maxsize=64)
def _cubic_operator(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] of a cubic spline through ``old`` values, evaluated at ``new`` centres: zoom of unit vectors."""
    columns = [ndimage.zoom(unit, new / old, order=3, mode="nearest", grid_mode=True) for unit in np.eye(old)]
    operator = np.stack(columns, axis=1).astype(np.float32)
    operator.flags.writeable = False
    return operator
