"""Where a training patch lies: random, or around an object (nnDetection v0.1, ``DataLoader3DOffset``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def random_start(rng: np.random.Generator, shape: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    """Uniform start of a patch inside the volume, ``[3]``; an axis shorter than the patch is centred (negative start)."""
    free = np.asarray(shape) - np.asarray(patch)
    return np.array([int(rng.integers(0, n + 1)) if n >= 0 else n // 2 for n in free])


def object_start(
    rng: np.random.Generator, box: Sequence[float], shape: Sequence[int], patch: Sequence[int]
) -> np.ndarray:
    """Start of a patch at a random offset that keeps the whole object inside, ``[3]``.

    Along an axis where the object (``box [6]``) is longer than the patch, the patch is centred on a random point of the object.
    The patch is then moved inside the volume where the volume is long enough.
    """
    start = np.empty(3, dtype=int)
    for axis in range(3):
        # min - 1 .. max + 1 in voxel centres: the object's own voxels are low + 1 .. high - 1
        low, high = int(np.floor(box[axis])) + 1, int(np.ceil(box[axis + 3]))
        size, length = shape[axis], patch[axis]
        fits = high - low <= length
        first, last = (high - length, low) if fits else (low - length // 2, high - 1 - length // 2)
        value, free = int(rng.integers(first, last + 1)), size - length
        start[axis] = np.clip(value, 0, free) if free >= 0 else free // 2
    return start


def object_centred(position: int, batch_size: int, fraction: float = 0.5) -> bool:
    """Whether a place in the batch holds an object-centred patch: the last ones, after ``round(batch * (1 - fraction))``."""
    return position >= round(batch_size * (1 - fraction))
