"""Which intensity scheme a channel gets (nnDetection v0.1, "planning/experiment")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detpretrain.errors import InputError

MASK_BELOW = 0.75
BY_MODALITY = {"CT": "ct", "CT2": "ct2", "raw": "raw"}
NEEDS_FOREGROUND = ("ct", "ct2")


def derived_schemes(modalities: Sequence[str], foreground: Sequence[Mapping[str, float]] | None) -> list[str]:
    """CT is scaled by data set statistics, since Hounsfield units mean the same everywhere; all else per image.

    Without foreground statistics (an unlabelled corpus) every channel is z-scored, as nnssl does.
    """
    if foreground is None:
        return ["raw" if modality == "raw" else "zscore" for modality in modalities]
    return [BY_MODALITY.get(modality, "zscore") for modality in modalities]


def channel_scheme(
    scheme: str | Mapping[str, Any], statistics: Mapping[str, float] | None, where: str
) -> dict[str, Any]:
    """The plan's entry of one channel: the scheme with the numbers it needs; one that brings its numbers stays as it is.

    Raises:
        InputError: a scheme that clips to the foreground's range, and no foreground.
    """
    if isinstance(scheme, Mapping):
        return dict(scheme)
    if scheme not in NEEDS_FOREGROUND:
        return {"scheme": scheme}
    if statistics is None:
        raise InputError(
            f"{where}: intensity {scheme} needs labelled voxels and the task has none: use zscore or raw, or give its numbers "
            "in the plan: {scheme: ct, clip: [low, high], mean: m, sd: s}"
        )
    clip = [statistics["percentile_00_5"], statistics["percentile_99_5"]]
    if scheme == "ct2":
        return {"scheme": scheme, "clip": clip}
    return {"scheme": scheme, "clip": clip, "mean": statistics["mean"], "sd": statistics["sd"]}


def use_nonzero_mask(modalities: Sequence[str], size_reductions: Sequence[float]) -> tuple[bool, str]:
    """Whether z-scores look at the foreground only: where cropping removes much, zeros are no measurement."""
    if any("CT" in modality for modality in modalities):
        return False, "z-scores over all voxels: 0 is a measured value in CT"
    median = float(np.median(size_reductions))
    if median < MASK_BELOW:
        return (
            True,
            f"z-scores inside the non-zero region: cropping leaves {median:.3f} of the volume (below {MASK_BELOW})",
        )
    return False, f"z-scores over all voxels: cropping leaves {median:.3f} of the volume (not below {MASK_BELOW})"
