"""Lung nodules in chest CT: LIDC-IDRI (Armato et al., 2011), from DICOM and the readers' XML as TCIA publishes them.

Raw layout: any folders below ``raw``; a folder with ``.dcm`` files is one series, known by its header, and an XML file belongs
to the series that it names, wherever it lies (beside the slices in older downloads, in ``LIDC-XML-only`` in newer ones).
Radiographs (DX, CR) and everything else that is no CT are passed over.

Known defects of the release: a few scans hold several slices at one position (pylidc keeps the one with the lower instance
number), others lack slices. Exact copies are left out with a note; what else does not form an even stack is refused by name.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detpretrain import dicom
from detpretrain.datasets import lidc_consensus
from detpretrain.datasets.lidc_annotations import Contour, Mark, annotated_series, read_marks
from detpretrain.datasets.nifti_layout import EXCLUDE
from detpretrain.datasets.raw_dataset import AverageScan, Converted, Layout, Published, RawCase
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem, from_error
from detpretrain.tasks import CROSS_VALIDATION

PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
DOUBLED_SLICES = "doubled_slices"


@dataclass(frozen=True)
class _Scan:
    """One CT series of the download."""

    patient: str
    series: str
    folder: Path


class Lidc:
    """One class, "nodule": what a strict majority of its readers has outlined of a nodule of at least 3 mm.

    A patient's only scan is the case ``LIDC-IDRI-0001``; where he has several, they are ``LIDC-IDRI-0001_1``, ``_2``, ... in
    the order of their series uids. ``source_id`` is the series uid, the name that LUNA16 knows the scan by.

    Args:
        min_readers: a nodule that fewer readers have outlined is background.
        allow: ``doubled_slices`` = of slices with one position and different pixels the one with the lower instance number is
            taken (with a note) instead of refusing the scan.
    """

    labels = ("nodule",)
    modalities = ("CT",)
    published = Published(
        cases={CROSS_VALIDATION: 1018},
        licence="CC BY 3.0",
        citation="Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI): a "
        "completed reference database of lung nodules on CT scans, Medical Physics 38, 2011",
        download="https://www.cancerimagingarchive.net/collection/lidc-idri (images and LIDC-XML-only.zip)",
        scan=AverageScan((240, 512, 512), (1.7, 0.7, 0.7)),
    )

    def __init__(self, *, min_readers: int = 2, allow: Sequence[str] = ()) -> None:
        if not 1 <= min_readers <= lidc_consensus.READERS:
            raise InputError(f"min_readers: {min_readers}: give a number from 1 to {lidc_consensus.READERS}")
        unknown = sorted(set(allow) - {DOUBLED_SLICES})
        if unknown:
            raise InputError(f"allow: {unknown[0]}: the only thing that can be allowed is {DOUBLED_SLICES}")
        self.min_readers = min_readers
        self.allow = frozenset(allow)

    def layout(self, raw: Path) -> Layout:
        folders, xml_files = _files(raw)
        scans, problems = _scans(folders)
        readings, xml_problems = _readings(xml_files)
        problems += xml_problems
        damaged = {problem.case for problem in xml_problems}
        if not scans and not problems:
            remedy = "point raw: at the folder with the LIDC-IDRI-XXXX folders"
            return Layout([], [Problem("", str(raw), "no CT series in it", remedy)])
        cases = []
        for case, scan in sorted(_case_ids(scans).items()):
            cases.append(RawCase(case, scan.patient, scan.series, (scan.folder, readings.get(scan.series))))
            if scan.series not in readings and scan.patient not in damaged:
                problem = f"CT series {scan.series} without annotation XML"
                problems.append(Problem(case, str(scan.folder), problem, EXCLUDE))
        known = {scan.series for scan in scans}
        missing = [f"{path.name} (series {series})" for series, path in readings.items() if series not in known]
        return Layout(cases, problems, missing=sorted(missing))

    def convert(self, case: RawCase) -> Converted:
        folder, xml = case.files
        headers = [dicom.read_header(file) for file in dicom.slice_files(folder)]
        stack = dicom.stack(headers, keep_first_of_doubled=DOUBLED_SLICES in self.allow)
        marks = read_marks(xml)
        places = _Slices(stack, xml)
        voxels = [lidc_consensus.mark_voxels(mark, places.index, _shape(stack)) for mark in marks]
        image, geometry = dicom.read_stack(stack)
        nodules, notes = self._nodules(marks, voxels, geometry.spacing, geometry.shape)
        instances = np.zeros(geometry.shape, np.uint8 if len(nodules) < 256 else np.int32)
        for number in sorted(range(len(nodules)), key=lambda number: -len(nodules[number])):
            instances[tuple(nodules[number].T)] = number + 1
        classes = dict.fromkeys(range(1, len(nodules) + 1), 0)
        notes = [*stack.notes, *places.notes(), *notes]
        return Converted([image], geometry, instances, classes, notes=notes)

    def _nodules(
        self, marks: Sequence[Mark], voxels: Sequence[np.ndarray], spacing: Sequence[float], shape: Sequence[int]
    ) -> tuple[list[np.ndarray], list[str]]:
        """Voxels of every nodule, and what was left out."""
        filled = [number for number, found in enumerate(voxels) if len(found)]
        counts = Counter({"outlines without a pixel inside": len(marks) - len(filled)})
        nodules, notes = [], []
        groups = lidc_consensus.clusters(
            [voxels[number] for number in filled], [marks[number].reader for number in filled], spacing
        )
        for group in groups:
            members = [filled[number] for number in group]
            by_reader: dict[int, list[np.ndarray]] = defaultdict(list)
            for member in members:
                by_reader[marks[member].reader].append(voxels[member])
            if len(members) > len(by_reader):
                notes.append(f"{len(members)} marks of {len(by_reader)} readers joined to one nodule")
            if len(by_reader) < self.min_readers:
                counts[f"nodules of fewer than {self.min_readers} readers"] += 1
                continue
            agreed = lidc_consensus.majority([lidc_consensus.union(own) for own in by_reader.values()], shape)
            if len(agreed):
                nodules.append(agreed)
            else:
                counts["nodules without a voxel that most of their readers agree on"] += 1
        return nodules, notes + [f"{count} {what} left out" for what, count in counts.items() if count]


class _Slices:
    """Finds the slice of a contour: by the SOP instance uid, else by its position; counts what does not fit."""

    def __init__(self, stack: dicom.Stack, xml: Path) -> None:
        self.stack, self.xml = stack, xml
        self.z = np.array([header.position[2] for header in stack.slices])
        self.half = float(np.median(np.abs(np.diff(self.z)))) / 2
        self.by_position: set[str] = set()
        self.moved: set[str] = set()

    def index(self, contour: Contour) -> int:
        """``InputError`` when the contour lies in no slice."""
        index = self.stack.index.get(contour.image)
        if index is not None:
            if contour.z is not None and abs(self.z[index] - contour.z) > self.half:
                self.moved.add(contour.image)
            return index
        nearest = None if contour.z is None else int(np.argmin(np.abs(self.z - contour.z)))
        if nearest is None or abs(self.z[nearest] - contour.z) > self.half:
            raise InputError(
                f"{self.xml}: slice {contour.image} (z = {contour.z} mm) is not in the series: "
                "complete the series, or leave the case out under exclude_cases"
            )
        self.by_position.add(contour.image)
        return nearest

    def notes(self) -> list[str]:
        found = []
        if self.by_position:
            found.append(f"{len(self.by_position)} annotated slices with unknown SOP instance uid found by z position")
        if self.moved:
            found.append(
                f"{len(self.moved)} annotated slices have another z position in the XML; the SOP instance uid decided"
            )
        return found


def _shape(stack: dicom.Stack) -> tuple[int, int, int]:
    return (len(stack.slices), *stack.slices[0].shape)


def _files(raw: Path) -> tuple[list[Path], list[Path]]:
    """Folders with DICOM files, and XML files, both sorted; hidden ones do not count."""
    folders, xml_files = [], []
    for place, subfolders, files in os.walk(raw, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        seen = [name.lower() for name in files if not name.startswith(".")]
        if any(name.endswith(".dcm") for name in seen):
            folders.append(Path(place))
        xml_files += [Path(place) / name for name in files if name.lower().endswith(".xml") and name[0] != "."]
    return sorted(folders), sorted(xml_files)


def _scans(folders: Iterable[Path]) -> tuple[list[_Scan], list[Problem]]:
    """The CT series among the folders; one header of each is read."""
    scans: dict[str, _Scan] = {}
    problems = []
    for folder in folders:
        files = dicom.slice_files(folder)
        try:
            header = dicom.read_header(files[0])
        except InputError as error:
            problems.append(from_error(_patient_of(folder), error, EXCLUDE))
            continue
        if header.modality != "CT":
            continue
        if not PATIENT.fullmatch(header.patient):
            problem = f"patient id {header.patient!r}, not LIDC-IDRI- and four digits"
            problems.append(Problem(_patient_of(folder), str(files[0]), problem, "remove what is not LIDC-IDRI"))
        elif header.series in scans:
            problem = f"series {header.series} is also in {scans[header.series].folder}"
            problems.append(Problem(header.patient, str(folder), problem, "keep one of the two folders"))
        else:
            scans[header.series] = _Scan(header.patient, header.series, folder)
            if len(files) < 2:
                problems.append(Problem(header.patient, str(folder), f"{len(files)} slice is no volume", EXCLUDE))
    return list(scans.values()), problems


def _readings(paths: Iterable[Path]) -> tuple[dict[str, Path], list[Problem]]:
    """Series uid -> its XML."""
    readings: dict[str, Path] = {}
    problems = []
    for path in paths:
        try:
            series = annotated_series(path)
        except InputError as error:
            problems.append(from_error(_patient_of(path), error, EXCLUDE))
            continue
        if series is None:
            continue
        earlier = readings.setdefault(series, path)
        if earlier != path and not _same_marks(earlier, path):
            problem = f"annotates series {series} as {earlier} does, with other marks"
            problems.append(Problem(_patient_of(path), str(path), problem, "keep the one that belongs to the series"))
    return readings, problems


def _same_marks(one: Path, other: Path) -> bool:
    """Whether two files say the same; damaged marks are found when the case is converted."""
    if one.read_bytes() == other.read_bytes():
        return True
    try:
        return _comparable(read_marks(one)) == _comparable(read_marks(other))
    except InputError:
        return False


def _comparable(marks: Iterable[Mark]) -> list:
    return [
        (mark.reader, mark.nodule, [(c.image, c.z, c.inclusion, c.points.tolist()) for c in mark.contours])
        for mark in marks
    ]


def _case_ids(scans: Iterable[_Scan]) -> Mapping[str, _Scan]:
    by_patient: dict[str, list[_Scan]] = defaultdict(list)
    for scan in sorted(scans, key=lambda scan: scan.series):
        by_patient[scan.patient].append(scan)
    return {
        patient if len(own) == 1 else f"{patient}_{number}": scan
        for patient, own in by_patient.items()
        for number, scan in enumerate(own, start=1)
    }


def _patient_of(path: Path) -> str:
    """The patient that a path names, "" when it names none: a damaged file's case."""
    return next((part for part in reversed(path.parts) if PATIENT.fullmatch(part)), "")
