"""The largest patch that makes sense, and how it gives way to memory (nnDetection v0.1, "planning/architecture")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LARGEST = 512


def initial_patch(spacing: Sequence[float], median_shape: Sequence[int]) -> list[int]:
    """A cube in mm, 512 voxels along its coarsest axis, cut to the median size.

    The coarsest axis is cut to its own median size, the two others to the smaller of theirs: in-plane patches are square.

    Args:
        spacing: target spacing in mm, in the plan's axis order.
        median_shape: median size in voxels at that spacing, same order.
    """
    voxels = np.round(LARGEST * max(spacing) / np.asarray(spacing, dtype=np.float64)).astype(int)
    coarsest = int(np.argmax(spacing))
    in_plane = min(size for axis, size in enumerate(median_shape) if axis != coarsest)
    limits = [median_shape[axis] if axis == coarsest else in_plane for axis in range(3)]
    return [int(min(n, limit)) for n, limit in zip(voxels, limits, strict=True)]


def padded(patch: Sequence[int], divisor: Sequence[int]) -> list[int]:
    """The patch rounded up to multiples of ``divisor``."""
    return [-(-n // d) * d for n, d in zip(patch, divisor, strict=True)]


def smaller_patch(
    patch: Sequence[int], median_shape: Sequence[int], divisor: Sequence[int], min_feature_map: int | None
) -> list[int] | None:
    """One step down along the axis that is largest relative to the median size; None when no axis can give way.

    The step is the axis' total stride (``divisor``). With ``min_feature_map``, the architecture is planned anew after each
    step: the step is half of that where the deepest map is at its smallest, as the axis may then lose a pooling step, and an
    axis ends at ``min_feature_map``. Without it the architecture is fixed, and an axis ends at its total stride.
    """
    shares = np.asarray(patch, dtype=np.float64) / np.asarray(median_shape, dtype=np.float64)
    for axis in sorted(range(3), key=lambda axis: (-shares[axis], axis)):
        step, smallest = divisor[axis], divisor[axis]
        if min_feature_map is not None:
            smallest = min_feature_map
            if patch[axis] // divisor[axis] <= min_feature_map:
                step = max(1, step // 2)
        if patch[axis] - step >= smallest:
            return [n - step if a == axis else n for a, n in enumerate(patch)]
    return None


def is_flat(patch: Sequence[int]) -> bool:
    """Whether the patch is so anisotropic (over 3 : 1) that rotations should stay in-plane ("dummy 2D" augmentation)."""
    return max(patch) / min(patch) > 3
