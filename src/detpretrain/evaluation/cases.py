"""What is scored: the truth and the detections of one image, and the JSON file that carries many of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detpretrain import files
from detpretrain.errors import InputError

_REQUIRED = ("image_id", "gt_boxes", "gt_labels", "pred_boxes", "pred_labels", "pred_scores")


@dataclass(frozen=True)
class Case:
    """Truth and detections of one image, all boxes in the same coordinates.

    Attributes:
        image_id: name of the case.
        gt_boxes: [G, 6].
        gt_labels: classes [G] from 0.
        gt_ignore: [G]; an ignored object is not to be found, but a detection on it is no false positive.
        pred_boxes: [D, 6].
        pred_labels: classes [D].
        pred_scores: [D] in [0, 1]. Among equal scores the given order counts.
        gt_ids: instance ids [G]; 1 .. G when not given.
    """

    image_id: str
    gt_boxes: NDArray
    gt_labels: NDArray
    gt_ignore: NDArray
    pred_boxes: NDArray
    pred_labels: NDArray
    pred_scores: NDArray
    gt_ids: NDArray | None = None

    @property
    def truth_ids(self) -> NDArray[np.int64]:
        if self.gt_ids is None:
            return np.arange(1, len(self.gt_boxes) + 1, dtype=np.int64)
        return np.asarray(self.gt_ids, dtype=np.int64)


def read(path: Path | str) -> tuple[list[Case], int]:
    """Reads ``{"num_classes": n, "images": [{"image_id", "gt_boxes", ...}]}``: cases and number of classes.

    Raises:
        InputError: anything that is not as described, with the image and the entry at fault.
    """
    try:
        content = files.read_json(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from None
    if not isinstance(content, Mapping) or not {"num_classes", "images"} <= set(content):
        raise InputError(f'{path}: not a file of detections: write {{"num_classes": n, "images": [...]}}')
    num_classes = content["num_classes"]
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise InputError(f"{path}: num_classes is {num_classes!r}: give a number of classes, 1 or more")
    images = content["images"]
    if not isinstance(images, list) or not images:
        raise InputError(f"{path}: images is not a list with at least one image: list every image, empty ones too")
    cases, seen = [], set()
    for position, image in enumerate(images):
        case = _case(image, num_classes, f"{path}: image {position}")
        if case.image_id in seen:
            raise InputError(f"{path}: image_id {case.image_id!r} occurs twice: list each image once")
        seen.add(case.image_id)
        cases.append(case)
    return cases, num_classes


def _case(image: Any, num_classes: int, where: str) -> Case:
    if not isinstance(image, Mapping):
        raise InputError(f"{where}: not an object: give {', '.join(_REQUIRED)}")
    missing = [key for key in _REQUIRED if key not in image]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing: every image needs {', '.join(_REQUIRED)}")
    if not isinstance(image["image_id"], str) or not image["image_id"]:
        raise InputError(f"{where}: image_id is {image['image_id']!r}: give a name")
    where = f"{where} ({image['image_id']})"
    gt_boxes, pred_boxes = (
        _boxes(image["gt_boxes"], f"{where}: gt_boxes"),
        _boxes(image["pred_boxes"], f"{where}: pred_boxes"),
    )
    ignore = image.get("gt_ignore")
    return Case(
        image_id=image["image_id"],
        gt_boxes=gt_boxes,
        gt_labels=_labels(image["gt_labels"], len(gt_boxes), num_classes, f"{where}: gt_labels"),
        gt_ignore=_flags([0] * len(gt_boxes) if ignore is None else ignore, len(gt_boxes), f"{where}: gt_ignore"),
        pred_boxes=pred_boxes,
        pred_labels=_labels(image["pred_labels"], len(pred_boxes), num_classes, f"{where}: pred_labels"),
        pred_scores=_scores(image["pred_scores"], len(pred_boxes), f"{where}: pred_scores"),
    )


def _boxes(value: Any, where: str) -> NDArray[np.float64]:
    boxes = _numbers(value, where, "a list of boxes [z1, y1, x1, z2, y2, x2]")
    if boxes.size == 0:
        return np.empty((0, 6))
    if boxes.ndim != 2 or boxes.shape[1] != 6:
        raise InputError(f"{where}: shape {list(boxes.shape)}: give boxes [z1, y1, x1, z2, y2, x2]")
    _refuse(~np.isfinite(boxes).all(axis=1), where, "is not finite: remove it or give numbers")
    _refuse((boxes[:, 3:] < boxes[:, :3]).any(axis=1), where, "is inverted: order it as [z1, y1, x1, z2, y2, x2]")
    return boxes


def _labels(value: Any, count: int, num_classes: int, where: str) -> NDArray[np.int64]:
    labels = _vector(value, count, where, "one class for each box")
    wrong = ~((labels >= 0) & (labels < num_classes) & (labels == np.floor(labels)))
    _refuse(wrong, where, f"is not a class: use 0 .. {num_classes - 1}", labels)
    return labels.astype(np.int64)


def _scores(value: Any, count: int, where: str) -> NDArray[np.float64]:
    scores = _vector(value, count, where, "one score for each box")
    _refuse(~((scores >= 0) & (scores <= 1)), where, "is not a score: use 0 .. 1", scores)
    return scores


def _flags(value: Any, count: int, where: str) -> NDArray[np.bool_]:
    flags = _vector(value, count, where, "one 0 or 1 for each box")
    _refuse(~np.isin(flags, (0, 1)), where, "is no flag: use 0 or 1", flags)
    return flags.astype(bool)


def _vector(value: Any, count: int, where: str, wanted: str) -> NDArray[np.float64]:
    vector = _numbers(value, where, wanted)
    if vector.shape != (count,):
        raise InputError(f"{where}: shape {list(vector.shape)} for {count} boxes: give {wanted}")
    return vector


def _numbers(value: Any, where: str, wanted: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{where}: lists of different lengths: give {wanted}") from None
    if not isinstance(value, list) or array.dtype.kind not in "biuf":
        raise InputError(f"{where}: not a list of numbers: give {wanted}")
    return array.astype(np.float64)


def _refuse(wrong: NDArray[np.bool_], where: str, problem: str, values: NDArray | None = None) -> None:
    if wrong.any():
        index = int(np.argmax(wrong))
        value = "" if values is None else f" ({values[index]:g})"
        raise InputError(f"{where}: entry {index}{value} {problem}")
