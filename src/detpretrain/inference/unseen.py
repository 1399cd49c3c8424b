"""Detections in images that no study ever saw: files or DICOM folders -> boxes in the patient."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detpretrain import dicom, volumes
from detpretrain.errors import InputError
from detpretrain.evaluation.ensemble import PostProcessing
from detpretrain.evaluation.raw_boxes import RawBoxes
from detpretrain.files import read_json
from detpretrain.geometry import Geometry
from detpretrain.inference.model import Model
from detpretrain.inference.predict import predict_case
from detpretrain.inference.scoring import detect
from detpretrain.preprocessing.apply import preprocess

CHANNEL_SUFFIX = re.compile(r"_\d{4}$")


@dataclass(frozen=True)
class UnseenCase:
    """``channels``: one image file or DICOM folder each, in the order of the plan's modalities."""

    name: str
    channels: tuple[Path, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.channels))


@dataclass(frozen=True)
class CaseDetections:
    """Best first: ``boxes`` [N, 6] in index coordinates of the image, ``scores`` [N] in [0, 1], ``labels`` [N].

    ``class_names`` by label, from the model's data set.
    """

    name: str
    channels: tuple[Path, ...]
    geometry: Geometry
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The class of each detection."""
        return [self.class_names[label] for label in self.labels]


def find_cases(arguments: Sequence[str]) -> list[UnseenCase]:
    """Cases of a command line: a file, a DICOM folder, or several of them with commas between for the channels of one case.

    Raises:
        InputError: nothing lies there, or two cases have the same name.
    """
    cases = [_parse(argument) for argument in arguments]
    seen: dict[str, UnseenCase] = {}
    for case in cases:
        other = seen.setdefault(case.name, case)
        if other is not case:
            raise InputError(f"{case}: named {case.name} like {other}: predict them into different folders")
    return cases


def _parse(argument: str) -> UnseenCase:
    whole = Path(argument)
    # a comma may be part of a name
    channels = [whole] if whole.exists() else [Path(part) for part in argument.split(",")]
    for path in channels:
        if not path.exists():
            raise InputError(f"{path}: file not found")
    return UnseenCase(_name(channels[0], len(channels)), tuple(channels))


def _name(path: Path, channels: int) -> str:
    """``a/CASE_0000.nii.gz`` -> CASE, where the case has several channels; a folder's own name."""
    path = path.resolve() if path.is_dir() else path
    suffix = "" if path.is_dir() else next((s for s in (".nii.gz", path.suffix) if path.name.endswith(s)), "")
    name = path.name.removesuffix(suffix)
    return CHANNEL_SUFFIX.sub("", name) if channels > 1 else name


def check(case: UnseenCase, plan: dict[str, Any]) -> None:
    """What can be told without reading voxels, so that a long run does not end at its last case.

    Raises:
        InputError: not as many channels as the plan's, or a file that is not a 3-D scalar image.
    """
    if len(case.channels) != plan["channels"]:
        names = ", ".join(plan["modalities"])
        raise InputError(
            f"{case}: {len(case.channels)} channel(s), the model takes {plan['channels']} ({names}): "
            "give one file for each, with commas between"
        )
    for path in case.channels:
        if path.is_dir():
            dicom.series_files(path)
        else:
            volumes.read_geometry(path)


def read_images(case: UnseenCase) -> tuple[np.ndarray, Geometry]:
    """The channels [C, D, H, W] float32 and their geometry; ``InputError`` when a file is unreadable or lies otherwise."""
    images, geometry = [], None
    for path in case.channels:
        array, own = dicom.read_series(path) if path.is_dir() else volumes.read(path)
        geometry = geometry or own
        difference = geometry.difference(own)
        if difference:
            raise InputError(f"{path}: lies otherwise in space than {case.channels[0]} ({difference}): resample it")
        images.append(array.astype(np.float32))
    return np.stack(images), geometry


def predict_unseen(case: UnseenCase, model: Model, post: PostProcessing, device: torch.device) -> CaseDetections:
    """Preprocesses by the model's plan, predicts all tiles and mirrors, merges, and goes back to the image.

    Raises:
        InputError: a file that cannot be read, channels that do not belong together, an empty image.
    """
    images, geometry = read_images(case)
    try:
        data, _, properties = preprocess(images, geometry, model.plan)
    except InputError as error:
        raise InputError(f"{case}: {error}") from None
    found = predict_case(model.detector, data, model.plan["patch"], model.settings, device, model.precision)
    mirrors = len(model.settings.mirrors)
    raw = RawBoxes({case.name: found}, {case.name: properties}, mirrors, model.plan["classes"], model.provenance)
    boxes, scores, labels = detect([raw], case.name, post)
    return CaseDetections(case.name, case.channels, geometry, boxes, scores, labels, model.plan["class_names"])


def predict_all(
    cases: Sequence[UnseenCase], model: Model, post: PostProcessing, device: torch.device, min_score: float
) -> Iterator[CaseDetections]:
    """Detections of score >= ``min_score`` case by case, after all cases have been checked as far as headers tell."""
    for case in cases:
        check(case, model.plan)
    for case in cases:
        found = predict_unseen(case, model, post, device)
        kept = found.scores >= min_score
        yield replace(found, boxes=found.boxes[kept], scores=found.scores[kept], labels=found.labels[kept])


def read_post_processing(path: Path, fold: int | None = None) -> PostProcessing:
    """What a row's ``postprocessing.json`` holds for the model of a fold, or for test sets (best on all held-out cases).

    Raises:
        InputError: not such a file, or without the fold.
    """
    content = read_json(path)
    try:
        folds, chosen = dict(content["folds"]), dict(content["test_sets"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a row's postprocessing.json: give results/STUDY/rows/.../that file") from None
    if fold is not None:
        if str(fold) not in folds:
            raise InputError(f"{path}: no fold {fold}: it has {', '.join(folds) or 'none'}")
        chosen = folds[str(fold)]
    unknown = sorted(set(chosen) - {field.name for field in fields(PostProcessing)})
    if unknown:
        raise InputError(f"{path}: unknown setting {unknown[0]!r}: consolidate the row again")
    return PostProcessing(**chosen)
