"""nnDetection's predictions -> raw boxes: CASE_boxes.pkl with ``pred_boxes``, ``pred_scores``, ``pred_labels`` and the geometry.

Its boxes are (a0 min, a1 min, a0 max, a1 max, a2 min, a2 max) over the axes 0, 1, 2 of SimpleITK's arrays, which are z, y, x.
In the files read here they are "restored": index coordinates of the original image, with a box from min - 1 to max + 1 of an
object's voxels as here. Its restoring multiplies by the ratio of the spacings and adds the crop, without the shift by half a
voxel that a change of the voxel's size brings (``preprocessing.restore`` has it); its own scores are of such boxes, so they are
taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from detpretrain import volumes
from detpretrain.engines import plain_pickle
from detpretrain.errors import InputError
from detpretrain.evaluation.ensemble import Candidates
from detpretrain.geometry import Geometry
from detpretrain.preprocessing.raw_case import CaseFiles

ORDER = [0, 1, 4, 2, 3, 5]  # of its columns: z1, y1, x1, z2, y2, x2
AGAIN = "predict the cell again"


def read_cases(cases: Iterable[CaseFiles], folder: Path, classes: int) -> dict[str, Candidates]:
    """The detections of cases, each from its file in ``folder``; errors as ``read_case``."""
    return {
        case.case: read_case(folder / f"{case.case}_boxes.pkl", volumes.read_geometry(case.images[0]), classes)
        for case in cases
    }


def read_case(path: Path, geometry: Geometry, classes: int) -> Candidates:
    """The detections of one case, in original index coordinates.

    Args:
        path: the pickle.
        geometry: of the case's image.
        classes: number of classes.

    Raises:
        InputError: no plain data, keys or forms that are not nnDetection's, values that no detection has, or another image.
    """
    content = plain_pickle.load(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a dictionary of predictions: {AGAIN}")
    boxes = _numbers(path, content, "pred_boxes")
    scores, labels = _numbers(path, content, "pred_scores"), _numbers(path, content, "pred_labels")
    boxes = boxes.reshape(-1, 6) if not boxes.size else boxes
    if boxes.shape != (len(scores), 6) or scores.ndim != 1 or labels.shape != scores.shape:
        shapes = ", ".join(str(part.shape) for part in (boxes, scores, labels))
        raise InputError(f"{path}: boxes, scores and labels of shapes {shapes}, not (N, 6), (N,), (N,): {AGAIN}")
    _check_values(path, boxes, scores, labels, classes)
    _check_image(path, content, geometry)
    count = len(scores)
    return Candidates(
        boxes[:, ORDER].astype(np.float32),
        scores.astype(np.float32),
        labels.astype(np.int64),
        np.ones(count, dtype=np.float32),
        np.zeros(count, dtype=np.int64),
    )


def _numbers(path: Path, content: dict[str, Any], key: str) -> np.ndarray:
    if key not in content:
        raise InputError(f"{path}: has no {key}: {AGAIN}")
    values = content[key]
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"{path}: {key} is a {kind}, not an array of numbers: {AGAIN}")
    return values


def _check_values(path: Path, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and np.isfinite(labels).all()):
        raise InputError(f"{path}: a prediction is not finite: {AGAIN}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InputError(f"{path}: a score of {scores[(scores < 0) | (scores > 1)][0]}, outside of 0 to 1: {AGAIN}")
    if not np.isin(labels, np.arange(classes)).all():
        wrong = labels[~np.isin(labels, np.arange(classes))][0]
        raise InputError(f"{path}: class {wrong}, the task has classes 0 to {classes - 1}: {AGAIN}")
    ordered = boxes[:, ORDER]
    if not (ordered[:, 3:] >= ordered[:, :3]).all():
        raise InputError(f"{path}: a box ends before it begins: {AGAIN}")


def _check_image(path: Path, content: dict[str, Any], geometry: Geometry) -> None:
    """The image that was predicted is the case's, and the boxes are in its coordinates."""
    if content.get("restore") is not True:
        raise InputError(f"{path}: its boxes are not restored to the original image: {AGAIN}")
    try:
        shape, spacing, origin, direction = (
            np.asarray(content[key], dtype=np.float64).reshape(-1)
            for key in ("original_size_of_raw_data", "itk_spacing", "itk_origin", "itk_direction")
        )
        theirs = Geometry(
            shape=tuple(int(n) for n in shape),
            spacing=tuple(float(s) for s in spacing[::-1]),
            origin=tuple(float(o) for o in origin),
            direction=tuple(float(d) for d in direction),
        )
        differs = geometry.difference(theirs)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: does not tell the image that it is of ({error}): {AGAIN}") from None
    if differs:
        raise InputError(f"{path}: predicted in another image ({differs}): {AGAIN}")
