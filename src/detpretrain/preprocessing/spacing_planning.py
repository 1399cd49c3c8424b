"""Target spacing, axis order and median size (nnDetection v0.1, "planning/experiment"; figures from nnU-Net)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detpretrain.preprocessing.resample import resampled_shape

ANISOTROPY = 3.0
ANISOTROPIC_PERCENTILE = 10.0


def target_spacing(spacings: np.ndarray, shapes: np.ndarray) -> tuple[list[float], str]:
    """Target spacing in mm (z, y, x) of the original axes, and its reason.

    The median per axis. Where the coarsest axis has more than 3 times the spacing of the finer of the others and fewer
    than a third of the voxels of the shorter of them, its 10th percentile: thick slices would be thrown away by sampling
    half of the cases down to the median. It stays the coarsest axis.

    Args:
        spacings: [cases, 3] in mm.
        shapes: [cases, 3] cropped sizes in voxels.
    """
    target = np.percentile(spacings, 50.0, axis=0)
    size = np.percentile(shapes, 50.0, axis=0)
    coarsest = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarsest]
    anisotropic = target[coarsest] > ANISOTROPY * target[others].min()
    few_slices = size[coarsest] * ANISOTROPY < size[others].min()
    if not (anisotropic and few_slices):
        return target.tolist(), f"median of {len(spacings)} cases per axis"
    fine = float(np.percentile(spacings[:, coarsest], ANISOTROPIC_PERCENTILE))
    if fine < target[others].min():
        fine = float(target[others].min()) + 1e-5
    median, target[coarsest] = target[coarsest], fine
    return target.tolist(), (
        f"median of {len(spacings)} cases per axis; axis {'zyx'[coarsest]} is anisotropic (median {median:.4g} mm, more than "
        f"3 x another axis, and under a third of its voxels): 10th percentile {fine:.4g} mm"
    )


def axis_order(spacing: Sequence[float]) -> list[int]:
    """The coarsest axis first, the other two in their order; ties keep the original order."""
    coarsest = int(np.argmax(spacing))
    return [coarsest, *(axis for axis in range(3) if axis != coarsest)]


def median_shape(
    shapes: np.ndarray, spacings: np.ndarray, target: Sequence[float], transpose: Sequence[int]
) -> list[int]:
    """Median per axis of the sizes [cases, 3] after resampling to ``target`` (original axes), in the plan's axis order."""
    resampled = [resampled_shape(shape, spacing, target) for shape, spacing in zip(shapes, spacings, strict=True)]
    median = np.median(np.array(resampled), axis=0)
    return [round(float(median[axis])) for axis in transpose]
