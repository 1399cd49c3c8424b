"""Detectors without learning, to know what a score is worth: thresholding with connected components, and random boxes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from detpretrain import boxes as box_ops

AIR_BELOW = -500.0  # HU: between lung and soft tissue
FULL = np.ones((3, 3, 3), bool)


def threshold_baseline(
    image: NDArray,
    *,
    threshold: float = -750.0,
    smoothing: float = 1.0,
    min_voxels: int = 20,
    max_voxels: int = 2000,
    rank: Literal["brightness", "size"] = "brightness",
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Bright connected components (26-neighbourhood) in the lungs of a chest CT, the best first.

    The smoothing sees the lungs alone, so that their wall does not leak in: a weak baseline would prove nothing.

    Args:
        image: HU [D, H, W].
        threshold: HU after smoothing.
        smoothing: sigma of the Gaussian before thresholding, voxels; 0 = none.
        min_voxels, max_voxels: components outside of this range are dropped.
        rank: what the score is: the mean after smoothing, air 0 to water 1, or voxels / max_voxels.

    Returns:
        boxes [N, 6] (``boxes.from_instances``), scores [N] in [0, 1], descending.
    """
    inside = lungs(image)
    if not inside.any():
        return np.empty((0, 6), np.float32), np.empty(0)
    filled = np.where(inside, image, np.median(image[inside])).astype(np.float32)
    smooth = ndimage.gaussian_filter(filled, smoothing) if smoothing else filled
    components, count = ndimage.label((smooth > threshold) & inside, structure=FULL)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    kept = (sizes >= min_voxels) & (sizes <= max_voxels)
    _, boxes = box_ops.from_instances(components)
    if rank == "size":
        scores = sizes / max_voxels
    else:
        means = np.bincount(components.ravel(), smooth.ravel(), count + 1)[1:] / np.maximum(sizes, 1)
        scores = np.clip((means + 1000.0) / 1000.0, 0, 1)
    order = np.argsort(-scores[kept], kind="stable")
    return boxes[kept][order], scores[kept][order]


def lungs(image: NDArray) -> NDArray[np.bool_]:
    """The lungs of a chest CT in HU, eroded by a voxel so that their wall does not count as bright: bool [D, H, W].

    Air-like regions that touch neither the sides, the front nor the back of the volume, at least 1 % of it, closed over
    what they enclose.
    """
    air = ndimage.gaussian_filter(np.asarray(image, np.float32), 1.5) < AIR_BELOW
    components, count = ndimage.label(air)
    outside = set(np.unique(components[:, [0, -1], :])) | set(np.unique(components[:, :, [0, -1]])) | {0}
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    inside = [n for n in range(1, count + 1) if n not in outside and sizes[n] >= 0.01 * air.size]
    mask = ndimage.binary_closing(np.isin(components, inside), structure=FULL, iterations=2)
    mask = np.stack([ndimage.binary_fill_holes(plane) for plane in mask])
    return ndimage.binary_erosion(mask, structure=FULL, border_value=1)


def random_boxes(
    shape: tuple[int, int, int], sizes: NDArray, count: int, rng: np.random.Generator, where: NDArray | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Boxes whose sizes are drawn from those of training boxes, with random scores: what a score is worth by chance.

    Args:
        shape: of the volume.
        sizes: [M, 3] edge lengths of training boxes, in the same index coordinates.
        count: number of boxes.
        where: bool [D, H, W]; centres are drawn from its voxels (chance that knows the anatomy). None: anywhere.

    Returns:
        boxes [count, 6], inside the volume where they fit unless ``where`` is given, scores [count] in [0, 1).
    """
    sizes = np.asarray(sizes, np.float64).reshape(-1, 3)
    if count and not len(sizes):
        raise ValueError("random boxes need at least one training box to take the size from")
    edges = sizes[rng.integers(len(sizes), size=count)]
    if where is None:
        low = rng.random((count, 3)) * np.maximum(np.asarray(shape) - 1 - edges, 0)
    else:
        voxels = np.argwhere(where)
        low = voxels[rng.integers(len(voxels), size=count)] - edges / 2
    return np.concatenate([low, low + edges], axis=1).astype(np.float32), rng.random(count)
