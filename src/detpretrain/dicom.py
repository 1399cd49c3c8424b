"""A folder with one DICOM series as a volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from detpretrain.errors import InputError
from detpretrain.geometry import Geometry

# of the slice distance: scanners write positions with rounding, a missing or doubled slice is a whole distance off
POSITION_TOLERANCE = 0.1


def read_series(folder: Path) -> tuple[np.ndarray, Geometry]:
    """The volume [D, H, W] of a folder with one series of slices, rescaled (CT: in HU), and its geometry.

    Raises:
        InputError: no series or several, slices that cannot be read, are not scalar or do not form an even stack (one is
            missing or doubled, or the gantry was tilted).
    """
    files = series_files(folder)
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


def series_files(folder: Path) -> Sequence[str]:
    """The files of the only series of a folder, along the stack; ``InputError`` when there is none or several."""
    with _quiet_itk():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if not series:
            raise InputError(f"{folder}: no DICOM series in this folder: give the folder that holds the slices")
        if len(series) > 1:
            raise InputError(f"{folder}: {len(series)} series ({', '.join(series)}): give a folder with one of them")
        return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])


def _check_stack(folder: Path, files: Sequence[str], geometry: Geometry) -> None:
    """ITK spreads whatever slices there are evenly between the first and the last: each must lie where that puts it."""
    if geometry.shape[0] != len(files):
        return  # one file with all frames
    steps = np.arange(len(files))[:, None] * [1.0, 0.0, 0.0]
    distance = np.linalg.norm(geometry.index_to_world(steps) - [_position(file) for file in files], axis=1)
    if distance.max() > POSITION_TOLERANCE * geometry.spacing[0]:
        raise InputError(
            f"{folder}: slices lie up to {distance.max():.2f} mm off an even stack (missing, doubled or tilted): "
            "complete the series, or resample it to a NIfTI"
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
