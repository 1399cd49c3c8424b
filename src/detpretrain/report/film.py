"""Slices of one case as a strip of small pictures, which the page scrolls through under every cell's boxes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SLICES = 40  # of a case; a strip of them is a quarter to half a megabyte
SIDE = 256  # pixels of a slice's longer side
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Film:
    """``slices``: their indices in the image, from top to bottom of the strip; ``spacing`` of the image, mm per (z, y, x);
    ``shape``: (height, width) of a slice in voxels; ``source``: the strip as a data URI.
    """

    case: str
    slices: list[int]
    spacing: tuple[float, float, float]
    shape: tuple[int, int]
    source: str

    def to_json(self) -> dict[str, Any]:
        """What the page's script reads; lengths in mm, positions of slices too."""
        dz, dy, dx = self.spacing
        return {
            "case": self.case,
            "slices": self.slices,
            "z": [round(index * dz, 2) for index in self.slices],
            "left": -dx / 2,  # voxel centres are at index x spacing, as in the tables
            "top": -dy / 2,
            "width": self.shape[1] * dx,
            "height": self.shape[0] * dy,
            "source": self.source,
        }


def make_film(
    case: str,
    image: NDArray[Any],
    spacing: tuple[float, float, float],
    window: tuple[float, float],
    wanted: Sequence[int],
) -> Film:
    """``image`` [D, H, W]; ``window``: grey values shown black and white; ``wanted``: slices that must be there, the most
    important first.
    """
    slices = spread_slices(image.shape[0], wanted, SLICES)
    strip = np.concatenate([grey(shrink(image[index], SIDE), window) for index in slices])
    return Film(case, slices, spacing, (image.shape[1], image.shape[2]), jpeg(strip))


def spread_slices(depth: int, wanted: Sequence[int], limit: int) -> list[int]:
    """At most ``limit`` indices of 0 .. depth - 1, ascending: all where they fit, else the wanted ones (at most half of the
    limit) and others that fill the widest gaps.
    """
    if depth <= limit:
        return list(range(depth))
    chosen = {0, depth - 1}
    for index in wanted:
        if len(chosen) < limit // 2:
            chosen.add(index)
    while len(chosen) < limit:
        ends = sorted(chosen)
        low, high = max(pairwise(ends), key=lambda gap: gap[1] - gap[0])  # the first of the widest
        chosen.add((low + high) // 2)
    return sorted(chosen)


def shrink(image: NDArray[Any], side: int) -> NDArray[np.float32]:
    """A slice [H, W] whose longer side has at most ``side`` pixels; a pixel is the mean of what it covers, roughly."""
    factor = max(image.shape) / side
    plane = np.asarray(image, dtype=np.float32)
    if factor <= 1:
        return plane
    plane = ndimage.uniform_filter(plane, round(factor), mode="nearest")  # without it thin structures come and go
    height, width = (max(1, round(length / factor)) for length in image.shape)
    # pixel centres of the small picture, so that it covers the same field as the large one
    places = [
        (np.arange(count) + 0.5) * length / count - 0.5
        for count, length in zip((height, width), image.shape, strict=True)
    ]
    return ndimage.map_coordinates(plane, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")


def grey(plane: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = window
    return np.clip(np.rint(255 * (plane - low) / (high - low)), 0, 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8]) -> str:
    """A grey picture [H, W] as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
