"""Fingerprint + spec -> plan.json: what preprocessing, networks and detectors need to know about a data set.

Every number that is not copied from the spec follows nnDetection v0.1's rules, and ``reasons`` says which. The same task and
spec give the same bytes, whatever the machine and the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detpretrain.errors import InputError
from detpretrain.files import read_json, write_json
from detpretrain.preprocessing import memory_estimate
from detpretrain.preprocessing.anchor_planning import AnchorPlan, plan_anchors, relative_strides
from detpretrain.preprocessing.architecture_planning import (
    Architecture,
    derived_levels,
    fit_to_memory,
    pool_late,
    total_stride,
    with_padding,
)
from detpretrain.preprocessing.fingerprint import Fingerprint, fingerprint_task
from detpretrain.preprocessing.intensity_planning import channel_scheme, derived_schemes, use_nonzero_mask
from detpretrain.preprocessing.patch_planning import initial_patch, is_flat
from detpretrain.preprocessing.plan_spec import AXES, PlanSpec, parse_spec
from detpretrain.preprocessing.spacing_planning import axis_order, median_shape, target_spacing
from detpretrain.tasks import Task

KEYS = (
    "dataset", "plan", "spacing", "transpose", "modalities", "intensity", "patch", "strides", "kernels",
    "detection_levels", "anchors", "classes", "class_names", "channels", "median_shape", "dummy_2d", "reasons",
)  # fmt: skip
SMALLEST_BOX = 2.0  # an object of one voxel


def plan_task(
    task_root: Path | str, dataset: str, plan_name: str, spec: Mapping[str, Any], output: Path | str, workers: int = 1
) -> None:
    """Plans a task and writes plan.json.

    Args:
        task_root: a canonical task folder; without labels it is a corpus, whose plan has no anchors.
        dataset: id of the data set, kept in the plan.
        plan_name: name of the plan, kept in the plan and used in messages.
        spec: the content of config/plans/PLAN_NAME.yaml.
        output: the file to write.
        workers: processes that read the cases; the plan does not depend on it.

    Raises:
        InputError: the spec or a case is bad, or the task has no objects.
    """
    parsed = parse_spec(plan_name, spec)  # before the cases are read: a misspelt key should not cost an hour
    fingerprint = fingerprint_task(Task.read(task_root), workers)
    write_json(output, make_plan(fingerprint, dataset, plan_name, parsed))


def read_plan(path: Path | str) -> dict[str, Any]:
    """plan.json as a dictionary; ``InputError`` when a key is missing."""
    plan = read_json(path)
    missing = [key for key in KEYS if key not in plan] if isinstance(plan, dict) else list(KEYS)
    if missing:
        raise InputError(f"{path}: not a plan (no {', '.join(missing)}): plan the data set again")
    return plan


def make_plan(fingerprint: Fingerprint, dataset: str, plan_name: str, spec: PlanSpec) -> dict[str, Any]:
    """The plan as a dictionary of plain values; see ``plan_task``."""
    where = f"plan {plan_name} of {dataset}"
    reasons: dict[str, str] = {}
    spacing, transpose, median = _space(fingerprint, spec, reasons)
    intensity = _intensity(fingerprint, spec, where, reasons)
    ordered = [spacing[axis] for axis in transpose]
    architecture = _architecture(fingerprint, spec, ordered, median, where, reasons)
    anchors = _anchors(fingerprint, spec, architecture, spacing, transpose, where, reasons)
    flat = is_flat(architecture.patch)
    reasons["dummy_2d"] = f"longest side of the patch {'over' if flat else 'at most'} 3 x the shortest"
    return {
        "dataset": dataset,
        "plan": plan_name,
        "spacing": ordered,
        "transpose": transpose,
        "modalities": list(fingerprint.modalities),
        "intensity": intensity,
        "patch": architecture.patch,
        "strides": architecture.strides,
        "kernels": architecture.kernels,
        "detection_levels": architecture.detection_levels,
        "anchors": anchors,
        "classes": len(fingerprint.labels),
        "class_names": [name for _, name in sorted(fingerprint.labels.items())],
        "channels": len(fingerprint.modalities),
        "median_shape": median,
        "dummy_2d": flat,
        "reasons": reasons,
    }


def _space(
    fingerprint: Fingerprint, spec: PlanSpec, reasons: dict[str, str]
) -> tuple[list[float], list[int], list[int]]:
    """Target spacing (original axes), axis order, median size (plan's axes)."""
    spacings = np.array([case.spacing for case in fingerprint.cases])
    shapes = np.array([case.cropped_shape for case in fingerprint.cases])
    if spec.spacing is None:
        spacing, reasons["spacing"] = target_spacing(spacings, shapes)
    else:
        spacing, reasons["spacing"] = spec.spacing, "given by the plan"
    transpose = axis_order(spacing)
    reasons["transpose"] = f"coarsest axis ({AXES[transpose[0]]}, {spacing[transpose[0]]:.4g} mm) first"
    median = median_shape(shapes, spacings, spacing, transpose)
    cropped = "cropped" if fingerprint.labelled else "whole (only headers of a corpus are read)"
    reasons["median_shape"] = f"median of {len(shapes)} {cropped} images at the target spacing"
    return spacing, transpose, median


def _intensity(fingerprint: Fingerprint, spec: PlanSpec, where: str, reasons: dict[str, str]) -> dict[str, Any]:
    modalities, foreground = fingerprint.modalities, fingerprint.intensities
    if spec.intensity is None:
        names = derived_schemes(modalities, foreground)
        reasons["intensity"] = f"by modality ({', '.join(modalities)})"
        if foreground is None:
            reasons["intensity"] += "; no labelled voxels, so every image by its own mean and sd"
    else:
        names = spec.intensity if isinstance(spec.intensity, list) else [spec.intensity] * len(modalities)
        reasons["intensity"] = "given by the plan"
    if len(names) != len(modalities):
        raise InputError(
            f"{where}: {len(names)} intensity schemes for {len(modalities)} channels: give one per channel"
        )
    if foreground and any(name in ("ct", "ct2") for name in names):
        voxels = foreground[0]["voxels"]
        reasons["intensity"] += f"; clip, mean and sd from {voxels} labelled voxels (every 10th)"
    statistics = foreground or [None] * len(names)
    schemes = [channel_scheme(name, own, where) for name, own in zip(names, statistics, strict=True)]
    if spec.nonzero_mask is not None:
        mask, reasons["nonzero_mask"] = spec.nonzero_mask, "given by the plan"
    elif not fingerprint.labelled:
        mask, reasons["nonzero_mask"] = False, "z-scores over all voxels, as nnssl does for corpora"
    else:
        mask, reasons["nonzero_mask"] = use_nonzero_mask(modalities, [c.size_reduction for c in fingerprint.cases])
    return {"scheme": schemes, "nonzero_mask": mask}


def _architecture(
    fingerprint: Fingerprint,
    spec: PlanSpec,
    spacing: list[float],
    median: list[int],
    where: str,
    reasons: dict[str, str],
) -> Architecture:
    """``spacing`` and ``median`` in the plan's axis order."""

    def build(patch: Any) -> Architecture:
        if spec.strides is None:
            strides, kernels = pool_late(spacing, patch, spec.min_feature_map)
        else:
            strides = spec.strides
            kernels = spec.kernels or [[3, 3, 3]]
            kernels = kernels * len(strides) if len(kernels) == 1 else kernels
        return with_padding(patch, strides, kernels, spec.detection_levels)

    if spec.strides is None:
        reasons["strides"] = (
            f"every axis below 2 x the finest spacing is halved while its map has at least {2 * spec.min_feature_map} voxels"
        )
        reasons["kernels"] = "3 along the largest group of axes with spacings within a factor of 2, last stage 3"
    else:
        reasons["strides"] = "given by the plan"
        reasons["kernels"] = "given by the plan" if spec.kernels else "3 everywhere"
    if spec.patch is None:
        architecture = _patch_by_memory(fingerprint, spec, spacing, median, build, where, reasons)
    else:
        architecture = build(spec.patch)
        reasons["patch"] = "given by the plan"
        if architecture.patch != spec.patch:
            total = total_stride(architecture.strides)
            raise InputError(
                f"{where}: patch {spec.patch} is not divisible by the total stride {total}: use {architecture.patch}"
            )
    _check_levels(architecture, where)
    stages = len(architecture.strides)
    reasons["detection_levels"] = (
        f"levels {derived_levels(stages)[0]} to {stages - 1} of {stages} stages"
        if spec.detection_levels is None
        else "given by the plan"
    )
    return architecture


def _patch_by_memory(
    fingerprint: Fingerprint, spec: PlanSpec, spacing: list[float], median: list[int], build: Any, where: str,
    reasons: dict[str, str],
) -> Architecture:  # fmt: skip
    budget = memory_estimate.BUDGET if spec.memory_gib is None else spec.memory_gib * 2**30

    def needed(architecture: Architecture) -> int:
        _check_levels(architecture, where)
        return memory_estimate.training_bytes(
            architecture.patch,
            architecture.strides,
            architecture.kernels,
            architecture.detection_levels,
            len(fingerprint.modalities),
            max(1, len(fingerprint.labels)),
            spec.batch,
        )

    start = initial_patch(spacing, median)
    min_feature_map = spec.min_feature_map if spec.strides is None else None
    try:
        architecture, memory = fit_to_memory(start, median, build, needed, budget, min_feature_map)
    except ValueError as error:
        raise InputError(f"{where}: {error}: raise memory_gib or lower batch") from None
    reasons["patch"] = (
        f"from {start} (median size, square in-plane) down to what the reference detector trains with in "
        f"{budget / 2**30:.2f} GiB: estimated {memory / 2**30:.2f} GiB at batch {spec.batch}"
    )
    return architecture


def _check_levels(architecture: Architecture, where: str) -> None:
    stages = len(architecture.strides)
    if architecture.detection_levels[-1] >= stages:
        raise InputError(
            f"{where}: detection level {architecture.detection_levels[-1]}, but the encoder has stages 0 to {stages - 1}: "
            "lower detection_levels or add stages"
        )


def _anchors(
    fingerprint: Fingerprint, spec: PlanSpec, architecture: Architecture, spacing: list[float], transpose: list[int],
    where: str, reasons: dict[str, str],
) -> dict[str, list[int]] | None:  # fmt: skip
    if spec.anchors is not None:
        reasons["anchors"] = "given by the plan" if spec.anchors else "none: the plan is not for a detector"
        return spec.anchors or None
    if not fingerprint.labelled:
        reasons["anchors"] = "none: the task has no labels"
        return None
    lengths = box_lengths(fingerprint, spacing, transpose)
    if not len(lengths):
        raise InputError(f"{where}: no case has an object: a detector cannot be planned, check the labels")
    scales = relative_strides(architecture.strides, architecture.detection_levels)
    plan: AnchorPlan = plan_anchors(lengths, scales)
    reasons["anchors"] = (
        f"mean IoU of the best of 27 sizes on {len(scales)} levels with {plan.boxes} of {len(lengths)} training boxes "
        f"(0.5 to 99.5 percentile): {plan.mean_iou:.3f}"
    )
    return dict(zip(AXES, plan.sizes, strict=True))


def box_lengths(fingerprint: Fingerprint, spacing: list[float], transpose: list[int]) -> np.ndarray:
    """Side lengths [N, 3] (plan's axes) that the training boxes will have after resampling.

    A box is one voxel longer than its object, at any spacing: (length - 1) * old / new + 1, not length * old / new.
    """
    lengths = [np.empty((0, 3))]
    for case in fingerprint.cases:
        boxes = np.array(case.boxes).reshape(-1, 6)
        voxels = boxes[:, 3:] - boxes[:, :3] - 1
        lengths.append(np.maximum(voxels * np.divide(case.spacing, spacing) + 1, SMALLEST_BOX))
    return np.concatenate(lengths)[:, transpose]
