"""The user's own images with semantic masks: every connected component of a class is an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detpretrain import volumes
from detpretrain.datasets.case_patterns import CasePattern
from detpretrain.datasets.instances import NEIGHBOURS, from_semantic
from detpretrain.datasets.own_images import Images, OwnImages, grid_problems, own_data
from detpretrain.datasets.raw_dataset import Converted, Layout, RawCase
from detpretrain.datasets.raw_layout import path_safe
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem
from detpretrain.tasks import CROSS_VALIDATION


class SemanticMasks:
    """A raw folder with images and masks that patterns find, see ``case_patterns``.

    Args:
        images: ``images/*.nii.gz``, ``images/{case}_{channel}.nii.gz``, or a list with one pattern per modality.
        masks: ``masks/{case}.nii.gz``.
        labels: class -> value or values of the mask. Values of one class grow together into one object.
        modalities: name of every channel.
        background: more values that mean no object, besides 0; any value that neither names is refused.
        connectivity: 6, 18 or 26.
        min_voxels: a component with at most this many voxels is dropped.
        min_size_mm: so is one whose box is not longer than this in-plane.
        patient: regular expression with one group, see ``OwnImages``.
        test_sets: name -> ``{images: ..., masks: ...}``.

    Raises:
        InputError: labels, patterns or test sets of another form.
    """

    def __init__(
        self,
        *,
        images: Images,
        masks: str,
        labels: Mapping[str, int | Sequence[int]],
        modalities: Sequence[str],
        background: Sequence[int] = (),
        connectivity: int = 26,
        min_voxels: int = 0,
        min_size_mm: float = 0.0,
        patient: str | None = None,
        test_sets: Mapping[str, Mapping[str, Any]] | None = None,
        licence: str = "",
        citation: str = "",
    ) -> None:
        if connectivity not in NEIGHBOURS:
            raise InputError(f"connectivity: 6, 18 or 26, not {connectivity}")
        self.labels, self.classes = _classes(labels)
        self.background = {0, *map(int, background)}
        both = sorted(self.background & set(self.classes))
        if both:
            raise InputError(f"background: value {both[0]} is in labels too, or 0: remove it from one of them")
        self.connectivity, self.min_voxels, self.min_size_mm = connectivity, min_voxels, min_size_mm
        for name, given in (test_sets or {}).items():
            if not isinstance(given, Mapping) or set(given) != {"images", "masks"}:
                raise InputError(f"test_sets: {name}: write {{images: PATTERN, masks: PATTERN}}")
        tests = test_sets or {}
        self.images = OwnImages(images, modalities, patient, {name: given["images"] for name, given in tests.items()})
        self.modalities = self.images.modalities
        self.masks = {CROSS_VALIDATION: CasePattern(masks)}
        self.masks |= {name: CasePattern(given["masks"]) for name, given in tests.items()}
        self.published = own_data(licence, citation)

    def layout(self, raw: Path) -> Layout:
        own, problems = self.images.find(raw)
        cases = []
        for test_set, pattern in self.masks.items():
            masks, wrong = pattern.find(raw)
            problems += wrong
            mine = [case for case in own if case.test_set == test_set]
            for case in mine:
                if case.name in masks:
                    mask = masks[case.name]
                    problems += grid_problems(case.case, case.images[0], [*case.images[1:], mask])
                    source = case.images[0].relative_to(raw).as_posix()
                    files = (case.images, mask)
                    cases.append(RawCase(case.case, case.patient, source, files, test_set=test_set))
                elif masks:
                    file = str(pattern.expected(raw, case.name))
                    problems.append(Problem(case.case, file, "image without mask", "add the mask, or exclude the case"))
            for name in sorted(set(masks) - {case.name for case in mine}) if mine else ():
                problems.append(
                    Problem(
                        path_safe(name), str(masks[name]), "mask without image", "add the image, or exclude the case"
                    )
                )
        return Layout(cases, problems)

    def convert(self, case: RawCase) -> Converted:
        images, path = case.files
        mask, geometry = volumes.read(path)
        self._check_values(path, mask)
        limits = {"min_voxels": self.min_voxels, "min_size_mm": self.min_size_mm}
        instances, classes = from_semantic(
            mask, self.classes, geometry.spacing, connectivity=self.connectivity, **limits
        )
        notes = []
        if any(limits.values()):
            every = from_semantic(mask, self.classes, geometry.spacing, connectivity=self.connectivity)[1]
            if len(every) > len(classes):
                notes.append(f"{len(every) - len(classes)} of {len(every)} components are below the minimum size")
        return Converted(list(images), geometry, instances, classes, notes=notes)

    def _check_values(self, path: Path, mask: np.ndarray) -> None:
        if mask.dtype.kind == "f" and not np.array_equal(mask, np.rint(mask)):
            raise InputError(f"{path}: holds fractions, not labels: save the mask without interpolation")
        unknown = sorted({int(value) for value in np.unique(mask)} - set(self.classes) - self.background)
        if unknown:
            raise InputError(
                f"{path}: holds value {unknown[0]}, which the entry does not name: add it to labels:, or to background:"
            )


def _classes(labels: Mapping[str, int | Sequence[int]]) -> tuple[list[str], dict[int, int]]:
    """Names of the classes, and class by value of the mask."""
    if not isinstance(labels, Mapping) or not labels:
        raise InputError("labels: write {tumour: 1}, or {tumour: [1, 2]} for several values of one class")
    classes: dict[int, int] = {}
    for number, (name, given) in enumerate(labels.items()):
        values = [given] if isinstance(given, int) else given
        if not isinstance(values, Sequence) or not values or not all(isinstance(v, int) and v > 0 for v in values):
            raise InputError(f"labels: {name}: {given!r} is neither a whole number above 0 nor a list of such")
        for value in values:
            if value in classes:
                raise InputError(f"labels: value {value} belongs to two classes: each value has one")
            classes[value] = number
    return [str(name) for name in labels], classes
