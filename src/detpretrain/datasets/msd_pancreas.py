"""Pancreas tumours in portal-venous CT: task 7 of the Medical Segmentation Decathlon (Simpson et al., 2019).

Raw layout (``Task07_Pancreas``): ``dataset.json``, ``imagesTr/pancreas_NNN.nii.gz``, ``labelsTr/pancreas_NNN.nii.gz`` with
1 = pancreas, 2 = tumour. The labels of the publisher's own test images (``imagesTs``) are not public: they are not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from detpretrain import volumes
from detpretrain.datasets import label_maps
from detpretrain.datasets.instances import from_semantic
from detpretrain.datasets.nifti_layout import EXCLUDE, NIFTI, Pair, pairs
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.geometry import Geometry
from detpretrain.task_validation import Problem, from_error
from detpretrain.tasks import CROSS_VALIDATION

CASES = 281
PANCREAS, TUMOUR = 1, 2
TEST = "test"


class MSDPancreas:
    """One class, "tumour": connected components (26) of the tumour label; the pancreas is background.

    The publisher's test labels are not public, so a part of the labelled patients is held out as test set "test":
    ``round(test_fraction * cases)`` of the cases that dataset.json lists, sorted, the first ones of
    ``numpy.random.default_rng(test_seed).permutation``. Cases that are excluded or missing do not change who is in it.

    Args:
        test_fraction: of the patients, below 1; 0 = no test set.
        test_seed: of that draw.
        min_size_mm: a component is kept when its box is longer than this on both in-plane axes. A case that keeps none stays
            in, without objects.
    """

    labels = ("tumour",)
    modalities = ("CT",)

    def __init__(self, *, test_fraction: float = 0.3, test_seed: int = 0, min_size_mm: float = 3.0) -> None:
        if not 0 <= test_fraction < 1:
            raise InputError(f"test_fraction: {test_fraction}: give a number from 0 to below 1")
        self.test_fraction = test_fraction
        self.test_seed = test_seed
        self.min_size_mm = min_size_mm
        tests = round(test_fraction * CASES)
        self.published = Published(
            cases={CROSS_VALIDATION: CASES - tests} | ({TEST: tests} if tests else {}),
            licence="CC BY-SA 4.0",
            citation="Simpson et al., A large annotated medical image dataset for the development and evaluation of "
            "segmentation algorithms, arXiv:1902.09063, 2019; Antonelli et al., The Medical Segmentation Decathlon, "
            "Nature Communications 13, 2022",
            download="http://medicaldecathlon.com (Task07_Pancreas.tar)",
            scan=AverageScan((95, 512, 512), (2.5, 0.8, 0.8)),
        )

    def layout(self, raw: Path) -> Layout:
        paired, problems = pairs(raw / "imagesTr", raw / "labelsTr")
        listed, list_problems = _listed(raw / "dataset.json")
        problems += list_problems
        if listed:
            problems += [_unlisted(pair) for pair in paired if pair.name not in listed]
        tests = self._tests(listed or [pair.name for pair in paired])
        cases = [
            RawCase(
                case=pair.case,
                patient=pair.case,
                source_id=pair.name,
                files=(pair.image, pair.label),
                test_set=TEST if pair.name in tests else CROSS_VALIDATION,
            )
            for pair in paired
        ]
        return Layout(cases, problems, missing=_missing(raw, listed))

    def convert(self, case: RawCase) -> Converted:
        image, label = case.files
        geometry = volumes.read_geometry(image)
        mask = label_maps.read_labels(label)
        windows = label_maps.windows(mask)
        if unknown := sorted(set(windows) - {PANCREAS, TUMOUR}):
            raise InputError(
                f"{label}: holds value {unknown[0]}: 1 is pancreas, 2 tumour: download the label map again"
            )
        if TUMOUR not in windows:
            return _converted(image, geometry, np.zeros(mask.shape, np.uint8), {}, ["no tumour in the label map"])
        tumours = mask[windows[TUMOUR]] == TUMOUR
        part, classes = from_semantic(tumours, {1: 0}, geometry.spacing, min_size_mm=self.min_size_mm)
        instances = label_maps.pasted(mask.shape, windows[TUMOUR], part)
        dropped = ndimage.label(tumours & (part == 0), np.ones((3, 3, 3)))[1]
        notes = [f"{dropped} tumour components dropped: not above {self.min_size_mm:g} mm"] if dropped else []
        return _converted(image, geometry, instances, classes, notes)

    def _tests(self, names: list[str]) -> set[str]:
        names = sorted(names)
        order = np.random.default_rng(self.test_seed).permutation(len(names))
        return {names[index] for index in order[: round(self.test_fraction * len(names))]}


def _converted(
    image: Path, geometry: Geometry, instances: np.ndarray, classes: dict[int, int], notes: list[str]
) -> Converted:
    return Converted([image], geometry, instances, classes, notes=notes)


def _listed(path: Path) -> tuple[list[str], list[Problem]]:
    """The names of the labelled cases that dataset.json lists; problems: it is not the one of this task."""
    remedy = "unpack the publisher's archive again"
    try:
        content = read_json(path)
    except InputError as error:
        return [], [from_error("", error, EXCLUDE)]
    try:
        labels = {int(value): str(name) for value, name in content["labels"].items()}
        names = [_name(entry) for entry in content["training"]]
        count = int(content["numTraining"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return [], [Problem("", str(path), "no labels, numTraining or training list of image and label", remedy)]
    problems = []
    if sorted(labels) != [0, PANCREAS, TUMOUR] or labels[PANCREAS].lower() != "pancreas":
        problem = f"labels {labels}, not those of Task07_Pancreas (0 background, 1 pancreas, 2 tumour)"
        problems.append(Problem("", str(path), problem, "point raw: at the folder Task07_Pancreas"))
    if count != len(names):
        problem = f"numTraining is {count}, but the training list has {len(names)} cases"
        problems.append(Problem("", str(path), problem, remedy))
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [Problem("", str(path), f"{name} is twice in the training list", remedy) for name in twice]
    return sorted(set(names)), problems


def _name(entry: dict[str, Any]) -> str:
    """{"image": "./imagesTr/NAME.nii.gz", "label": "./labelsTr/NAME.nii.gz"} -> NAME; both must name the same case."""
    image, label = Path(entry["image"]), Path(entry["label"])
    if image.name != label.name or not image.name.endswith(NIFTI):
        raise ValueError(f"{image} and {label}")
    return image.name.removesuffix(NIFTI)


def _missing(raw: Path, listed: list[str]) -> list[str]:
    """Images of listed cases of which the download has nothing; a half of a pair is a problem of its own."""
    files = [(f"imagesTr/{name}{NIFTI}", f"labelsTr/{name}{NIFTI}") for name in listed]
    return [image for image, label in files if not (raw / image).is_file() and not (raw / label).is_file()]


def _unlisted(pair: Pair) -> Problem:
    problem = "not in the training list of dataset.json"
    return Problem(pair.case, str(pair.image), problem, "remove it, or unpack the publisher's archive again")
