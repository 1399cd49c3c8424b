"""Volumes on disk: one 3-D image per file, in whatever format SimpleITK reads; written as NIfTI."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from detpretrain.errors import InputError
from detpretrain.files import atomic_path
from detpretrain.geometry import Geometry

NIFTI1_HEADER = 348  # bytes


def read(path: Path | str) -> tuple[np.ndarray, Geometry]:
    """Reads one 3-D scalar image: array [D, H, W] in the file's own number type, and its geometry.

    ``InputError`` when the file is missing, unreadable, truncated or damaged, not 3-D, has several values per
    voxel, or NaN or infinite ones.
    """
    path = Path(path)
    geometry = read_geometry(path)
    if path.name.endswith((".nii", ".nii.gz")):
        _check_nifti(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}): download or export the file again") from None
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind == "f":
        _refuse_not_finite(path, int(array.size - np.isfinite(array).sum()))
    return array, geometry


def read_geometry(path: Path | str) -> Geometry:
    """Geometry from the header alone; the same errors as ``read`` as far as the header shows them."""
    return Geometry.of_image(_header(Path(path)))


def is_integer(path: Path | str) -> bool:
    """Whether the file's number type is an integer one (header only)."""
    return _header(Path(path)).GetPixelID() not in (sitk.sitkFloat32, sitk.sitkFloat64)


def write(path: Path | str, array: np.ndarray, geometry: Geometry) -> None:
    """Writes an array [D, H, W] as ``.nii.gz``, atomically. Booleans become uint8."""
    if tuple(array.shape) != tuple(geometry.shape):
        raise ValueError(f"{path}: array of shape {array.shape} with a geometry of shape {geometry.shape}")
    image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
    geometry.apply_to(image)
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


@dataclass(frozen=True)
class _NiftiHeader:
    """What a NIfTI-1 header says about the voxels that follow it."""

    offset: int  # bytes before the voxels
    size: int  # bytes of the voxels
    floats: np.dtype | None  # their number type, if a floating one

    @classmethod
    def parse(cls, header: bytes) -> _NiftiHeader | None:
        """None for another header (NIfTI-2, Analyze), which ITK judges alone."""
        order = next((o for o in "<>" if header[:4] == struct.pack(f"{o}i", NIFTI1_HEADER)), None)
        if order is None or len(header) < NIFTI1_HEADER:
            return None
        rank, *lengths = struct.unpack_from(f"{order}8h", header, 40)
        kind, bits = struct.unpack_from(f"{order}2h", header, 70)
        (offset,) = struct.unpack_from(f"{order}f", header, 108)
        floats = {16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}.get(kind)
        return cls(max(int(offset), NIFTI1_HEADER), math.prod(lengths[:rank]) * bits // 8, floats)


def _check_nifti(path: Path) -> None:
    """Reads a NIfTI's bytes once, because ITK returns a volume whatever happens: it ignores gzip's checksum, fills what a
    truncated file lacks, and sets NaN to 0.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            start = stream.read(NIFTI1_HEADER)
            header = _NiftiHeader.parse(start)
            missing = header.offset - len(start) if header else 0
            missing -= len(stream.read(missing))
            left, broken = header.size if header else 0, 0
            while chunk := stream.read(1 << 22):
                if header and header.floats:
                    whole = min(len(chunk), left) // header.floats.itemsize
                    broken += whole - int(np.isfinite(np.frombuffer(chunk, header.floats, whole)).sum())
                left = max(left - len(chunk), 0)
    except (OSError, EOFError, zlib.error) as error:
        reason = str(error).rstrip(".")
        raise InputError(f"{path}: truncated or damaged ({reason}): download or export the file again") from None
    if missing or left:
        raise InputError(f"{path}: truncated ({missing + left} bytes are missing): download or export the file again")
    _refuse_not_finite(path, broken)


def _refuse_not_finite(path: Path, voxels: int) -> None:
    if voxels:
        raise InputError(f"{path}: {voxels} voxels are NaN or infinite: repair the volume, or exclude the case")


def _header(path: Path) -> sitk.ImageFileReader:
    if not path.is_file():
        raise InputError(f"{path}: file not found")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}): download or export the file again") from None
    if reader.GetDimension() != 3:
        shape = tuple(reversed(reader.GetSize()))
        raise InputError(f"{path}: {reader.GetDimension()}-D image {shape}: save one 3-D file per channel")
    if reader.GetNumberOfComponents() != 1:
        count = reader.GetNumberOfComponents()
        raise InputError(f"{path}: {count} values per voxel: save one 3-D file per channel")
    return reader


def _reason(error: RuntimeError) -> str:
    """The last line of an ITK exception says what happened; the lines before are source positions."""
    if "ImageIO reader" in str(error):
        return "not an image of a known format, or damaged"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ").rstrip(".") if lines else "unknown format"
