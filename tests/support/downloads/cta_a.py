"""A CTA-A download of nine cases with both test sets: files as published, aneurysms drawn by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from nifti_files import AFFINES, write_nifti

SHAPE = (10, 24, 32)
HEADER = "instance_id,subset,institution_id,age,gender,is_ruptured,num_IAs\n"
INTERNAL = {"Tr0001": 1, "Tr0002": 2, "Tr0003": 1, "Tr0004": 0, "TsInt01": 2, "TsInt02": 1}
EXTERNAL = {"TsExt01": 1}


def download(folder: Path) -> Path:
    small = np.zeros(SHAPE, np.uint8)
    small[2:5, 10:13, 20:24] = 1
    corner = small.copy()
    corner[5, 13, 24] = 1  # touches in a corner only: another component of one voxel
    masks = {
        "Tr0001": ("Tr", small, "lps", 1.0),
        "Tr0002": ("Tr", dumbbell(), "oblique", 1.0),
        "Tr0003": ("Tr", corner, "ras", 1.0),
        "Tr0004": ("Tr", 0 * small, "lps", 1.0),
        "Tr0005": ("Tr", corner, "lps", 1.0),  # the sheet does not name it
        "Tr0006.a": ("Tr", (2 * small).astype(np.int16), "lps", 0.5),
        "TsInt01": ("Ts_internal", corner, "lps", 1.0),
        "TsInt02": ("Ts_internal", small, "lps", 1.0),
        "TsExt01": ("Ts_external", small, "ras", 1.0),
    }
    rng = np.random.default_rng(2)
    for name, (suffix, mask, affine, slope) in masks.items():
        image = rng.integers(0, 4000, SHAPE).astype(np.int16)
        write_nifti(folder / f"images{suffix}" / f"{name}.nii.gz", image, AFFINES[affine], intercept=-1024.0)
        write_nifti(folder / f"labels{suffix}" / f"{name}.nii.gz", mask, AFFINES[affine], slope)
    write_sheet(folder, "internal", INTERNAL)
    write_sheet(folder, "external", EXTERNAL)
    return folder


def dumbbell() -> np.ndarray:
    """Two aneurysms of 4 x 5 x 5 voxels that a bridge of one voxel joins."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:7, 4:9, 4:9] = mask[3:7, 4:9, 12:17] = 1
    mask[5, 6, 9:12] = 1
    return mask


def write_sheet(folder: Path, name: str, counts: Mapping[str, int]) -> None:
    lines = [f"{case},{name},1,60,male,no,{count}\n" for case, count in counts.items()]
    (folder / f"{name}_instances.csv").write_text(HEADER + "".join(lines))
