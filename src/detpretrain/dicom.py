"""DICOM slices as a volume: a folder with one series, or a chosen list of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from detpretrain.errors import InputError
from detpretrain.geometry import Geometry

# of the slice distance: scanners write positions with rounding, a missing or doubled slice is a whole distance off
POSITION_TOLERANCE = 0.1
SAME_POSITION = 1e-3  # mm
SAME_ORIENTATION = 1e-3
TAGS = ["PatientID", "Modality", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns",
        "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"]  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a slice's file says of itself, without its pixels.

    Attributes:
        shape: rows, columns; None where the file is no image (a report).
        spacing: mm between rows and between columns; None where the file has none (a radiograph).
        position: of the first pixel's centre, mm (x, y, z), LPS; None where the file has none.
        orientation: unit vectors along a row and along a column, 6 values; None where the file has none.
    """

    file: Path
    patient: str
    modality: str
    series: str
    uid: str
    number: int | None
    shape: tuple[int, int] | None
    spacing: tuple[float, ...] | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None


@dataclass(frozen=True)
class Stack:
    """Slices of one volume.

    Attributes:
        slices: one per position, in the order of the volume's first axis.
        index: uid of a slice -> its index, those of left out copies included.
        notes: what was left out.
    """

    slices: Sequence[Header]
    index: Mapping[str, int]
    notes: Sequence[str] = field(default_factory=tuple)


def read_series(folder: Path) -> tuple[np.ndarray, Geometry]:
    """The volume [D, H, W] of a folder with one series of slices, rescaled (CT: in HU), and its geometry.

    Raises:
        InputError: no series or several, slices that cannot be read, are not scalar or do not form an even stack (one is
            missing or doubled, or the gantry was tilted).
    """
    return _read_files(folder, series_files(folder))


def read_stack(stack: Stack) -> tuple[np.ndarray, Geometry]:
    """As ``read_series``, for chosen slices; a volume with fractions is float32."""
    array, geometry = _read_files(stack.slices[0].file.parent, [str(header.file) for header in stack.slices])
    return (array.astype(np.float32) if array.dtype == np.float64 else array), geometry


def series_files(folder: Path) -> Sequence[str]:
    """The files of the only series of a folder, along the stack; ``InputError`` when there is none or several."""
    with _quiet_itk():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if not series:
            raise InputError(f"{folder}: no DICOM series in this folder: give the folder that holds the slices")
        if len(series) > 1:
            raise InputError(f"{folder}: {len(series)} series ({', '.join(series)}): give a folder with one of them")
        return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])


def slice_files(folder: Path) -> list[Path]:
    """The ``.dcm`` files of a folder, by name; hidden ones do not count."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".dcm" and not path.name.startswith("."))


def read_header(file: Path) -> Header:
    """The header of one file; ``InputError`` when it is no DICOM file, damaged, or lacks the uids."""
    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
        header = Header(
            file,
            patient=str(dataset.get("PatientID", "")),
            modality=str(dataset.get("Modality", "")),
            series=str(dataset.SeriesInstanceUID),
            uid=str(dataset.SOPInstanceUID),
            number=None if dataset.get("InstanceNumber") is None else int(dataset.InstanceNumber),
            shape=(int(dataset.Rows), int(dataset.Columns)) if "Rows" in dataset else None,
            spacing=_numbers(dataset, "PixelSpacing", 2),
            position=_numbers(dataset, "ImagePositionPatient", 3),
            orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        )
    except (InvalidDicomError, OSError, EOFError, AttributeError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InputError(f"{file}: not a readable DICOM slice ({reason}): download the file again") from None
    return header


def stack(headers: Sequence[Header], keep_first_of_doubled: bool = False) -> Stack:
    """Orders the slices of one volume along their common normal, and leaves out exact copies.

    Args:
        headers: at least two.
        keep_first_of_doubled: of slices with one position and different pixels the one with the lower instance number is
            kept (as pylidc does) instead of refusing them.

    Raises:
        InputError: several series, slices that differ in size, spacing or orientation, or different slices at one position.
    """
    folder = headers[0].file.parent if headers else Path()
    if len(headers) < 2:
        raise InputError(f"{folder}: {len(headers)} slices are no volume: complete the series")
    _check_alike(folder, headers)
    kept, index, notes = [], {}, []
    for first, *others in _positions(headers):
        notes += [_left_out(first, other, keep_first_of_doubled) for other in others]
        for header in (first, *others):
            if index.setdefault(header.uid, len(kept)) != len(kept):
                raise InputError(f"{header.file}: another slice has its SOP instance uid: download the series again")
        kept.append(first)
    return Stack(kept, index, notes)


def _positions(headers: Sequence[Header]) -> Iterator[list[Header]]:
    """The slices of each position, along the stack; those of one position by instance number."""
    normal = np.cross(headers[0].orientation[:3], headers[0].orientation[3:])
    same: list[Header] = []
    for header in sorted(headers, key=lambda header: float(np.dot(header.position, normal))):
        if same and np.linalg.norm(np.subtract(header.position, same[0].position)) >= SAME_POSITION:
            yield sorted(same, key=_rank)
            same = []
        same.append(header)
    yield sorted(same, key=_rank)


def _left_out(kept: Header, other: Header, allowed: bool) -> str:
    """The note on a slice at the position of another one; ``InputError`` when it is not a copy."""
    if pydicom.dcmread(kept.file).get("PixelData") == pydicom.dcmread(other.file).get("PixelData"):
        return f"{other.file.name} left out: a copy of {kept.file.name}"
    if not allowed:
        raise InputError(
            f"{other.file}: same position as {kept.file.name}, other pixels (doubled slice): remove the wrong one, "
            "or leave the case out under exclude_cases"
        )
    return f"{other.file.name} left out: same position as {kept.file.name}, other pixels"


def _check_alike(folder: Path, headers: Sequence[Header]) -> None:
    series = sorted({header.series for header in headers})
    if len(series) > 1:
        raise InputError(f"{folder}: {len(series)} series ({', '.join(series)}): put each into a folder of its own")
    first = headers[0]
    for header in headers:
        if None in (header.shape, header.spacing, header.position, header.orientation):
            raise InputError(f"{header.file}: no image, position, orientation or spacing: download the file again")
        if header.shape != first.shape or not np.allclose(header.spacing, first.spacing, rtol=0, atol=SAME_POSITION):
            raise InputError(
                f"{header.file}: other size or pixel spacing than {first.file.name}: remove what is no slice"
            )
        if not np.allclose(header.orientation, first.orientation, rtol=0, atol=SAME_ORIENTATION):
            raise InputError(
                f"{header.file}: other orientation than {first.file.name}: remove what is no slice (scout)"
            )


def _rank(header: Header) -> tuple[float, str]:
    return (np.inf if header.number is None else header.number, header.file.name)


def _numbers(dataset: pydicom.Dataset, name: str, count: int) -> tuple[float, ...] | None:
    value = dataset.get(name)
    if value is None:
        return None
    numbers = tuple(float(number) for number in value)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {value}")
    return numbers


def _read_files(folder: Path, files: Sequence[str]) -> tuple[np.ndarray, Geometry]:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    try:
        with _quiet_itk():
            image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().rstrip(".")
        raise InputError(f"{folder}: the series cannot be read ({reason}): export it again") from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{folder}: the slices are not single-channel images: give a CT, MR or PET series")
    geometry = Geometry.of_image(image)
    _check_stack(folder, files, geometry)
    return sitk.GetArrayFromImage(image), geometry


def _check_stack(folder: Path, files: Sequence[str], geometry: Geometry) -> None:
    """ITK spreads whatever slices there are evenly between the first and the last: each must lie where that puts it."""
    if geometry.shape[0] != len(files):
        return  # one file with all frames
    steps = np.arange(len(files))[:, None] * [1.0, 0.0, 0.0]
    distance = np.linalg.norm(geometry.index_to_world(steps) - [_position(file) for file in files], axis=1)
    if distance.max() > POSITION_TOLERANCE * geometry.spacing[0]:
        raise InputError(
            f"{folder}: slices lie up to {distance.max():.2f} mm off an even stack (missing, doubled or tilted): "
            "complete the series, resample it to a NIfTI, or leave the case out (exclude_cases)"
        )


def _position(file: str) -> tuple[float, ...]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader.GetOrigin()


@contextmanager
def _quiet_itk() -> Iterator[None]:
    """ITK's warnings say in many lines what is checked and said here in one."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
