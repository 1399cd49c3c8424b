"""A plan applied to one case: crop, transpose, resample, normalise (nnDetection v0.1's order)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from detpretrain import boxes as box_ops
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.preprocessing.crop import bounding_box, foreground_mask
from detpretrain.preprocessing.normalise import normalise
from detpretrain.preprocessing.resample import resample_image, resample_labels, resampled_shape


class Preprocessed(NamedTuple):
    """``data`` float32 [C, D, H, W]; ``instances`` integer [D, H, W] or None; ``properties``, see ``preprocess``."""

    data: np.ndarray
    instances: np.ndarray | None
    properties: dict[str, Any]


def preprocess(
    images: np.ndarray, geometry: Geometry, plan: Mapping[str, Any], instances: np.ndarray | None = None
) -> Preprocessed:
    """Preprocesses one case in memory, as ``run`` does for a whole task.

    Args:
        images: [C, D, H, W], any number type, channels in the order of the plan's modalities; not changed.
        geometry: of the images.
        plan: the content of plan.json.
        instances: instance map [D, H, W] on the same grid.

    Returns:
        Data, instances and properties: ``shape`` (of the result), ``crop_offset`` and ``cropped_shape`` (z, y, x of the
        original), ``transpose``, ``geometry`` (of the original, as JSON); with instances also ``ids`` and ``boxes`` of what
        is left of them after resampling, in index coordinates of the result.

    Raises:
        InputError: another number of channels than the plan's, an image that is empty or not finite.
    """
    _check(images, geometry, plan)
    box = bounding_box(images)
    cropped = images[(slice(None), *box)]
    transpose = tuple(plan["transpose"])
    spacing = [geometry.spacing[axis] for axis in transpose]
    shape = resampled_shape([cropped.shape[1 + axis] for axis in transpose], spacing, plan["spacing"])

    mask = None
    if plan["intensity"]["nonzero_mask"]:
        mask = resample_labels(foreground_mask(cropped).transpose(transpose), shape)
    data = np.empty((len(images), *shape), dtype=np.float32)
    for channel, scheme in enumerate(plan["intensity"]["scheme"]):
        # One channel at a time: a large volume needs few copies of one channel, not of all.
        data[channel] = resample_image(cropped[channel].transpose(transpose), shape)
        normalise(data[channel], scheme, mask)

    properties = {
        "shape": list(shape),
        "crop_offset": [s.start for s in box],
        "cropped_shape": list(cropped.shape[1:]),
        "transpose": list(transpose),
        "geometry": geometry.to_json(),
    }
    if instances is not None:
        instances = np.ascontiguousarray(resample_labels(instances[box].transpose(transpose), shape))
        ids, boxes = box_ops.from_instances(instances)
        properties |= {"ids": ids.tolist(), "boxes": boxes.tolist()}
    return Preprocessed(data, instances, properties)


def _check(images: np.ndarray, geometry: Geometry, plan: Mapping[str, Any]) -> None:
    if images.ndim != 4 or images.shape[1:] != tuple(geometry.shape):
        raise ValueError(f"images {images.shape} do not have the geometry's shape {geometry.shape}")
    if len(images) != plan["channels"]:
        names = ", ".join(plan["modalities"])
        raise InputError(
            f"{len(images)} channels given, the plan has {plan['channels']} ({names}): give one file for each"
        )
    if images.dtype.kind == "f" and not all(np.isfinite(channel).all() for channel in images):
        raise InputError("the image holds NaN or infinite voxels: repair the file, or exclude the case")
