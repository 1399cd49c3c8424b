"""What a plan needs to know about a task: sizes, spacings, objects and the intensities inside them.

Figures: nnDetection v0.1, "planning/properties". Test sets are never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detpretrain import volumes
from detpretrain.errors import InputError
from detpretrain.parallel import map_cases
from detpretrain.preprocessing.crop import bounding_box
from detpretrain.preprocessing.raw_case import CaseFiles, RawCase, find_cases, read_raw_case
from detpretrain.tasks import Task

SAMPLE_EVERY = 10  # foreground voxels: neighbours say nearly the same


@dataclass(frozen=True)
class CaseFingerprint:
    """One training case; lengths in voxels (z, y, x) of the original axes, spacing in mm.

    ``boxes`` [N][6] (original index coordinates) and ``classes`` [N] are those of the objects that are not ignored.
    """

    case: str
    shape: tuple[int, int, int]
    cropped_shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    boxes: list[list[float]]
    classes: list[int]

    @property
    def size_reduction(self) -> float:
        """Cropped over original volume."""
        return float(np.prod(self.cropped_shape, dtype=np.float64) / np.prod(self.shape, dtype=np.float64))


@dataclass(frozen=True)
class Fingerprint:
    """A task. ``intensities`` holds one dictionary per channel, or None where no voxel is labelled."""

    modalities: list[str]
    labels: dict[int, str]
    cases: list[CaseFingerprint]
    intensities: list[dict[str, float]] | None

    @property
    def labelled(self) -> bool:
        return bool(self.labels)

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        content["labels"] = {str(key): value for key, value in self.labels.items()}
        return content


def fingerprint_task(task: Task, workers: int = 1) -> Fingerprint:
    """Looks at every cross-validation case, in ``workers`` processes; the result does not depend on their number.

    Of an unlabelled corpus only the headers are read: its plan needs no intensities, and corpora have 1e5 volumes.

    Raises:
        InputError: no case, or bad cases (one message names them all).
    """
    files = find_cases(task)
    if not files:
        raise InputError(f"{task.image_folder('cv')}: no image CASE_0000.nii.gz: prepare the task again")
    look = _labelled_case if task.labelled else _unlabelled_case
    found = map_cases(look, files, workers, name=lambda job: job.case, what="analysed")
    cases = [case for case, _ in found]
    samples = [sample for _, sample in found if sample is not None]
    intensities = None
    if sum(sample.shape[1] for sample in samples):
        pooled = np.concatenate(samples, axis=1)
        intensities = [foreground_statistics(channel) for channel in pooled]
    return Fingerprint(list(task.modalities.values()), dict(task.labels), cases, intensities)


def foreground_statistics(values: np.ndarray) -> dict[str, float]:
    """Mean, population sd, median, extremes and 0.5 / 99.5 percentiles of sampled foreground voxels [N], in float64."""
    values = values.astype(np.float64)
    low, median, high = np.percentile(values, [0.5, 50.0, 99.5])
    return {
        "voxels": int(values.size),
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "median": float(median),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
    }


def sample_foreground(raw: RawCase) -> np.ndarray:
    """Every 10th voxel of the objects that are not ignored, in array order: float32 [C, N]."""
    inside = raw.instances > 0
    if raw.annotation.ignored:
        inside &= ~np.isin(raw.instances, sorted(raw.annotation.ignored))
    return raw.images[:, inside][:, ::SAMPLE_EVERY]


def _labelled_case(files: CaseFiles) -> tuple[CaseFingerprint, np.ndarray]:
    raw = read_raw_case(files)
    cropped = _lengths(bounding_box(raw.images))
    _, classes, boxes = raw.objects()
    case = CaseFingerprint(
        files.case, raw.geometry.shape, cropped, raw.geometry.spacing, boxes.tolist(), classes.tolist()
    )
    return case, sample_foreground(raw)


def _unlabelled_case(files: CaseFiles) -> tuple[CaseFingerprint, None]:
    geometry = volumes.read_geometry(files.images[0])
    return CaseFingerprint(files.case, geometry.shape, geometry.shape, geometry.spacing, [], []), None


def _lengths(box: Sequence[slice]) -> tuple[int, int, int]:
    return tuple(s.stop - s.start for s in box)
