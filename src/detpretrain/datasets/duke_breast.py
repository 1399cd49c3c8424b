"""Breast cancer in dynamic contrast-enhanced MR: Duke-Breast-Cancer-MRI (Saha et al., 2018), from DICOM and two sheets.

Raw layout: ``Annotation_Boxes.xlsx`` and ``Breast-Cancer-MRI-filepath_filename-mapping.xlsx`` in ``raw``, and TCIA's folders
``Breast_MRI_001/STUDY/SERIES/1-001.dcm`` anywhere below it. A series is known by the uid in its headers, so that study and
series folders may have any name.

The sheet counts slices as the publisher's own files were numbered, which may run along the stack or against it. The mapping says
which delivered file has which number, and the instance numbers have the same order: both are looked up and must agree, and the
box is placed where the slices of its first and last number lie.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from detpretrain import dicom
from detpretrain.datasets import shapes
from detpretrain.datasets.duke_sheets import (
    AXES,
    BOXES,
    MAPPING,
    PATIENT,
    MappedPhase,
    SheetBox,
    file_key,
    read_boxes,
    read_mapping,
)
from detpretrain.datasets.nifti_layout import EXCLUDE
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.errors import InputError
from detpretrain.geometry import Geometry
from detpretrain.task_validation import Problem, from_error
from detpretrain.tasks import CROSS_VALIDATION

CHANNELS = ("pre", "post_1", "post_2", "post_3")
AGREE, BY_MAPPING, BY_INSTANCE = "agree", "mapping", "instance"


@dataclass(frozen=True)
class _Phase:
    """Files of one phase, and the mapping's slice number of each; empty when the download's file names are not the mapping's."""

    files: Sequence[Path]
    numbers: Mapping[Path, int]


@dataclass(frozen=True)
class _Files:
    box: SheetBox
    phases: Mapping[str, _Phase]


class DukeBreast:
    """One class, "tumour": one box per patient, as the sheet has it.

    Args:
        channels: phases in channel order; the others are resampled onto the grid of the first one, where they differ from it.
        slice_numbers: what counts the slices of the sheet: ``mapping``, ``instance`` (the instance numbers), or ``agree`` =
            either, and a case where they differ is refused.
    """

    labels = ("tumour",)
    published = Published(
        cases={CROSS_VALIDATION: 922},
        licence="CC BY-NC 4.0",
        citation="Saha et al., A machine learning approach to radiogenomics of breast cancer: a study of 922 subjects and 529 "
        "DCE-MRI features, British Journal of Cancer 119, 2018",
        download="https://www.cancerimagingarchive.net/collection/duke-breast-cancer-mri (images and both sheets)",
        scan=AverageScan((170, 448, 448), (1.1, 0.75, 0.75), channels=4),
    )

    def __init__(self, *, channels: Sequence[str] = CHANNELS, slice_numbers: str = AGREE) -> None:
        if not channels or len(set(channels)) < len(channels):
            raise InputError(f"channels: {list(channels)}: name each phase once, such as {', '.join(CHANNELS)}")
        if slice_numbers not in (AGREE, BY_MAPPING, BY_INSTANCE):
            raise InputError(f"slice_numbers: {slice_numbers}: give {AGREE}, {BY_MAPPING} or {BY_INSTANCE}")
        self.modalities = tuple(channels)
        self.slice_numbers = slice_numbers

    def layout(self, raw: Path) -> Layout:
        boxes, problems = read_boxes(raw / BOXES)
        mapped, mapping_problems = read_mapping(raw / MAPPING)
        problems += mapping_problems
        folders = _patient_folders(raw)
        if not folders:
            remedy = "point raw: at the folder with the Breast_MRI_XXX folders"
            problems.append(Problem("", str(raw), "no folder Breast_MRI_XXX in it", remedy))
        in_trouble = {problem.case for problem in problems}
        cases = []
        for patient, folder in folders.items():
            files = None
            if patient not in boxes:
                if boxes and patient not in in_trouble:
                    problem = f"{patient} has no line in {BOXES}"
                    problems.append(Problem(patient, str(folder), problem, EXCLUDE))
            elif mapped:
                phases, found = self._phases(patient, folder, mapped.get(patient, {}), raw / MAPPING)
                files = _Files(boxes[patient], phases)
                problems += found or _box_problems(patient, raw / BOXES, boxes[patient], phases[self.modalities[0]])
            cases.append(RawCase(patient, patient, patient, files))
        return Layout(cases, problems, missing=sorted(set(boxes) - set(folders)) if folders else ())

    def convert(self, case: RawCase) -> Converted:
        images, notes = [], []
        order: list[int] = []
        geometry: Geometry | None = None
        for name in self.modalities:
            phase = case.files.phases[name]
            headers = [dicom.read_header(file) for file in phase.files]
            stack = dicom.stack(headers)
            notes += [f"{name}: {note}" for note in stack.notes]
            array, own = dicom.read_stack(stack)
            if geometry is None:
                geometry = own
                order, more = self._order(headers, stack, phase)
                notes += more
            difference = own.difference(geometry)
            if difference:
                array = _resampled(array, own, geometry, phase.files[0].parent)
                notes.append(f"{name} resampled onto the grid of {self.modalities[0]} ({difference})")
            images.append(array)
        box = _index_box(case.files.box, order)
        instances = shapes.filled_box(geometry.shape, [box])
        return Converted(images, geometry, instances, {1: 0}, boxes={1: box}, notes=notes)

    def _phases(
        self, patient: str, folder: Path, mapped: Mapping[str, MappedPhase], sheet: Path
    ) -> tuple[dict[str, _Phase], list[Problem]]:
        """The files of every channel, and what of them is missing."""
        series, problems = _series_folders(patient, folder)
        unreadable = bool(problems)  # a series that is not found may be one of those
        phases = {}
        for name in self.modalities:
            if name not in mapped:
                remedy = "choose fewer channels, or name the case under exclude_cases"
                problems.append(Problem(patient, str(sheet), f"{patient} has no phase {name}", remedy))
            elif mapped[name].series not in series:
                if unreadable:
                    continue
                problem = f"no series {mapped[name].series} (phase {name}) in it"
                problems.append(Problem(patient, str(folder), problem, EXCLUDE))
            else:
                place = series[mapped[name].series]
                in_folder = [phase for phase in mapped.values() if phase.series == mapped[name].series]
                phases[name], wrong = _matched(place, mapped[name], in_folder)
                if wrong:
                    problems.append(Problem(patient, str(place), f"phase {name}: {wrong}", EXCLUDE))
        return phases, problems

    def _order(self, headers: Sequence[dicom.Header], stack: dicom.Stack, phase: _Phase) -> tuple[list[int], list[str]]:
        """Index of the slice with number 1, 2, ... in the sheet's count; notes.

        Raises:
            InputError: no numbers, mapping and instance numbers disagree, or an order that is neither up nor down.
        """
        folder, notes = headers[0].file.parent, []
        mapped = _by_number([(phase.numbers.get(header.file), stack.index[header.uid]) for header in headers])
        instance = _by_number([(header.number, stack.index[header.uid]) for header in headers])
        if self.slice_numbers == AGREE and mapped and instance and mapped != instance:
            raise InputError(
                f"{folder}: the mapping counts the slices in another order than their instance numbers: choose with "
                f"slice_numbers: {BY_MAPPING} or {BY_INSTANCE}, or leave the case out under exclude_cases"
            )
        order = instance if self.slice_numbers == BY_INSTANCE else mapped
        if order is None and self.slice_numbers == AGREE:
            order = instance
            notes.append("slices counted by instance number: the files do not have the names of the mapping")
        if order is None:
            raise InputError(f"{folder}: slices without numbers: choose another slice_numbers, or exclude the case")
        steps = np.diff(order)
        if (steps < 0).any() and (steps > 0).any():
            raise InputError(f"{folder}: slice numbers run neither up nor down the stack: exclude the case")
        if order[0] > order[-1]:
            notes.append("slice numbers run against the stack: the box is mirrored in z")
        return order, notes


def _by_number(numbered: Sequence[tuple[int | None, int]]) -> list[int] | None:
    """(number, index) of every slice -> indices in the order of the numbers; None when one is missing or comes twice."""
    numbers = [number for number, _ in numbered]
    if None in numbers or len(set(numbers)) < len(numbers):
        return None
    return [index for _, index in sorted(numbered)]


def _index_box(box: SheetBox, order: Sequence[int]) -> tuple[float, ...]:
    """The sheet's slices, rows and columns -> index coordinates: voxels a..b have the box a - 1 .. b + 1."""
    ends = order[box.start[0] - 1], order[box.end[0] - 1]
    low = (min(ends), box.start[1] - 1, box.start[2] - 1)
    high = (max(ends), box.end[1] - 1, box.end[2] - 1)
    return (*(float(value - 1) for value in low), *(float(value + 1) for value in high))


def _resampled(array: np.ndarray, own: Geometry, grid: Geometry, folder: Path) -> np.ndarray:
    """An image [D, H, W] on another grid: linear, float32, its smallest value where it has none.

    Raises:
        InputError: it lies wholly outside the grid.
    """
    image = sitk.GetImageFromArray(array.astype(np.float32))
    own.apply_to(image)
    target = sitk.Image([int(size) for size in reversed(grid.shape)], sitk.sitkFloat32)
    grid.apply_to(target)
    result = sitk.GetArrayFromImage(sitk.Resample(image, target, sitk.Transform(), sitk.sitkLinear, float(array.min())))
    if result.min() == result.max():
        raise InputError(f"{folder}: does not overlap with the first phase: leave the case out under exclude_cases")
    return result


def _patient_folders(raw: Path) -> dict[str, Path]:
    """Patient -> folder, sorted; a folder inside a patient's one is no patient's."""
    found = {}
    for place, subfolders, _ in os.walk(raw, followlinks=True):
        found |= {name: Path(place) / name for name in subfolders if PATIENT.fullmatch(name)}
        subfolders[:] = [name for name in subfolders if not PATIENT.fullmatch(name) and not name.startswith(".")]
    return dict(sorted(found.items()))


def _series_folders(patient: str, folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Series uid -> its folder, from the first header of each."""
    found: dict[str, Path] = {}
    problems = []
    for place, _, names in os.walk(folder, followlinks=True):
        if not any(name.lower().endswith(".dcm") and not name.startswith(".") for name in names):
            continue
        try:
            uid = dicom.read_header(dicom.slice_files(Path(place))[0]).series
        except InputError as error:
            problems.append(from_error(patient, error, EXCLUDE))
            continue
        if found.setdefault(uid, Path(place)) != Path(place):
            problem = f"series {uid} is also in {found[uid]}"
            problems.append(Problem(patient, place, problem, "keep one of the two folders"))
    return found, problems


def _matched(folder: Path, phase: MappedPhase, in_folder: Sequence[MappedPhase]) -> tuple[_Phase, str]:
    """The files of a phase; in words what is wrong, "" when nothing is. ``in_folder``: all phases that the series holds."""
    files = {file_key(path.name): path for path in dicom.slice_files(folder)}
    if not set(files) & set(phase.numbers) and len(in_folder) == 1 and len(files) == len(phase.numbers):
        return _Phase(list(files.values()), {}), ""  # a download tool with names of its own
    absent = set(phase.numbers) - set(files)
    unknown = set(files).difference(*(other.numbers for other in in_folder))
    wrong = ""
    if absent:
        wrong = f"{len(absent)} of the {len(phase.numbers)} files that {MAPPING} lists are missing"
    elif unknown:
        wrong = f"{len(unknown)} files that {MAPPING} does not list, such as {files[min(unknown)].name}"
    numbers = {files[key]: number for key, number in phase.numbers.items() if key in files}
    return _Phase(list(numbers), numbers), wrong


def _box_problems(patient: str, sheet: Path, box: SheetBox, phase: _Phase) -> list[Problem]:
    """A box that reaches beyond the image, from one header and the number of files."""
    try:
        shape = (len(phase.files), *(dicom.read_header(phase.files[0]).shape or (0, 0)))
    except InputError as error:
        return [from_error(patient, error, EXCLUDE)]
    return [
        Problem(patient, str(sheet), f"{patient}: End {axis} {end}, but there are {size}", EXCLUDE)
        for axis, end, size in zip(AXES, box.end, shape, strict=True)
        if end > size
    ]
