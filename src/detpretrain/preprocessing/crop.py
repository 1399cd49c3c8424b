"""Cropping to the part of an image that is not empty (nnDetection v0.1, nnU-Net: "crop to non-zero")."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from detpretrain.errors import InputError


def bounding_box(images: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box that holds every voxel that is not 0 in any channel of ``images`` [C, D, H, W].

    Holes need no filling here: they lie inside the box by definition.

    Raises:
        InputError: every voxel is 0.
    """
    slices = []
    for axis in range(1, 4):
        others = tuple(a for a in range(4) if a != axis)
        occupied = np.flatnonzero(images.any(axis=others))
        if occupied.size == 0:
            raise InputError("every voxel of the image is 0: check the file, or exclude the case")
        slices.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(slices)


def foreground_mask(images: np.ndarray) -> np.ndarray:
    """Where any channel of ``images`` [C, D, H, W] is not 0, holes filled; bool [D, H, W].

    A hole is background that is not connected (6-neighbourhood) to the border of the array.
    """
    occupied = (images != 0).any(axis=0)
    background, count = ndimage.label(~occupied)
    if count == 0:
        return occupied
    reaches_border = np.zeros(count + 1, bool)
    for axis in range(3):
        for side in (0, -1):
            reaches_border[np.unique(np.take(background, side, axis=axis))] = True
    reaches_border[0] = False
    return ~reaches_border[background]
