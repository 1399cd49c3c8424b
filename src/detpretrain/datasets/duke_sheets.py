"""The two sheets of Duke-Breast-Cancer-MRI: the tumours' boxes, and which file of the download is which slice of which phase."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from detpretrain.datasets.nifti_layout import EXCLUDE
from detpretrain.errors import InputError
from detpretrain.task_validation import Problem, from_error

BOXES = "Annotation_Boxes.xlsx"
MAPPING = "Breast-Cancer-MRI-filepath_filename-mapping.xlsx"
AXES = ("Slice", "Row", "Column")  # the array's z, y, x
PATIENT = re.compile(r"Breast_MRI_\d+")
ORIGINAL = re.compile(r"(?:.*/)?(Breast_MRI_\d+)/([^/]+)/[^/]*?(\d+)\.dcm")
NUMBERED = re.compile(r"(\d+)-(\d+)\.dcm", re.IGNORECASE)
AGAIN = "download the sheet again"
DAMAGED = (BadZipFile, ParseError, zlib.error, EOFError)
SHOWN = 5  # bad lines of a sheet that are named one by one


@dataclass(frozen=True)
class SheetBox:
    """First and last slice, row and column (z, y, x) of a tumour, counted from 1, both included."""

    start: tuple[int, int, int]
    end: tuple[int, int, int]


@dataclass(frozen=True)
class MappedPhase:
    """One phase of a patient: ``numbers``: name of the file (see ``file_key``) -> number of the slice, counted from 1."""

    series: str
    numbers: Mapping[str, int]


def file_key(name: str) -> str:
    """A file name without the padding of its numbers, which differs between the sheet and some downloads."""
    match = NUMBERED.fullmatch(name)
    return f"{int(match[1])}-{int(match[2])}" if match else name.lower()


def read_boxes(path: Path) -> tuple[dict[str, SheetBox], list[Problem]]:
    """Patient -> box, and what is wrong with the sheet or with lines of it."""
    columns = ["Patient ID", *(f"{end} {axis}" for axis in AXES for end in ("Start", "End"))]
    boxes: dict[str, SheetBox] = {}
    problems = []
    try:
        for line, (patient, *values) in _lines(path, columns):
            patient = str(patient or "").strip()
            numbers = [_whole(value) for value in values]
            if not PATIENT.fullmatch(patient):
                problems.append(Problem("", str(path), f"line {line}: patient id {patient!r}", AGAIN))
            elif patient in boxes:
                problems.append(Problem(patient, str(path), f"line {line}: {patient} comes twice", "keep one line"))
            elif None in numbers or any(not 1 <= a <= b for a, b in zip(numbers[::2], numbers[1::2], strict=True)):
                problem = f"line {line}: {patient}: {values} are no first and last slice, row and column from 1"
                problems.append(Problem(patient, str(path), problem, AGAIN))
            else:
                boxes[patient] = SheetBox(tuple(numbers[::2]), tuple(numbers[1::2]))
    except InputError as error:
        return {}, [from_error("", error, EXCLUDE)]
    return boxes, problems


def read_mapping(path: Path) -> tuple[dict[str, dict[str, MappedPhase]], list[Problem]]:
    """Patient -> phase -> its files, and what is wrong with the sheet.

    ``original_path_and_filename`` holds patient, phase and slice number (``DICOM_Images/Breast_MRI_001/pre/
    Breast_MRI_001_pre_007.dcm``), ``classic_path`` the file that TCIA delivers
    (``Duke-Breast-Cancer-MRI/Breast_MRI_001/STUDY UID/SERIES UID/1-007.dcm``).
    """
    found: dict[tuple[str, str], dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    bad: list[str] = []
    twice: dict[tuple[str, str], int] = {}
    try:
        for line, (original, classic) in _lines(path, ["original_path_and_filename", "classic_path"]):
            match = ORIGINAL.fullmatch(str(original or "").strip())
            parts = [part for part in str(classic or "").strip().split("/") if part]
            if match is None or len(parts) < 3:
                bad.append(f"line {line}: not a patient's file: {original!r}, {classic!r}")
                continue
            numbers = found[match[1], match[2]][parts[-2]]
            if numbers.setdefault(file_key(parts[-1]), int(match[3])) != int(match[3]):
                twice.setdefault((match[1], match[2]), line)
    except InputError as error:
        return {}, [from_error("", error, EXCLUDE)]
    problems = [Problem("", str(path), text, AGAIN) for text in bad[:SHOWN]]
    for (patient, phase), line in twice.items():
        problem = f"line {line}: {patient}: a file of {phase} has two slice numbers"
        problems.append(Problem(patient, str(path), problem, AGAIN))
    mapped: dict[str, dict[str, MappedPhase]] = defaultdict(dict)
    for (patient, phase), series in found.items():
        uid, numbers = max(series.items(), key=lambda item: len(item[1]))
        if len(series) > 1 or sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
            what = f"lies in {len(series)} series" if len(series) > 1 else "has slice numbers that are not 1, 2, 3, ..."
            remedy = f"{AGAIN}, or name the case under exclude_cases"
            problems.append(Problem(patient, str(path), f"phase {phase} of {patient} {what}", remedy))
        mapped[patient][phase] = MappedPhase(uid, numbers)
    return dict(mapped), problems


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
    """Number in the sheet and values of ``columns`` of every line that is not empty.

    Raises:
        InputError: no such file, not a workbook, a missing column, no lines.
    """
    if not path.is_file():
        raise InputError(f"{path}: sheet not found: download it from the collection's page into this folder")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (*DAMAGED, InvalidFileException, KeyError, OSError, ValueError) as error:
        raise InputError(f"{path}: not an Excel workbook ({error}): {AGAIN}") from None
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = [str(value or "").strip().lower() for value in next(rows, ())]
        missing = [name for name in columns if name.lower() not in header]
        if missing:
            raise InputError(f"{path}: no column {', '.join(missing)}: {AGAIN}")
        places = [header.index(name.lower()) for name in columns]
        empty = True
        for line, row in enumerate(rows, start=2):
            values = [row[place] if place < len(row) else None for place in places]
            if any(value is not None for value in values):
                empty = False
                yield line, values
        if empty:
            raise InputError(f"{path}: no lines below the header: {AGAIN}")
    except DAMAGED as error:
        raise InputError(f"{path}: damaged ({error}): {AGAIN}") from None
    finally:
        book.close()


def _whole(value: Any) -> int | None:
    """7, 7.0 or "7" -> 7; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None
