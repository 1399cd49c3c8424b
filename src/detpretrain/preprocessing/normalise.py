"""Intensity normalisation of one resampled channel (nnDetection v0.1, "preprocessing").

A scheme is what the plan holds for a channel: ``{"scheme": "ct", "clip": [low, high], "mean": m, "sd": s}``,
``{"scheme": "ct2", "clip": [low, high]}``, ``{"scheme": "zscore"}`` or ``{"scheme": "raw"}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SCHEMES = ("ct", "ct2", "zscore", "raw")
EPSILON = 1e-8


def normalise(image: np.ndarray, scheme: Mapping[str, Any], mask: np.ndarray | None = None) -> np.ndarray:
    """Normalises ``image`` [D, H, W] float32 in place and returns it.

    ``mask`` (bool, same shape) restricts a z-score to the foreground; voxels outside become 0. Other schemes ignore it.
    """
    name = scheme["scheme"]
    if name == "raw":
        return image
    if name == "zscore":
        return _zscore(image, mask)
    low, high = scheme["clip"]
    np.clip(image, low, high, out=image)
    if name == "ct":
        mean, sd = scheme["mean"], scheme["sd"]
    elif name == "ct2":
        # Voxels at the bounds are air, metal or clipped: they say nothing about the tissue.
        mean, sd = moments(image, (image > np.float32(low)) & (image < np.float32(high)))
    else:
        raise ValueError(f"unknown intensity scheme {name!r}: one of {', '.join(SCHEMES)}")
    image -= np.float32(mean)
    image /= np.float32(sd + EPSILON)
    return image


def _zscore(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    mean, sd = moments(image, mask)
    image -= np.float32(mean)
    image /= np.float32(sd + EPSILON)
    if mask is not None:
        image[~mask] = 0.0
    return image


def moments(image: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
    """Mean and population standard deviation in float64, slice by slice: no float64 copy of a large volume.

    An empty mask gives (0, 0).
    """
    slices = [image[z] if mask is None else image[z][mask[z]] for z in range(len(image))]
    count = sum(part.size for part in slices)
    if count == 0:
        return 0.0, 0.0
    mean = sum(float(part.sum(dtype=np.float64)) for part in slices) / count
    variance = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in slices) / count
    return mean, float(np.sqrt(variance))
