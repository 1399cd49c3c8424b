"""NIfTI files written byte by byte, and where their voxels are: what tests of NIfTI downloads compare with."""

import gzip
import struct
from pathlib import Path

import numpy as np

# RAS, as real CTs have them, all anisotropic: `lps` (most scanners), `ras`, and `oblique`: turned about z by an angle of cosine
# 0.8, z flipped
AFFINES = {
    "lps": np.array([[-0.8, 0, 0, 100], [0, -0.8, 0, 90], [0, 0, 2.5, -300], [0, 0, 0, 1]]),
    "ras": np.array([[0.75, 0, 0, -80], [0, 0.75, 0, -70], [0, 0, 1.25, 40], [0, 0, 0, 1]]),
    "oblique": np.array([[0.64, -0.48, 0, 11], [0.48, 0.64, 0, -22], [0, 0, -2.5, 33], [0, 0, 0, 1]]),
}


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> None:
    """The bytes of a NIfTI-1 file: what a voxel means is ``slope * array + intercept``; ``affine`` [4, 4] takes (x, y, z, 1) to
    mm, RAS. Written by hand, because ITK cannot write a scale and would judge its own affines.
    """
    codes = {np.dtype(np.uint8): 2, np.dtype(np.int16): 4, np.dtype(np.int32): 8, np.dtype(np.float32): 16}
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *reversed(array.shape), 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, codes[array.dtype], 8 * array.itemsize)
    struct.pack_into("<8f", header, 76, 1.0, *spacing, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352.0, slope, intercept)
    header[123] = 2  # mm
    struct.pack_into("<2h", header, 252, 0, 1)  # no qform, sform: scanner
    struct.pack_into("<12f", header, 280, *affine[:3].ravel())
    header[344:348] = b"n+1\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(header) + array.tobytes(), 1, mtime=0))


def world(affine: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Index coordinates [N, 3] (z, y, x) -> mm [N, 3], LPS, through an affine of ``write_nifti``."""
    index = np.asarray(index, float).reshape(-1, 3)
    ras = np.c_[index[:, ::-1], np.ones(len(index))] @ affine.T
    return ras[:, :3] * [-1, -1, 1]
