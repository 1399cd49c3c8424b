"""A clone of the KiTS21 repository with six cases: files as published, voxels drawn by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nifti_files import AFFINES, write_nifti

SHAPE = (8, 12, 24)


def block(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(first, last + 1) for first, last in ranges)] = 1
    return mask


TUMOUR = block((2, 4), (3, 6), (4, 8))
# three readers agree on 2..4, 3..6, 4..8 of this: one draws more, one less
READERS = [TUMOUR, block((2, 5), (3, 6), (4, 9)), block((1, 4), (3, 6), (4, 8))]


def download(folder: Path) -> Path:
    write_case(folder, 0, {"tumor_instance-1": READERS})
    far = block((0, 1), (8, 10), (18, 22))
    late = block((6, 7), (9, 10), (18, 20))
    cysts = {"cyst_instance-10": [late] * 3, "cyst_instance-11": [far, 0 * far, 0 * far]}
    cysts["cyst_instance-2"] = [far, far, 0 * far]  # 1 was removed
    second = block((5, 7), (0, 1), (0, 2))
    write_case(folder, 1, cysts | {"tumor_instance-1": READERS, "tumor_instance-2": [second] * 3}, AFFINES["oblique"])
    for number in (2, 3, 4):
        write_case(folder, number, {"tumor_instance-1": [TUMOUR] * 3}, slope=0.5 if number == 2 else 1.0)
    write_case(folder, 299, {})
    (folder / "data" / "kits.json").write_text("[]")
    (folder / "data" / "case_00000" / "raw").mkdir()
    return folder


def write_case(
    folder: Path,
    number: int,
    instances: Mapping[str, Sequence[np.ndarray]],
    affine: np.ndarray = AFFINES["lps"],
    slope: float = 1.0,
) -> None:
    """``instances``: name as in its files -> the masks of its annotators."""
    case = folder / "data" / f"case_{number:05d}"
    image = np.random.default_rng(number).integers(-1000, 1000, SHAPE).astype(np.int16)
    write_nifti(case / "imaging.nii.gz", image, affine)
    kidney = {"kidney_instance-1": [block((0, 7), (1, 10), (2, 20))] * 3}
    for name, masks in (kidney | dict(instances)).items():
        for annotator, mask in enumerate(masks, start=1):
            path = case / "segmentations" / f"{name}_annotation-{annotator}.nii.gz"
            write_nifti(path, (mask / slope).astype(np.uint8), affine, slope)
